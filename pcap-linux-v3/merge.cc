#include "merge.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <utility>

namespace pcapv3 {
namespace {

/// Enough for any number of ports whose blocks are in order, so that nothing is allocated later.
constexpr unsigned kPartsAPort = 8;

/// How many packets the scan takes at once: few enough that what they bring into the cache does not
/// have to wait for room there, and that while they are walked the next can come.
constexpr std::uint32_t kScanAtOnce = 32;

/// Later than any stamp.
constexpr Stamp kAlways = kEndOfTime - 1;

Stamp minus(Stamp stamp, std::uint64_t ns) {
  // No division, where no second is passed.
  if ((stamp & 0xffffffff) >= ns) return stamp - ns;
  const std::uint64_t from = ns_of(stamp);
  return from > ns ? stamp_of(from - ns) : 0;
}

/// Of the last packet (af_packet.c: prb_close_block).
Stamp last_stamp(const tpacket_hdr_v1& header) {
  return Stamp{header.ts_last_pkt.ts_sec} << 32 | header.ts_last_pkt.ts_nsec;
}

/// When the kernel opened the block, which may be just now.
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
  // The new ones go to the front of the list of the unused.
  for (unsigned i = capacity_; i < capacity; ++i) {
    new (&parts_[i]) Part;
    parts_[i].next_free = i + 1;
  }
  if (free_ != capacity_) parts_[capacity - 1].next_free = std::exchange(free_, capacity_);
  capacity_ = capacity;
  return true;
}

bool Merge::add(unsigned port, RingPosition& position, Counters& counters, const UserlandFilter& filter) {
  ports_ = std::max(ports_, port + 1);
  if (!reserve(ports_ * kPartsAPort)) return false;
  feeds_[port] = Feed();
  feeds_[port].position = &position;
  feeds_[port].counters = &counters;
  feeds_[port].filter = &filter;
  return true;
}

void Merge::remove(unsigned port) { feeds_[port] = Feed(); }

// ---- Which is next ----

void Merge::sift_up(unsigned at) {
  while (at > 0) {
    const unsigned parent = (at - 1) / 2;
    if (!before(heap_[at], heap_[parent])) return;
    std::swap(heap_[at], heap_[parent]);
    at = parent;
  }
}

/// Puts the top where it belongs.
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

/// Opens the first block of a port that is not open yet.
void Merge::open_block(Feed& feed) {
  const unsigned slot = feed.open++;
  feed.position->begin(slot);
  const tpacket_hdr_v1& header = feed.position->header(slot);
  feed.next_sequence = header.seq_num + 1;
  feed.runs[slot] = 1;
  feed.newest[slot] = last_stamp(header);  // what the scan finds is added
  if (feed.scanned == slot) feed.scan = feed.position->packets(slot);
}

/// Scans all ports until no packet that is not scanned yet can be older than the heap's top.
void Merge::scan() {
  for (bool some = true; some;) {
    some = false;
    scanned_ = kEndOfTime;
    for (unsigned port = 0; port < ports_; ++port) {
      const Feed& feed = feeds_[port];
      if (feed.scanned == feed.open) continue;
      some |= scan(port);
      if (feed.scanned != feed.open) {
        scanned_ = std::min(scanned_, minus(feed.reached, kDisorderNs));
      }
    }
    if (size_ != 0 && heap_[0].stamp <= scanned_) return;
  }
  // All is scanned, or memory is short for more: packets go on in the order in which they are.
  scanned_ = kEndOfTime;
}

/// Scans a port as far past the oldest packet that is known as must be, and a little more. False if
/// there was no need, or no memory.
bool Merge::scan(unsigned port) {
  Feed& feed = feeds_[port];
  bool some = false;
  // Room for a run, and for what is corrupt behind it.
  // If no packet is known, what is next may be older than what has been reached, or corrupt.
  while (feed.scanned != feed.open &&
         (size_ == 0 || minus(feed.reached, kDisorderNs) <= heap_[0].stamp) && reserve(size_ + 2)) {
    scan_run(port);
    some = true;
  }
  return some;
}

/// Scans some packets, to the end of a run or of the block at most.
void Merge::scan_run(unsigned port) {
  Feed& feed = feeds_[port];
  const unsigned slot = feed.scanned;
  const unsigned block = feed.given_back + slot;
  PacketCursor& scan = feed.scan;
  if (scan.has_packet()) {
    PacketCursor at = scan;
    const Stamp first = at.packet().stamp();
    const Stamp last = at.extend(kScanAtOnce);
    if (feed.growing != kNoPart && first >= feed.last) {
      parts_[feed.growing].packets.grow(scan.up_to(at).left());
    } else {
      feed.growing = free_;
      push(port, block, scan.up_to(at), first);
      ++feed.runs[slot];
    }
    scan = at;
    feed.last = last;
    feed.newest[slot] = std::max(feed.newest[slot], last);
    // A packet from the future tells nothing of those behind it.
    feed.reached = std::max(feed.reached, std::min(last, now_));
    if (scan.has_packet()) return;
  }
  if (scan.corrupt()) {
    feed.corrupt[slot] = scan;
    push(port, block, Run(), feed.newest[slot]);
  } else {
    --feed.runs[slot];
  }
  feed.growing = kNoPart;
  if (++feed.scanned != feed.open) scan = feed.position->packets(feed.scanned);
}

/// The front's first packet, stamped `walked`, was walked past; and it has no other, or one that
/// may not be the oldest.
void Merge::change_top(Stamp walked) {
  if (walked < passed_) {
    ++counters_->late;
  } else {
    passed_ = walked;
  }
  commit_top();
  find_top();
}

/// Tells the heap where the walk has come to.
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
  Feed& feed = feeds_[part.port];
  --feed.runs[part.block - feed.given_back];
  if (feed.growing == index) feed.growing = kNoPart;
  part.next_free = std::exchange(free_, index);
  heap_[0] = heap_[--size_];
  sift_down();
}

