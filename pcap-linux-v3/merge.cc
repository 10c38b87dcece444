#include "merge.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <utility>

namespace pcapv3 {
namespace {

/// Enough for any number of ports whose blocks are in order, so that nothing is allocated later.
constexpr unsigned kStretchesAPort = 8;

std::uint64_t since(std::uint64_t ns, std::uint64_t less) { return ns > less ? ns - less : 0; }

std::uint64_t opened_ns(const tpacket_hdr_v1& header) {
  return std::uint64_t{__atomic_load_n(&header.ts_first_pkt.ts_sec, __ATOMIC_RELAXED)} *
             1'000'000'000 +
         __atomic_load_n(&header.ts_first_pkt.ts_nsec, __ATOMIC_RELAXED);
}

}  // namespace

Merge::~Merge() {
  std::free(heap_);
  std::free(stretches_);
}

bool Merge::reserve(unsigned stretches) {
  if (stretches <= capacity_) return true;
  const unsigned capacity = std::max(stretches, 2 * capacity_);
  void* heap = std::realloc(heap_, capacity * sizeof(Head));
  if (heap == nullptr) return false;
  heap_ = static_cast<Head*>(heap);
  void* memory = std::realloc(static_cast<void*>(stretches_), capacity * sizeof(Stretch));
  if (memory == nullptr) return false;
  stretches_ = static_cast<Stretch*>(memory);
  // The new ones go to the front of the list of the unused, of which there are none but these.
  for (unsigned i = capacity_; i < capacity; ++i) {
    new (&stretches_[i]) Stretch;
    stretches_[i].next_free = i + 1;
  }
  if (free_ != capacity_) stretches_[capacity - 1].next_free = std::exchange(free_, capacity_);
  capacity_ = capacity;
  return true;
}

bool Merge::add(unsigned port, Source& source) {
  ports_ = std::max(ports_, port + 1);
  if (!reserve(ports_ * kStretchesAPort)) return false;
  feeds_[port] = Feed();
  feeds_[port].source = &source;
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
  unsigned at = 0;
  for (;;) {
    unsigned child = 2 * at + 1;
    if (child >= size_) return;
    if (child + 1 < size_ && before(heap_[child + 1], heap_[child])) ++child;
    if (!before(heap_[child], heap_[at])) return;
    std::swap(heap_[at], heap_[child]);
    at = child;
  }
}

void Merge::push(unsigned port, unsigned block, const PacketCursor& packets,
                 std::uint64_t head_ns) {
  const unsigned index = free_;
  Stretch& stretch = stretches_[index];
  free_ = stretch.next_free;
  stretch.packets = packets;
  stretch.port = port;
  stretch.block = block;
  heap_[size_] = {head_ns, order_++, index};
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
  std::uint64_t newest = 0;
  while (!at.done() && (size_ < capacity_ || reserve(size_ + 1))) {
    const PacketCursor start = at;
    const std::uint64_t head = at.corrupt() ? newest : at.packet().time_ns();
    std::uint64_t last = head;
    // Where memory is short for one stretch more, what is left of the block stays as it is.
    const bool can_split = reserve(size_ + 2);
    while (!at.done() && !at.corrupt()) {
      const std::uint64_t time = at.packet().time_ns();
      if (time < last && can_split) break;
      last = time;
      newest = std::max(newest, time);
      at.next();
    }
    const bool whole = at.done() || start.corrupt();
    push(port, block, whole ? start : start.first(start.left() - at.left()), head);
    ++feed.stretches[slot];
    if (start.corrupt()) break;
  }
  feed.newest_ns[slot] = newest;
  feed.seen_ns = std::max(feed.seen_ns, newest);
}

bool Merge::next(std::uint64_t cap_ns, Run& run) {
  if (size_ == 0) return false;
  const Head& top = heap_[0];
  run.late = top.head_ns < passed_ns_;
  if (top.head_ns > cap_ns || (top.head_ns > complete_ns_ && !run.late)) return false;

  std::uint64_t until = std::min(cap_ns, complete_ns_);
  for (unsigned i = 1; i < std::min(size_, 3u); ++i) {
    // Of packets with the same stamp, those of the stretch that came first go first.
    const Head& other = heap_[i];
    until = std::min(
        until, before({other.head_ns, top.order, 0}, other) ? other.head_ns : other.head_ns - 1);
  }
  if (run.late) until = std::min(until, passed_ns_ - 1);
  run.until_ns = std::max(until, top.head_ns);
  Stretch& stretch = stretches_[top.stretch];
  run.port = stretch.port;
  run.ahead = stretch.block - feeds_[stretch.port].given_back;
  run.packets = &stretch.packets;
  return true;
}

void Merge::walked(std::uint64_t last_ns) {
  passed_ns_ = std::max(passed_ns_, last_ns);
  Head& top = heap_[0];
  Stretch& stretch = stretches_[top.stretch];
  if (!stretch.packets.done() && !stretch.packets.corrupt()) {
    top.head_ns = stretch.packets.packet().time_ns();
    sift_down();
    return;
  }
  Feed& feed = feeds_[stretch.port];
  --feed.stretches[stretch.block - feed.given_back];
  stretch.next_free = std::exchange(free_, top.stretch);
  top = heap_[--size_];
  sift_down();
}

void Merge::gave_back(unsigned port) {
  Feed& feed = feeds_[port];
  ++feed.given_back;
  --feed.open;
  for (unsigned slot = 0; slot < feed.open; ++slot) {
    feed.stretches[slot] = feed.stretches[slot + 1];
    feed.newest_ns[slot] = feed.newest_ns[slot + 1];
  }
}

// ---- What can still come ----

void Merge::look(std::uint64_t now_ns) {
  std::uint64_t complete = ~std::uint64_t{0};
  std::uint64_t forced = 0;
  for (unsigned port = 0; port < ports_; ++port) {
    Feed& feed = feeds_[port];
    if (feed.source == nullptr) continue;
    while (wants_block(feed) && feed.source->has(feed.open) && reserve(size_ + 1)) {
      open_block(port);
    }
    find_complete(feed, now_ns);
    complete = std::min(complete, feed.complete_ns);
    // Waiting must not make the ring overflow: what is open may go.
    feed.crowded = feed.open != 0 && feed.source->has(feed.source->block_count() / 2);
    if (feed.crowded) forced = std::max(forced, feed.newest_ns[0]);
  }
  if (complete == ~std::uint64_t{0}) complete = 0;
  complete_ns_ = std::max({complete_ns_, complete, forced});
}

/// Whether to open one more block: the first, the one behind it, and so on as far as packets out of
/// order can reach.
bool Merge::wants_block(const Feed& feed) {
  if (feed.open == feed.source->block_count()) return false;
  if (feed.open < 2) return true;
  return feed.open < kOpenBlocks && feed.seen_ns - feed.newest_ns[0] < kDisorderNs;
}

void Merge::find_complete(Feed& feed, std::uint64_t now_ns) {
  // Blocks behind the open ones hold nothing that is much older than these.
  std::uint64_t complete = since(feed.seen_ns, kDisorderNs);
  feed.empty = false;
  if (feed.open == feed.source->block_count() || feed.source->has(feed.open)) {
    // Not opened before the first one has been passed on.
    complete = std::max(complete, feed.newest_ns[0]);
  } else {
    const tpacket_hdr_v1& header = feed.source->header(feed.open);
    // A block that the kernel has not opened anew has its old number and count. It is opened before
    // a packet comes to it.
    const bool opened = __atomic_load_n(&header.seq_num, __ATOMIC_ACQUIRE) == feed.next_sequence;
    feed.empty = !opened || __atomic_load_n(&header.num_pkts, __ATOMIC_ACQUIRE) == 0;
    if (feed.empty) {
      complete = std::max(complete, since(now_ns, kDisorderNs));
    } else {
      const std::uint64_t at = opened_ns(header);
      // Read twice, because seconds and nanoseconds are written one after the other.
      if (at == opened_ns(header) && at <= now_ns) {
        complete = std::max(complete, since(at, kDisorderNs));
      }
      complete = std::max(complete, since(now_ns, window_ns_));
    }
  }
  feed.complete_ns = std::max(feed.complete_ns, complete);
}

std::uint64_t Merge::ripe_ns() const {
  if (size_ == 0) return 0;
  const std::uint64_t head = heap_[0].head_ns;
  std::uint64_t wait = 0;
  for (unsigned port = 0; port < ports_; ++port) {
    const Feed& feed = feeds_[port];
    if (feed.source == nullptr || feed.complete_ns >= head) continue;
    wait = std::max(wait, feed.empty ? kDisorderNs : window_ns_);
  }
  return head + wait;
}

}  // namespace pcapv3
