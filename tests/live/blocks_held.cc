// SPDX-License-Identifier: BSD-3-Clause
// Blocks given back in any order, by any thread, after any time, and after the handle was closed;
// and what was lost meanwhile.
#include <net/if.h>
#include <pcap/linux-v3.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <fstream>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "blocks.h"
#include "ports.h"

namespace pcapv3::live {
namespace {

// ---- Given back in any order

/// How many frames tests under load send: fewer where each takes long.
unsigned load() { return 100'000 / run_arguments().slowdown; }

/// Decoder threads that walk blocks, keep some of them, and give them back in an order of their
/// own.
class Decoders {
 public:
  enum class Order { kReversed, kRandom };

  Decoders(unsigned threads, unsigned kept, Order order, std::size_t frames)
      : kept_(kept), order_(order), came_(frames) {
    for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this, i] { run(i); });
  }
  ~Decoders() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    more_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  Decoders(const Decoders&) = delete;
  Decoders& operator=(const Decoders&) = delete;

  void hand_over(Block block) {
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(std::move(block));
    }
    more_.notify_one();
  }
  std::uint64_t walked() const { return walked_.load(); }

 private:
  static void mark(u_char* pointer, const pcap_pkthdr* header, const u_char* data) {
    auto* self = reinterpret_cast<Decoders*>(pointer);
    CHECK(header->caplen == 100 && read32(data + 14) == kMagic, "no frame of ours");
    const std::uint32_t number = read32(data + 18);
    CHECK(number < self->came_.size(), "frame %u", number);
    CHECK(self->came_[number].exchange(true) == false, "frame %u came twice", number);
    ++self->walked_;
  }

  void run(unsigned seed) {
    std::minstd_rand random(seed);
    std::vector<Block> kept;
    for (;;) {
      Block block;
      {
        std::unique_lock lock(mutex_);
        more_.wait(lock, [&] { return over_ || !queue_.empty(); });
        if (queue_.empty()) return;
        block = std::move(queue_.front());
        queue_.pop_front();
      }
      pcap_v3_dispatch_block(block.get(), -1, mark, reinterpret_cast<u_char*>(this));
      kept.push_back(std::move(block));
      if (kept.size() < kept_) continue;
      if (order_ == Order::kRandom) std::shuffle(kept.begin(), kept.end(), random);
      while (!kept.empty()) kept.pop_back();
    }
  }

  const unsigned kept_;
  const Order order_;
  std::vector<std::atomic<bool>> came_;
  std::atomic<std::uint64_t> walked_ = 0;
  std::mutex mutex_;
  std::condition_variable more_;
  std::deque<Block> queue_;
  bool over_ = false;
  std::vector<std::thread> threads_;
};

void under_load(Decoders::Order order) {
  const std::uint32_t frames = load();
  setenv("PCAPV3_BLOCK", "128K", 1);
  const Handle handle = open_capture({.timeout_ms = 2, .buffer_bytes = 8 << 20});
  Decoders decoders(3, 4, order, frames);
  std::thread traffic([&] {
    const Sender sender = remote();
    for (std::uint32_t sent = 0; sent < frames; ++sent) {
      // Less than the ring holds besides the blocks that are kept, however few packets are in each,
      // and see Witness.
      while (sent - decoders.walked() > 900) std::this_thread::yield();
      sender.send({.number = sent});
    }
  });
  while (decoders.walked() < frames) {
    Block block = take(handle.get(), 10);
    if (block != nullptr) decoders.hand_over(std::move(block));
  }
  traffic.join();
  const pcap_stat stats = stats_of(handle.get());
  CHECK(stats.ps_recv == frames && stats.ps_drop == 0, "%u received, %u dropped", stats.ps_recv,
        stats.ps_drop);
}

void reversed() { under_load(Decoders::Order::kReversed); }

void in_random_order() { under_load(Decoders::Order::kRandom); }

