#include "merge.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <utility>

namespace pcapv3 {
namespace {

/// Enough for any number of ports whose blocks are in order, so that nothing is allocated later.
constexpr unsigned kPartsAPort = 8;

Stamp minus(Stamp stamp, std::uint64_t ns) {
  const std::uint64_t from = ns_of(stamp);
  return from > ns ? stamp_of(from - ns) : 0;
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

bool Merge::reserve(unsigned parts) {
  if (parts <= capacity_) return true;
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

bool Merge::add(unsigned port, Source& source, Counters& counters, const Judge& judge) {
  ports_ = std::max(ports_, port + 1);
  if (!reserve(ports_ * kPartsAPort)) return false;
  feeds_[port] = Feed();
  feeds_[port].source = &source;
  feeds_[port].counters = &counters;
  feeds_[port].judge = &judge;
  find_top();  // which may have moved
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

void Merge::push(unsigned port, unsigned block, Stretch packets, Stamp stamp) {
  const unsigned index = free_;
  Part& part = parts_[index];
  free_ = part.next_free;
  part.packets = packets;
  part.counters = feeds_[port].counters;
  part.judge = feeds_[port].judge;
  part.port = port;
  part.block = block;
  heap_[size_] = {stamp, order_++, index};
  sift_up(size_++);
}

/// Opens the first block of a port that is not open yet: finds the stretches in it.
void Merge::open_block(unsigned port) {
  Feed& feed = feeds_[port];
  const unsigned slot = feed.open++;
  const unsigned block = feed.given_back + slot;
  PacketCursor at = feed.source->packets(slot);
  feed.next_sequence = feed.source->header(slot).seq_num + 1;
  feed.stretches[slot] = 0;
  Stamp newest = 0;
  // Room for a stretch, and for what is corrupt behind it.
  while (!at.done() && (size_ < capacity_ || reserve(size_ + 1))) {
    const PacketCursor start = at;
    const Stamp first = at.corrupt() ? newest : at.packet().stamp();
    // Where memory is short for one stretch more, what is left of the block stays as it is.
    const bool can_split = reserve(size_ + 2);
    Stamp last = first;
    while (!at.done() && !at.corrupt()) {
      const Stamp stamp = at.packet().stamp();
      if (stamp < last && can_split) break;
      last = stamp;
      newest = std::max(newest, stamp);
      at.next();
    }
    push(port, block, start.up_to(at), first);
    ++feed.stretches[slot];
    if (start.corrupt()) break;
  }
  feed.corrupt[slot] = at;
  feed.newest[slot] = newest;
  feed.seen = std::max(feed.seen, std::min(newest, stamp_of(now_ns_)));
}

/// The top's first packet is another one, or it has none any more.
void Merge::change_top() {
  Part& part = *top_;
  if (part.packets.done()) {
    Feed& feed = feeds_[part.port];
    --feed.stretches[part.block - feed.given_back];
    part.next_free = std::exchange(free_, heap_[0].part);
    heap_[0] = heap_[--size_];
  }
  sift_down();
  find_top();
}

void Merge::find_top() {
  const Stamp most = std::min(cap_, complete_);
  const bool from_future = size_ != 0 && heap_[0].stamp > horizon_ && heap_[0].stamp <= cap_;
  done_ = size_ == 0 || (heap_[0].stamp > most && !from_future);
  corrupt_ = false;
  if (done_) return;
  top_ = &parts_[heap_[0].part];
  corrupt_ = top_->packets.done();
  rival_ = from_future ? heap_[0].stamp + 1 : most + 1;
  for (unsigned i = 1; i < std::min(size_, 3u); ++i) rival_ = std::min(rival_, heap_[i].stamp);
}

Merge::Corruption Merge::drop_corrupt() {
  const Feed& feed = feeds_[top_->port];
  const unsigned slot = top_->block - feed.given_back;
  const Corruption corruption{top_->port, slot, feed.corrupt[slot]};
  change_top();
  return corruption;
}

void Merge::gave_back(unsigned port) {
  Feed& feed = feeds_[port];
  ++feed.given_back;
  --feed.open;
  for (unsigned slot = 0; slot < feed.open; ++slot) {
    feed.stretches[slot] = feed.stretches[slot + 1];
    feed.newest[slot] = feed.newest[slot + 1];
    feed.corrupt[slot] = feed.corrupt[slot + 1];
  }
}

// ---- What can still come ----

void Merge::look(std::uint64_t now_ns) {
  if (now_ns + window_ns_ < now_ns_) {
    // The clock was set back: what was known of times is worth nothing.
    for (Feed& feed : feeds_) feed.seen = feed.complete = 0;
    complete_ = passed_ = 0;
  }
  now_ns_ = now_ns;
  horizon_ = stamp_of(now_ns + window_ns_);
  if (passed_ > horizon_) passed_ = stamp_of(now_ns);  // by a packet from the future
  Stamp complete = kEndOfTime;
  Stamp forced = 0;
  for (unsigned port = 0; port < ports_; ++port) {
    Feed& feed = feeds_[port];
    if (feed.source == nullptr) continue;
    while (wants_block(feed) && feed.source->has(feed.open) && reserve(size_ + 1)) {
      open_block(port);
    }
    find_complete(feed, now_ns);
    complete = std::min(complete, feed.complete);
    // Waiting must not make the ring overflow: when half of it is full, what is open may go.
    if (feed.open != 0 && feed.source->has(feed.source->block_count() / 2)) {
      forced = std::max(forced, feed.newest[0]);
    }
  }
  if (complete == kEndOfTime) complete = 0;
  complete_ = std::max({complete_, complete, forced});
  find_top();
}

/// Whether to open one more block: the first, the one behind it, and so on as far as packets out of
/// order can reach.
bool Merge::wants_block(const Feed& feed) {
  if (feed.open == feed.source->block_count()) return false;
  if (feed.open < 2) return true;
  return feed.open < kOpenBlocks && minus(feed.seen, kDisorderNs) < feed.newest[0];
}

void Merge::find_complete(Feed& feed, std::uint64_t now_ns) {
  // Blocks behind the open ones hold nothing that is much older than these.
  Stamp complete = minus(feed.seen, kDisorderNs);
  const Stamp now = stamp_of(now_ns);
  feed.empty = false;
  if (feed.open == feed.source->block_count() || feed.source->has(feed.open)) {
    // Not opened before the first one has been passed on.
    complete = std::max(complete, feed.newest[0]);
  } else {
    const tpacket_hdr_v1& header = feed.source->header(feed.open);
    // A block that the kernel has not opened anew has its old number and count. It is opened before
    // a packet comes to it.
    const bool anew = feed.next_sequence == 0 ||
                      __atomic_load_n(&header.seq_num, __ATOMIC_ACQUIRE) == feed.next_sequence;
    feed.empty = !anew || __atomic_load_n(&header.num_pkts, __ATOMIC_ACQUIRE) == 0;
    if (feed.empty) {
      complete = std::max(complete, minus(now, kDisorderNs));
    } else {
      const Stamp at = opened(header);
      // Read twice, because seconds and nanoseconds are written one after the other.
      if (at == opened(header) && at <= now) {
        complete = std::max(complete, minus(at, kDisorderNs));
      }
      complete = std::max(complete, minus(now, window_ns_));
    }
  }
  // A packet from the future tells nothing of what can still come.
  feed.complete = std::max(feed.complete, std::min(complete, now));
}

std::uint64_t Merge::ripe_ns() const {
  if (size_ == 0) return 0;
  const Stamp head = heap_[0].stamp;
  std::uint64_t wait = 0;
  for (unsigned port = 0; port < ports_; ++port) {
    const Feed& feed = feeds_[port];
    if (feed.source == nullptr || feed.complete >= head) continue;
    wait = std::max(wait, feed.empty ? kDisorderNs : window_ns_);
  }
  return ns_of(head) + wait;
}

}  // namespace pcapv3
