// SPDX-License-Identifier: BSD-3-Clause
#include "merge.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <utility>

namespace pcapv3 {
namespace {

/// Enough for any number of ports whose blocks are in order, so that no more is allocated later.
constexpr unsigned kPartsAPort = 8;

/// How many packets the scan takes at once: few enough that prefetching them does not have to wait
/// for room in the cache, and that the next ones can be fetched while these are walked.
constexpr std::uint32_t kScanAtOnce = 32;

/// A watermark later than any stamp.
constexpr Stamp kAlways = kEndOfTime - 1;

Stamp minus(Stamp stamp, std::uint64_t ns) {
  // This avoids a division where no second is passed.
  if ((stamp & 0xffffffff) >= ns) return stamp - ns;
  const std::uint64_t from = ns_of(stamp);
  return from > ns ? stamp_of(from - ns) : 0;
}

/// Returns the stamp of the block's last packet (af_packet.c: prb_close_block).
Stamp last_stamp(const tpacket_hdr_v1& header) {
  return Stamp{header.ts_last_pkt.ts_sec} << 32 | header.ts_last_pkt.ts_nsec;
}

/// Returns when the kernel opened the block, which may be happening just now.
Stamp opened(const tpacket_hdr_v1& header) {
  return Stamp{__atomic_load_n(&header.ts_first_pkt.ts_sec, __ATOMIC_RELAXED)} << 32 |
         __atomic_load_n(&header.ts_first_pkt.ts_nsec, __ATOMIC_RELAXED);
}

}  // namespace

Merge::~Merge() {
  std::free(heap_);
  std::free(parts_);
}

bool Merge::reserve_more(unsigned parts) {
  const unsigned capacity = std::max(parts, 2 * capacity_);
  void* heap = std::realloc(heap_, capacity * sizeof(Head));
  if (heap == nullptr) return false;
  heap_ = static_cast<Head*>(heap);
  void* memory = std::realloc(static_cast<void*>(parts_), capacity * sizeof(Part));
  if (memory == nullptr) return false;
  parts_ = static_cast<Part*>(memory);
  // The new ones go to the front of the list of unused parts.
  for (unsigned i = capacity_; i < capacity; ++i) {
    new (&parts_[i]) Part;
    parts_[i].next_free = i + 1;
  }
  if (free_ != capacity_) parts_[capacity - 1].next_free = std::exchange(free_, capacity_);
  capacity_ = capacity;
  return true;
}

bool Merge::add(unsigned port, RingPosition& position, Counters& counters,
                const UserlandFilter& filter) {
  ports_ = std::max(ports_, port + 1);
  if (!reserve(ports_ * kPartsAPort)) return false;
  inputs_[port] = Input();
  inputs_[port].position = &position;
  inputs_[port].counters = &counters;
  inputs_[port].filter = &filter;
  return true;
}

void Merge::remove(unsigned port) { inputs_[port] = Input(); }

// ---- Which is next ----

void Merge::sift_up(unsigned at) {
  while (at > 0) {
    const unsigned parent = (at - 1) / 2;
    if (!before(heap_[at], heap_[parent])) return;
    std::swap(heap_[at], heap_[parent]);
    at = parent;
  }
}

/// Moves the top to its place in the heap.
void Merge::sift_down() {
  const Head top = heap_[0];
  unsigned at = 0;
  for (;;) {
    unsigned child = 2 * at + 1;
    if (child >= size_) break;
    if (child + 1 < size_ && before(heap_[child + 1], heap_[child])) ++child;
    if (!before(heap_[child], top)) break;
    heap_[at] = heap_[child];
    at = child;
  }
  heap_[at] = top;
}

void Merge::push(unsigned port, unsigned block, Run packets, Stamp stamp) {
  const unsigned index = free_;
  Part& part = parts_[index];
  free_ = part.next_free;
  part.packets = packets;
  part.port = port;
  part.block = block;
  heap_[size_] = {stamp, order_++, index};
  sift_up(size_++);
}

/// Opens the first block of a port that is not yet open.
void Merge::open_block(Input& input) {
  const unsigned slot = input.open++;
  input.position->begin(slot);
  const tpacket_hdr_v1& header = input.position->header(slot);
  input.next_sequence = input.position->sequence(slot) + 1;
  input.runs[slot] = 1;
  input.newest[slot] = last_stamp(header);  // the scan adds what it finds
  if (input.scanned == slot) input.scan = input.position->packets(slot);
}

/// Scans all ports until no packet that is not yet scanned can be older than the heap's top.
void Merge::scan() {
  for (bool some = true; some;) {
    some = false;
    scanned_ = kEndOfTime;
    for (unsigned port = 0; port < ports_; ++port) {
      const Input& input = inputs_[port];
      if (input.scanned == input.open) continue;
      some |= scan(port);
      if (input.scanned != input.open) {
        scanned_ = std::min(scanned_, minus(input.reached, kDisorderNs));
      }
    }
    if (size_ != 0 && heap_[0].stamp <= scanned_) return;
  }
  // Everything is scanned, or memory for more is short: packets then go in the order in which they
  // lie.
  scanned_ = kEndOfTime;
}

/// Scans a port as far past the oldest known packet as necessary, and a little more. Returns false
/// if that was not necessary, or memory is short.
bool Merge::scan(unsigned port) {
  Input& input = inputs_[port];
  bool some = false;
  // This needs room for a run, and for what is corrupt behind it. If no packet is known, the next
  // one may be older than what has been reached, or corrupt.
  while (input.scanned != input.open &&
         (size_ == 0 || minus(input.reached, kDisorderNs) <= heap_[0].stamp) &&
         reserve(size_ + 2)) {
    scan_run(port);
    some = true;
  }
  return some;
}

/// Scans some packets, at most to the end of a run or of the block.
void Merge::scan_run(unsigned port) {
  Input& input = inputs_[port];
  const unsigned slot = input.scanned;
  const unsigned block = input.given_back + slot;
  PacketCursor& scan = input.scan;
  if (scan.has_packet()) {
    PacketCursor at = scan;
    const Stamp first = at.packet().stamp();
    const Stamp last = at.extend(kScanAtOnce);
    if (input.growing != kNoPart && first >= input.last) {
      parts_[input.growing].packets.grow(scan.up_to(at).left());
    } else {
      input.growing = free_;
      push(port, block, scan.up_to(at), first);
      ++input.runs[slot];
    }
    scan = at;
    input.last = last;
    input.newest[slot] = std::max(input.newest[slot], last);
    // A packet from the future says nothing about those behind it.
    input.reached = std::max(input.reached, std::min(last, now_));
    if (scan.has_packet()) return;
  }
  if (scan.corrupt()) {
    input.corrupt[slot] = scan;
    push(port, block, Run(), input.newest[slot]);
  } else {
    --input.runs[slot];
  }
  input.growing = kNoPart;
  if (++input.scanned != input.open) scan = input.position->packets(input.scanned);
}

/// Called when the front's first packet, stamped `walked`, was walked past, and the front has no
/// other packet, or one that may not be the oldest.
void Merge::change_top(Stamp walked) {
  if (walked < passed_) {
    ++counters_->late;
  } else {
    passed_ = walked;
  }
  commit_top();
  find_top();
}

/// Writes the walk's place back to the heap.
void Merge::commit_top() {
  if (!walking_) return;
  walking_ = false;
  if (front_.done()) {
    pop_top();
  } else {
    parts_[heap_[0].part].packets = std::exchange(front_, Run());
    heap_[0].stamp = stamp_;
    sift_down();
  }
}

void Merge::pop_top() {
  const unsigned index = heap_[0].part;
  Part& part = parts_[index];
  Input& input = inputs_[part.port];
  --input.runs[part.block - input.given_back];
  if (input.growing == index) input.growing = kNoPart;
  part.next_free = std::exchange(free_, index);
  heap_[0] = heap_[--size_];
  sift_down();
}

/// Finds what is next in the heap.
void Merge::find_top() {
  if (size_ == 0 || heap_[0].stamp > limit_) {
    if (size_ == 0 || heap_[0].stamp > scanned_) scan();
    find_limit();
  }
  corrupt_ = false;
  front_ = Run();
  if (size_ == 0 || heap_[0].stamp > limit_) return;
  const Head& top = heap_[0];
  const Part& part = parts_[top.part];
  corrupt_ = part.packets.done();
  if (corrupt_) return;
  walking_ = true;
  front_ = part.packets;
  stamp_ = top.stamp;
  counters_ = inputs_[part.port].counters;
  filter_ = inputs_[part.port].filter;
  ahead_ = inputs_[part.port].scan.fetched();
  rival_ = limit_ + 1;
  if (size_ > 1) rival_ = std::min(rival_, heap_[1].stamp);
  if (size_ > 2) rival_ = std::min(rival_, heap_[2].stamp);
  if (stamp_ < passed_) rival_ = 0;  // late: each is counted
}

/// Finds the stamp up to which packets may go: nothing waits because of a packet from the future.
void Merge::find_limit() {
  limit_ = std::min(watermark_, scanned_);
  if (size_ != 0 && heap_[0].stamp > horizon_) limit_ = std::max(limit_, heap_[0].stamp);
}

Merge::Corruption Merge::drop_corrupt() {
  const Part& part = parts_[heap_[0].part];
  const Input& input = inputs_[part.port];
  const unsigned slot = part.block - input.given_back;
  const Corruption corruption{part.port, slot, input.corrupt[slot]};
  pop_top();
  find_top();
  return corruption;
}

void Merge::gave_back(unsigned port) {
  Input& input = inputs_[port];
  ++input.given_back;
  input.gone = std::max(input.gone, input.newest[0]);
  if (input.position->begun(0) != 0) input.next_sequence = 0;  // the same block comes once more
  --input.open;
  --input.scanned;
  for (unsigned slot = 0; slot < input.open; ++slot) {
    input.runs[slot] = input.runs[slot + 1];
    input.newest[slot] = input.newest[slot + 1];
    input.corrupt[slot] = input.corrupt[slot + 1];
  }
}

void Merge::bypassed(unsigned port) {
  Input& input = inputs_[port];
  const Stamp last = last_stamp(input.position->header(0));
  input.next_sequence = input.position->sequence(0) + 1;
  input.gone = std::max(input.gone, last);
  passed_ = std::max(passed_, last);
}

// ---- What can still come ----

void Merge::open(unsigned port) {
  Input& input = inputs_[port];
  if (input.position == nullptr) return;
  const unsigned most = std::min(kOpenBlocks, input.position->block_count());
  while (input.open < most && input.position->has(input.open)) {
    open_block(input);
    scanned_ = 0;
  }
}

void Merge::settle(std::uint64_t now_ns) {
  commit_top();
  horizon_ = stamp_of(now_ns + window_ns_);
  if (horizon_ < now_) {
    // The clock was set back: what was known about times is void.
    for (Input& input : inputs_) input.watermark = input.reached = input.gone = 0;
    watermark_ = passed_ = 0;
  }
  now_ = stamp_of(now_ns);
  if (passed_ > horizon_) passed_ = now_;  // a packet from the future was passed
  Stamp watermark = kEndOfTime;
  Stamp forced = 0;
  for (unsigned port = 0; port < ports_; ++port) {
    Input& input = inputs_[port];
    if (input.position == nullptr) continue;
    find_watermark(input, now_ns);
    watermark = std::min(watermark, input.watermark);
    // Waiting must not make the ring overflow: when half of it is full, the open blocks may go.
    if (input.open != 0 && !one_interface_ &&
        input.position->has(input.position->block_count() / 2)) {
      forced = std::max(forced, input.newest[0]);
    }
  }
  if (watermark == kEndOfTime) watermark = 0;
  watermark_ = one_interface_ ? watermark : std::max({watermark_, watermark, forced});
  find_limit();
  find_top();
}

void Merge::find_watermark(Input& input, std::uint64_t now_ns) {
  Stamp watermark = 0;
  const Stamp now = stamp_of(now_ns);
  input.empty = input.position->ends_before(input.open);
  if (input.empty) {
    input.watermark = kAlways;
    return;
  }
  if (input.open == input.position->block_count() || input.position->has(input.open) ||
      input.position->is_part_before(input.open)) {
    // The next block is opened once the first open one has been delivered, which therefore must not
    // wait.
    watermark = one_interface_ ? newest(input) : input.newest[0];
  } else {
    const tpacket_hdr_v1& header = input.position->header(input.open);
    // A block that the kernel has not opened anew has its old number and count. It is opened before
    // a packet comes to it.
    const bool anew =
        input.next_sequence == 0 || input.position->sequence(input.open) == input.next_sequence;
    input.empty = !anew || __atomic_load_n(&header.num_pkts, __ATOMIC_ACQUIRE) <=
                               input.position->begun(input.open);
    if (input.empty) {
      if (draining_ && !input.position->has_end()) {
        input.watermark = kAlways;
        return;
      }
      watermark = minus(now, disorder_ns());
    } else if (one_interface_) {
      watermark = newest(input);
    } else {
      const Stamp at = opened(header);
      // Read twice, because seconds and nanoseconds are written one after the other.
      if (at == opened(header) && at <= now) watermark = minus(at, kDisorderNs);
      watermark = std::max(watermark, minus(now, window_ns_));
    }
  }
  // A packet from the future says nothing about what can still come.
  watermark = std::min(watermark, now);
  input.watermark = one_interface_ ? watermark : std::max(input.watermark, watermark);
}

/// Returns the newest stamp that is known in the blocks of `input`, those before included.
Stamp Merge::newest(const Input& input) {
  Stamp newest = input.gone;
  for (unsigned slot = 0; slot < input.open; ++slot) newest = std::max(newest, input.newest[slot]);
  return newest;
}

std::uint64_t Merge::deadline_ns() const {
  if (size_ == 0) return 0;
  const Stamp head = oldest();
  std::uint64_t wait = 0;
  for (unsigned port = 0; port < ports_; ++port) {
    const Input& input = inputs_[port];
    if (input.position == nullptr || input.watermark >= head) continue;
    wait = std::max(wait, input.empty ? disorder_ns() : window_ns_);
  }
  return ns_of(head) + wait;
}

}  // namespace pcapv3