void held_for_long() {
  setenv("PCAPV3_BLOCK", "128K", 1);
  setenv("PCAPV3_BUFFER", "4M", 1);  // it does not grow
  Witness witness;
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  const Sender sender = remote();
  witness.send(sender, 0, 1);
  Block held = take(p);
  // All others go round, until the ring comes to the one that is held.
  std::uint32_t next = 1;
  Packets packets;
  std::uint64_t sequence = info(held).sequence;
  std::uint64_t most = 0;
  while (stats_of(p).ps_drop == 0) {
    witness.send(sender, next, 100, 1400);
    next += 100;
    while (const Block block = take(p, 0)) {
      CHECK(info(block).sequence == sequence + 1, "a gap in the numbers");
      ++sequence;
      ++most;
      walk(block.get(), packets);
    }
  }
  CHECK(most >= 31, "only %u blocks", static_cast<unsigned>(most));
  const std::uint32_t before_gap = number_of(packets.back().bytes);
  check_sequence(packets, 1, before_gap, 1, 1400);
  CHECK(take(p, 20) == nullptr, "a block came, and it was out");
  Packets first;
  walk(held.get(), first);
  check_sequence(first, 0, 0);
  held.reset();
  sender.send(next, 10, 1400);
  const Block after = take(p);
  CHECK(info(after).lost != 0, "nothing is said to be lost");
  CHECK(info(after).sequence == sequence + 1, "a gap in the numbers");
  packets.clear();
  walk(after.get(), packets);
  CHECK(number_of(packets[0].bytes) > before_gap, "frame %u once more",
        number_of(packets[0].bytes));
}

void lost_is_told() {
  // Also when the kernel's word for it was cleared by asking for statistics.
  for (const bool asked : {false, true}) {
    setenv("PCAPV3_BLOCK", "128K", 1);
    Witness witness;
    const Handle handle = open_capture({.buffer_bytes = 4 << 20});
    pcap_t* p = handle.get();
    const Sender sender = remote();
    std::uint32_t sent = 10'000;
    witness.send(sender, 0, sent, 1400);
    if (asked) CHECK(stats_of(p).ps_drop > 0, "nothing was dropped");
    Packets packets;
    std::uint32_t due = 0;
    unsigned gaps = 0;
    const auto read_on = [&](std::uint32_t last) {
      while (packets.empty() || number_of(packets.back().bytes) != last) {
        const Block block = take(p);
        packets.clear();
        walk(block.get(), packets);
        const std::uint32_t first = number_of(packets[0].bytes);
        CHECK(first == due || info(block).lost != 0, "lost before frame %u, not told", first);
        CHECK(due != 0 || info(block).lost == 0, "lost before the first");
        gaps += first != due;
        due = number_of(packets.back().bytes) + 1;
      }
    };
    // More than one: the kernel closes a block by time, too, and needs another then.
    for (int i = 0; i < 8; ++i) walk(take(p).get(), packets);
    due = number_of(packets.back().bytes) + 1;
    sender.send(sent, 10, 1400);
    read_on(sent + 9);
    CHECK(gaps == 1, "%u gaps", gaps);
    CHECK(stats_of(p).ps_drop > 0, "nothing was dropped");
    // And it is no longer so when no more is lost.
    sent += 10;
    for (int i = 0; i < 3; ++i, sent += 10) {
      sender.send(sent, 10, 1400);
      read_on(sent + 9);
    }
    sender.send(sent, 1, 1400);
    CHECK(info(take(p)).lost == 0, "still lost");
  }
}

/// Of two gaps in one ring each is told, though the kernel was asked for its counts in between.
void two_losses_are_told() {
  setenv("PCAPV3_BLOCK", "128K", 1);
  Witness witness;
  const Handle handle = open_capture({.timeout_ms = 2000, .buffer_bytes = 1 << 20});
  pcap_t* p = handle.get();
  const Sender sender = remote();
  std::uint32_t due = 0;
  unsigned gaps = 0;
  const auto read_block = [&] {
    const Block block = take(p);
    Packets packets;
    walk(block.get(), packets);
    CHECK(number_of(packets[0].bytes) == due || info(block).lost != 0,
          "lost before frame %u, not told", number_of(packets[0].bytes));
    gaps += number_of(packets[0].bytes) != due;
    due = number_of(packets.back().bytes) + 1;
  };
  witness.send(sender, 0, 3000, 1400);
  const unsigned dropped = stats_of(p).ps_drop;
  CHECK(dropped > 0, "nothing was dropped");
  read_block();
  witness.send(sender, 3000, 300, 1400);  // fills the block that is free, and more is dropped
  CHECK(stats_of(p).ps_drop > dropped, "nothing more was dropped");
  while (due < 3000) read_block();
  witness.send(sender, 3300, 5, 1400);
  while (due < 3305) read_block();
  CHECK(gaps == 2, "%u gaps", gaps);
}