/// What is next, of what is in the heap.
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
  counters_ = feeds_[part.port].counters;
  filter_ = feeds_[part.port].filter;
  ahead_ = feeds_[part.port].scan.fetched();
  rival_ = limit_ + 1;
  if (size_ > 1) rival_ = std::min(rival_, heap_[1].stamp);
  if (size_ > 2) rival_ = std::min(rival_, heap_[2].stamp);
  if (stamp_ < passed_) rival_ = 0;  // late: each is counted
}

/// Up to when packets may go: a packet from the future makes nobody wait.
void Merge::find_limit() {
  limit_ = std::min(complete_, scanned_);
  if (size_ != 0 && heap_[0].stamp > horizon_) limit_ = std::max(limit_, heap_[0].stamp);
}

Merge::Corruption Merge::drop_corrupt() {
  const Part& part = parts_[heap_[0].part];
  const Feed& feed = feeds_[part.port];
  const unsigned slot = part.block - feed.given_back;
  const Corruption corruption{part.port, slot, feed.corrupt[slot]};
  pop_top();
  find_top();
  return corruption;
}

void Merge::gave_back(unsigned port) {
  Feed& feed = feeds_[port];
  ++feed.given_back;
  if (feed.position->begun(0) != 0) feed.next_sequence = 0;  // the same block comes once more
  --feed.open;
  --feed.scanned;
  for (unsigned slot = 0; slot < feed.open; ++slot) {
    feed.runs[slot] = feed.runs[slot + 1];
    feed.newest[slot] = feed.newest[slot + 1];
    feed.corrupt[slot] = feed.corrupt[slot + 1];
  }
}

void Merge::bypassed(unsigned port, const tpacket_hdr_v1& header) {
  feeds_[port].next_sequence = header.seq_num + 1;
  passed_ = std::max(passed_, last_stamp(header));
}

// ---- What can still come ----

void Merge::look(std::uint64_t now_ns) {
  commit_top();
  horizon_ = stamp_of(now_ns + window_ns_);
  if (horizon_ < now_) {
    // The clock was set back: what was known of times is worth nothing.
    for (Feed& feed : feeds_) feed.complete = feed.reached = 0;
    complete_ = passed_ = 0;
  }
  now_ = stamp_of(now_ns);
  if (passed_ > horizon_) passed_ = now_;  // by a packet from the future
  Stamp complete = kEndOfTime;
  Stamp forced = 0;
  for (unsigned port = 0; port < ports_; ++port) {
    Feed& feed = feeds_[port];
    if (feed.position == nullptr) continue;
    const unsigned most = std::min(kOpenBlocks, feed.position->block_count());
    while (feed.open < most && feed.position->has(feed.open)) {
      open_block(feed);
      scanned_ = 0;
    }
    find_complete(feed, now_ns);
    complete = std::min(complete, feed.complete);
    // Waiting must not make the ring overflow: when half of it is full, what is open may go.
    if (feed.open != 0 && !one_interface_ && feed.position->has(feed.position->block_count() / 2)) {
      forced = std::max(forced, feed.newest[0]);
    }
  }
  if (complete == kEndOfTime) complete = 0;
  complete_ = std::max({complete_, complete, forced});
  find_limit();
  find_top();
}

void Merge::find_complete(Feed& feed, std::uint64_t now_ns) {
  Stamp complete = 0;
  const Stamp now = stamp_of(now_ns);
  feed.empty = feed.position->ends_before(feed.open);
  if (feed.empty) {
    feed.complete = kAlways;
    return;
  }
  if (feed.open == feed.position->block_count() || feed.position->has(feed.open) ||
      feed.position->is_part_before(feed.open)) {
    // It is opened when the first one has been passed on, which so must not wait.
    complete = feed.newest[0];
  } else {
    const tpacket_hdr_v1& header = feed.position->header(feed.open);
    // A block that the kernel has not opened anew has its old number and count. It is opened before
    // a packet comes to it.
    const bool anew = feed.next_sequence == 0 ||
                      __atomic_load_n(&header.seq_num, __ATOMIC_ACQUIRE) == feed.next_sequence;
    feed.empty = !anew || __atomic_load_n(&header.num_pkts, __ATOMIC_ACQUIRE) <=
                              feed.position->begun(feed.open);
    if (feed.empty) {
      if (draining_ && !feed.position->has_end()) {
        feed.complete = kAlways;
        return;
      }
      complete = minus(now, disorder_ns());
    } else {
      const Stamp at = opened(header);
      // Read twice, because seconds and nanoseconds are written one after the other.
      if (at == opened(header) && at <= now) {
        complete = minus(at, disorder_ns());
      }
      if (!one_interface_) complete = std::max(complete, minus(now, window_ns_));
    }
  }
  // A packet from the future tells nothing of what can still come.
  feed.complete = std::max(feed.complete, std::min(complete, now));
}

std::uint64_t Merge::ripe_ns() const {
  if (size_ == 0) return 0;
  const Stamp head = oldest();
  std::uint64_t wait = 0;
  for (unsigned port = 0; port < ports_; ++port) {
    const Feed& feed = feeds_[port];
    if (feed.position == nullptr || feed.complete >= head) continue;
    wait = std::max(wait, feed.empty ? disorder_ns() : window_ns_);
  }
  return ns_of(head) + wait;
}

}  // namespace pcapv3