// ---- Closing

/// Packet sockets that an interface has, or that have none.
unsigned sockets_on(unsigned index) {
  std::ifstream list("/proc/self/net/packet");
  std::string line;
  std::getline(list, line);
  unsigned count = 0;
  while (std::getline(list, line)) {
    unsigned interface = 0;
    std::sscanf(line.c_str(), "%*x %*d %*d %*x %u", &interface);
    count += interface == index;
  }
  return count;
}

void closed_before() {
  const Sender sender = remote();
  const Sender other("see0");  // a packet socket, too
  const unsigned see0 = if_nametoindex("see0");
  const unsigned sockets = sockets_on(see0);
  const std::size_t descriptors = count_descriptors();
  Handle handle = create();
  CHECK(pcap_set_promisc(handle.get(), 1) == 0, "%s", pcap_geterr(handle.get()));
  CHECK(pcap_activate(handle.get()) == 0, "%s", pcap_geterr(handle.get()));
  set_long_filter(handle.get());
  CHECK(is_promiscuous("see0"), "not promiscuous");
  CHECK(sockets_on(see0) == sockets + 1, "no socket of ours");
  std::vector<Block> blocks;
  for (std::uint32_t i = 0; i < 3; ++i) {
    sender.send(i * 10, 10);
    for (Block& block : take_blocks(handle.get(), 10)) blocks.push_back(std::move(block));
  }
  Packets packets;
  walk(blocks[0].get(), packets);
  handle.reset();
  CHECK(!is_promiscuous("see0"), "still promiscuous");
  CHECK(sockets_on(see0) == sockets, "the interface still has the socket");
  CHECK(count_descriptors() == descriptors, "descriptors are left");
  CHECK(has_ring(), "the memory is gone");
  sender.send(1000, 100);

  std::thread([&] {
    for (Block& block : blocks) {
      CHECK(has_ring(), "the memory is gone before the last block is back");
      walk(block.get(), packets);
      block.reset();
    }
  }).join();
  check_sequence(packets, 1, 29, 2);
  CHECK(!has_ring(), "the memory stays");
}

void closed_while_given_back() {
  for (int i = 0; i < 15; ++i) {
    Handle handle = open_capture({.timeout_ms = 1, .buffer_bytes = 2 << 20});
    const Sender sender = remote();
    std::vector<Block> blocks;
    for (std::uint32_t n = 0; n < 4; ++n) {
      sender.send(n, 1);
      blocks.push_back(take(handle.get()));
    }
    std::vector<std::thread> threads;
    for (Block& block : blocks) {
      threads.emplace_back([&block] {
        Packets packets;
        walk(block.get(), packets);
        block.reset();
      });
    }
    handle.reset();
    for (std::thread& thread : threads) thread.join();
    CHECK(!has_ring(), "the memory stays");
  }
}

void filter_replaced() {
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  const Sender sender = remote();
  set_long_filter(p);  // odd
  sender.send(0, 10);
  const std::vector<Block> first = take_blocks(p, 10);
  set_filter(p, kEven);
  sender.send(10, 10);
  Packets even;
  while (even.empty() || number_of(even.back().bytes) != 18) {
    const Block block = take(p);
    walk(block.get(), even);
  }
  set_long_filter(p);
  set_filter(p, "ether proto 0x88b5");
  Packets odd;
  for (const Block& block : first) walk(block.get(), odd);
  check_sequence(odd, 1, 9, 2);
  check_sequence(even, 10, 18, 2);
}

const Test kTests[] = {
    {"given back in reverse by three threads under load", reversed},
    {"given back at random by three threads under load", in_random_order},
    {"one held for long while the others go round", held_for_long},
    {"what was lost is told", lost_is_told},
    {"two losses in one ring are told", two_losses_are_told},
    {"closed with blocks outstanding", closed_before},
    {"closed while they are given back", closed_while_given_back},
    {"the filter replaced while blocks are outstanding", filter_replaced},
};
const Registration kRegistration(
    {.name = "blocks_held", .tests = kTests, .links = 2, .instruments = "thread valgrind"});

}  // namespace
}  // namespace pcapv3::live
