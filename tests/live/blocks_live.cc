// Blocks taken by a program (pcap/linux-v3.h): what is in them, who may give them back and when,
// and what is left of a handle that is closed before. Run by blocks.test, in the namespace that has
// see0 and see1; frames come from play0 and play1 in the other one. What a walk brings is compared
// with what a callback of another handle gets.
#include <pcap/linux-v3.h>
#include <sys/syscall.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <random>
#include <string_view>

#include "capture.h"
#include "frames.h"
#include "harness.h"
#include "ports.h"

namespace pcapv3::live {
namespace {

Sender peer() { return Sender("play0", link_arguments().peer); }

/// How many frames tests under load send: fewer where each takes long.
unsigned load() { return 100'000 / link_arguments().slowdown; }

struct GiveBack {
  void operator()(pcap_v3_block_t* block) const { pcap_v3_release_block(block); }
};
using Block = std::unique_ptr<pcap_v3_block_t, GiveBack>;

/// The next block; null when the time is over.
Block take(pcap_t* p, int timeout_ms = -1) {
  pcap_v3_block_t* block = nullptr;
  const int status = pcap_v3_next_block(p, timeout_ms, &block);
  CHECK(status == (block != nullptr ? 1 : 0), "status %d, %s", status, pcap_geterr(p));
  return Block(block);
}

const pcap_v3_info& info(const Block& block) { return *pcap_v3_block_info(block.get()); }

/// Blocks until `count` packets are in them: the kernel closes one whenever it is time to.
std::vector<Block> take_blocks(pcap_t* p, std::size_t count) {
  std::vector<Block> blocks;
  while (count > 0) {
    blocks.push_back(take(p));
    CHECK(info(blocks.back()).packets <= count, "%u packets", info(blocks.back()).packets);
    count -= info(blocks.back()).packets;
  }
  return blocks;
}

/// Tells how many frames have come to see0, without asking the handle that is tested. To be made
/// before that: of two sockets the older one gets a frame last.
class Witness {
 public:
  Witness() : handle_(open_capture({.buffer_bytes = 2 << 20})) {}
  /// Sends frames, and waits until they have come: a receiver that is not given a CPU drops what is
  /// more than net.core.netdev_max_backlog, 1000.
  void send(const Sender& sender, std::uint32_t first, std::uint32_t count,
            std::size_t size = 100) {
    while (count > 0) {
      const std::uint32_t batch = std::min(count, 500u);
      sender.send(first, batch, size);
      wait_until_received(handle_.get(), sent_ += batch);
      first += batch;
      count -= batch;
    }
  }

 private:
  const Handle handle_;
  unsigned sent_ = 0;
};

/// What is left in a block, packet by packet.
void walk(pcap_v3_block_t* block, Packets& packets) {
  const pcap_pkthdr* header = nullptr;
  const u_char* bytes = nullptr;
  int status = 0;
  while ((status = pcap_v3_next_packet(block, &header, &bytes)) == 1) {
    packets.emplace_back(*header, bytes);
  }
  CHECK(status == 0, "status %d", status);
}

/// By callback.
void walk_all(pcap_v3_block_t* block, Packets& packets) {
  const std::size_t before = packets.size();
  const int got = pcap_v3_dispatch_block(block, -1, keep, user(packets));
  CHECK(got >= 0 && static_cast<std::size_t>(got) == packets.size() - before, "status %d", got);
  CHECK(pcap_v3_dispatch_block(block, -1, keep, user(packets)) == 0, "more after the end");
}

/// Takes blocks until `count` packets have come.
Packets take_packets(pcap_t* p, std::size_t count, void (*how)(pcap_v3_block_t*, Packets&) = walk) {
  Packets packets;
  while (packets.size() < count) how(take(p).get(), packets);
  return packets;
}

// ---- What is in a block

/// What a test of fidelity does to both handles, and to the link.
struct Likeness {
  Options options;
  void (*prepare)(pcap_t*) = [](pcap_t*) {};
  std::size_t packets = 60;  // of those sent
};

/// The frames of all the tests of likeness: with and without tags, of several sizes, both ways.
void send_variety() {
  const Sender in = peer();
  const Sender out("see0");
  for (std::uint32_t i = 0; i < 20; ++i) {
    in.send({.number = i, .size = 60 + 70 * i});
    in.send({.number = i, .size = 100, .tags = {{.tci = 5}}});
    out.send({.number = i, .size = 100});
  }
}

void check_likeness(const Likeness& likeness) {
  for (const auto how : {walk, walk_all}) {
    const Handle reference = open_capture(likeness.options);
    const Handle handle = open_capture(likeness.options);
    likeness.prepare(reference.get());
    likeness.prepare(handle.get());
    send_variety();
    const Packets wanted = take_count(reference.get(), likeness.packets);
    const Packets got = take_packets(handle.get(), likeness.packets, how);
    CHECK(got.size() == wanted.size(), "%zu packets, not %zu", got.size(), wanted.size());
    bool finer = false;
    for (std::size_t i = 0; i < got.size(); ++i) {
      CHECK(got[i].header.len == wanted[i].header.len, "packet %zu: len %u, not %u", i,
            got[i].header.len, wanted[i].header.len);
      CHECK(got[i].bytes == wanted[i].bytes, "packet %zu has other bytes, %zu of them, not %zu", i,
            got[i].bytes.size(), wanted[i].bytes.size());
      CHECK(std::abs(got[i].header.ts.tv_sec - wanted[i].header.ts.tv_sec) <= 5, "packet %zu", i);
      finer |= got[i].header.ts.tv_usec >= 1'000'000;
    }
    const bool nano = likeness.options.precision == PCAP_TSTAMP_PRECISION_NANO;
    CHECK(finer == nano, "stamps in %s", finer ? "nanoseconds" : "microseconds");
    take_packets(handle.get(), 0);
  }
}

void like_callbacks() { check_likeness({}); }
void like_callbacks_nanoseconds() {
  check_likeness({.options = {.precision = PCAP_TSTAMP_PRECISION_NANO}});
}
void like_callbacks_cut() { check_likeness({.options = {.snaplen = 70}}); }
void like_callbacks_one_way() {
  check_likeness(
      {.options = {}, .prepare = [](pcap_t* p) { set_direction(p, PCAP_D_OUT); }, .packets = 20});
}
void like_callbacks_filtered() {
  check_likeness({.options = {}, .prepare = set_long_filter, .packets = 30});
  check_likeness(
      {.options = {}, .prepare = [](pcap_t* p) { set_filter(p, "vlan 5"); }, .packets = 20});
}
void like_callbacks_cooked() {
  check_likeness({.options = {.device = "any"}});
  check_likeness({.options = {.device = "any"},
                  .prepare = [](pcap_t* p) { set_datalink(p, DLT_LINUX_SLL2); }});
}

void info_of_blocks() {
  const Handle handle = open_capture({.precision = PCAP_TSTAMP_PRECISION_NANO});
  const Sender sender = peer();
  for (std::uint64_t sequence = 1; sequence <= 5; ++sequence) {
    sender.send(0, 10);
    Packets packets;
    std::uint64_t number = 0;
    while (packets.size() < 10) {
      const Block block = take(handle.get());
      const pcap_v3_info& i = info(block);
      CHECK(number == 0 || i.sequence == number + 1, "a gap before block %u",
            static_cast<unsigned>(i.sequence));
      CHECK(sequence > 1 || number != 0 || i.sequence == 1, "the first is not number 1");
      number = i.sequence;
      const std::size_t before = packets.size();
      walk(block.get(), packets);
      CHECK(i.packets == packets.size() - before, "%u, not %zu", i.packets,
            packets.size() - before);
      const timeval& first = packets[before].header.ts;
      const timeval& last = packets.back().header.ts;
      CHECK(i.first.tv_sec == first.tv_sec && i.first.tv_nsec == first.tv_usec, "first");
      CHECK(i.last.tv_sec == last.tv_sec && i.last.tv_nsec == last.tv_usec, "last");
      CHECK(i.lost == 0 && i.port == 0, "lost %d, port %u", i.lost, i.port);
      CHECK(std::string_view(i.interface) == "see0", "%s", i.interface);
      CHECK(i.ifindex == static_cast<int>(if_nametoindex("see0")), "%d", i.ifindex);
    }
  }
}

void stopped_walk_goes_on() {
  const Handle handle = open_capture();
  std::vector<Block> blocks;
  while (blocks.size() != 1) {  // all in one
    peer().send(0, 10);
    blocks = take_blocks(handle.get(), 10);
  }
  const Block& block = blocks[0];
  Packets packets;
  const pcap_pkthdr* header = nullptr;
  const u_char* bytes = nullptr;
  CHECK(pcap_v3_dispatch_block(block.get(), 3, keep, user(packets)) == 3, "not 3");
  CHECK(pcap_v3_next_packet(block.get(), &header, &bytes) == 1, "not 1");
  packets.emplace_back(*header, bytes);
  CHECK(pcap_v3_dispatch_block(block.get(), 3, keep, user(packets)) == 3, "not 3");
  walk(block.get(), packets);
  check_sequence(packets, 0, 9);
}

/// An Ethernet frame with a UDP datagram from port `port`.
Bytes datagram(std::uint16_t port) {
  Bytes bytes(kNobody.begin(), kNobody.end());
  bytes.insert(bytes.end(), kSomebody.begin(), kSomebody.end());
  append16(bytes, ETHERTYPE_IP);
  for (const int word : {0x4500, 36, 0, 0, 0x0111, 0, 0xc633, 0x6401, 0xc633, 0x6402}) {
    append16(bytes, static_cast<std::uint16_t>(word));
  }
  for (const std::uint16_t word : {port, std::uint16_t{9}, std::uint16_t{16}, std::uint16_t{0}}) {
    append16(bytes, word);
  }
  append32(bytes, kMagic);
  append32(bytes, port);
  return bytes;
}

struct Hashes {
  pcap_v3_block_t* block;
  std::vector<std::uint32_t> all;
};
void keep_hash(u_char* pointer, const pcap_pkthdr*, const u_char*) {
  auto* hashes = reinterpret_cast<Hashes*>(pointer);
  hashes->all.push_back(pcap_v3_packet_hash(hashes->block));
  const int index = pcap_v3_packet_ifindex(hashes->block);
  CHECK(index == static_cast<int>(if_nametoindex("see0")), "interface %d", index);
}

/// The hashes of `flows` flows, each sent twice.
std::vector<std::uint32_t> hashes(pcap_t* p, std::uint16_t flows) {
  const Sender sender = peer();
  for (int i = 0; i < 2; ++i) {
    for (std::uint16_t flow = 0; flow < flows; ++flow) sender.try_send(datagram(flow));
  }
  Hashes by_callback = {nullptr, {}};
  std::vector<std::uint32_t> all;
  while (all.size() < 2u * flows) {
    const Block block = take(p);
    const pcap_pkthdr* header = nullptr;
    const u_char* bytes = nullptr;
    if (all.size() % 2 == 0 && pcap_v3_next_packet(block.get(), &header, &bytes) == 1) {
      all.push_back(pcap_v3_packet_hash(block.get()));
      CHECK(pcap_v3_packet_ifindex(block.get()) == static_cast<int>(if_nametoindex("see0")),
            "interface %d", pcap_v3_packet_ifindex(block.get()));
    }
    by_callback = {block.get(), {}};
    pcap_v3_dispatch_block(block.get(), 0, keep_hash, reinterpret_cast<u_char*>(&by_callback));
    all.insert(all.end(), by_callback.all.begin(), by_callback.all.end());
  }
  return all;
}

void flow_hash() {
  constexpr std::uint16_t kFlows = 50;
  const Handle without = open_capture();
  for (const std::uint32_t hash : hashes(without.get(), kFlows)) CHECK(hash == 0, "%x", hash);
  for (const char* device : {"see0", "see0,see1"}) {
    const Handle with = create({.device = device});
    CHECK(pcap_v3_set_flow_hash(with.get(), 1) == 0, "%s", pcap_geterr(with.get()));
    CHECK(pcap_activate(with.get()) == 0, "%s", pcap_geterr(with.get()));
    const int again = pcap_v3_set_flow_hash(with.get(), 1);
    CHECK(again == PCAP_ERROR_ACTIVATED, "status %d after activation", again);
    std::vector<std::uint32_t> all = hashes(with.get(), kFlows);
    for (std::size_t i = 0; i < kFlows; ++i) {
      CHECK(all[i] == all[i + kFlows], "flow %zu has two hashes", i);
    }
    all.resize(kFlows);
    std::sort(all.begin(), all.end());
    const auto different = std::unique(all.begin(), all.end()) - all.begin();
    CHECK(different >= kFlows - 2 && all[0] != 0, "%td hashes of %u flows", different, kFlows);
  }
}

// ---- Given back in any order, by any thread, after any time

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
    const Sender sender = peer();
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
  Witness witness;
  const Handle handle = open_capture({.buffer_bytes = 4 << 20});
  pcap_t* p = handle.get();
  const Sender sender = peer();
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
    const Sender sender = peer();
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
  const Sender sender = peer();
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

bool has_ring() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("socket:[") != std::string::npos) return true;
  }
  return false;
}

bool is_promiscuous(const char* interface) {
  std::string flags;
  std::getline(std::ifstream("/sys/class/net/" + std::string(interface) + "/flags"), flags);
  return (std::stoul(flags, nullptr, 16) & IFF_PROMISC) != 0;
}

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
  const Sender sender = peer();
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
    const Sender sender = peer();
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
  const Sender sender = peer();
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

// ---- Waiting

double cpu_seconds() {
  timespec used = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) * 1e-9;
}

void timeouts() {
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  auto start = Clock::now();
  CHECK(take(p, 0) == nullptr, "a block on an idle link");
  CHECK(seconds_since(start) < 5, "it waited");
  start = Clock::now();
  CHECK(take(p, 200) == nullptr, "a block on an idle link");
  CHECK(seconds_since(start) >= 0.19, "%.3f s", seconds_since(start));
  const Sender sender = peer();
  sender.send(0, 1);
  const Block held = take(p, 20'000);
  CHECK(held != nullptr, "no block");
  // Now the socket is readable all the time.
  start = Clock::now();
  const double before = cpu_seconds();
  CHECK(take(p, 300) == nullptr, "the same block once more");
  CHECK(seconds_since(start) >= 0.29, "%.3f s", seconds_since(start));
  Packets packets;
  std::thread later([&, reader = static_cast<pid_t>(syscall(SYS_gettid))] {
    wait_until_asleep(reader);
    sender.send(1, 1);
  });
  while (packets.empty()) {
    CHECK(pcap_dispatch(p, -1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
  }
  later.join();
  check_sequence(packets, 1, 1);
  CHECK(cpu_seconds() - before < 0.15, "it was spinning, for %.3f s", cpu_seconds() - before);
  set_nonblock(p);
  start = Clock::now();
  CHECK(take(p, -1) == nullptr, "a block on an idle link");
}

pcap_t* g_handle = nullptr;
void break_handle(int) { pcap_breakloop(g_handle); }

/// Takes blocks until there is an end to it; returns that, what was in them, and when the last
/// began.
int take_to_end(pcap_t* p, Packets& packets, timespec* began = nullptr) {
  pcap_v3_block_t* block = nullptr;
  int status = 0;
  while ((status = pcap_v3_next_block(p, -1, &block)) == 1) {
    walk(block, packets);
    if (began != nullptr) *began = pcap_v3_block_info(block)->first;
    pcap_v3_release_block(block);
  }
  CHECK(block == nullptr, "a block and status %d", status);
  return status;
}

void breaks(const char* device) {
  for (const bool signal : {false, true}) {
    Witness witness;
    const Handle handle = open_capture({.device = device, .timeout_ms = 20});
    pcap_t* p = g_handle = handle.get();
    struct sigaction action = {};
    action.sa_handler = break_handle;
    sigaction(SIGUSR1, &action, nullptr);
    const auto reader = static_cast<pid_t>(syscall(SYS_gettid));
    std::thread breaker([&] {
      wait_until_asleep(reader);
      // In the block that the kernel is filling when the break comes.
      witness.send(peer(), 0, 50);
      if (signal) {
        syscall(SYS_tgkill, getpid(), reader, SIGUSR1);
      } else {
        pcap_breakloop(p);
      }
    });
    Packets packets;
    int status = take_to_end(p, packets);
    breaker.join();
    CHECK(status == PCAP_ERROR_BREAK, "status %d, %s", status, pcap_geterr(p));
    // A thread's break ends it at once.
    while (!signal && packets.size() < 50) walk(take(p).get(), packets);
    check_sequence(packets, 0, 49);
    CHECK(stats_of(p).ps_recv == 50, "ps_recv %u", stats_of(p).ps_recv);
    // By this thread itself: at once. And then it goes on.
    peer().send(50, 10);
    pcap_breakloop(p);
    status = take_to_end(p, packets);
    CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
    const std::size_t before = packets.size();
    CHECK(before == 50, "%zu packets", before);
    while (packets.size() < 60) walk(take(p).get(), packets);
    check_sequence(packets, 0, 59);
  }
}
void breaks_one() { breaks("see0"); }
void breaks_aggregate() { breaks("see0,see1"); }

void break_under_traffic() {
  for (const char* device : {"see0", "see0,see1"}) {
    const Handle handle = open_capture({.device = device, .buffer_bytes = 16 << 20});
    pcap_t* p = handle.get();
    std::atomic<bool> over = false;
    std::atomic<std::uint32_t> sent = 0;
    timespec broken = {};
    std::thread traffic([&] {
      const Sender sender = peer();
      for (; !over; ++sent) sender.send({.number = sent});
    });
    std::thread breaker([&] {
      while (sent < 2000) std::this_thread::yield();
      pcap_breakloop(p);
      clock_gettime(CLOCK_REALTIME, &broken);
    });
    Packets packets;
    timespec last = {};
    const int status = take_to_end(p, packets, &last);
    CHECK(status == PCAP_ERROR_BREAK, "status %d, %s", status, pcap_geterr(p));
    breaker.join();
    CHECK(last.tv_sec < broken.tv_sec ||
              (last.tv_sec == broken.tv_sec && last.tv_nsec <= broken.tv_nsec),
          "a block that began after the break");
    over = true;
    traffic.join();
    // What came after that is there for who goes on.
    while (packets.size() < sent) walk(take(p).get(), packets);
    check_sequence(packets, 0, sent - 1);
  }
}

void break_with_blocks_out() {
  Record stats("PCAPV3_STATS");
  Handle handle = open_capture();
  pcap_t* p = handle.get();
  const Sender sender = peer();
  sender.send(0, 10);
  Block first = take(p);
  Block second;
  std::thread breaker([&, reader = static_cast<pid_t>(syscall(SYS_gettid))] {
    wait_until_asleep(reader);
    pcap_breakloop(p);
  });
  pcap_v3_block_t* block = nullptr;
  const int status = pcap_v3_next_block(p, -1, &block);
  breaker.join();
  if (status == 1) {  // the ten came in two blocks
    second.reset(block);
  } else {
    CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
    CHECK(stats_of(p).ps_recv == info(first).packets, "ps_recv %u", stats_of(p).ps_recv);
  }
  Packets packets;
  CHECK(pcap_v3_dispatch_block(first.get(), 1, keep, user(packets)) == 1, "no packet");
  const unsigned left = info(first).packets - 1;
  first.reset();
  handle.reset();
  CHECK(figure(stats.text(), "see0", "unwalked") == left, "%s", stats.text().c_str());
  CHECK(figure(stats.text(), "see0", "delivered") == 1, "%s", stats.text().c_str());
  CHECK(figure(stats.text(), "see0", "blocks outstanding") == (second ? 1 : 0), "%s",
        stats.text().c_str());
  CHECK(figure(stats.text(), "see0", "most outstanding") == (second ? 2 : 1), "%s",
        stats.text().c_str());
}

void interface_goes() {
  make_port(2);
  {
    const Handle handle = open_capture({.device = "see2"});
    pcap_t* p = handle.get();
    const Sender sender("play2", link_arguments().peer);
    sender.send(0, 1);
    const Block held = take(p);
    std::thread remover([&, reader = static_cast<pid_t>(syscall(SYS_gettid))] {
      wait_until_asleep(reader);
      // Of which an event tells, and of what comes then none.
      ip("link set see2 down");
      wait_until_asleep(reader);
      ip("link delete see2");
    });
    pcap_v3_block_t* block = nullptr;
    const int status = pcap_v3_next_block(p, -1, &block);
    remover.join();
    CHECK(status == PCAP_ERROR, "status %d", status);
    CHECK(std::string_view(pcap_geterr(p)).find("disappeared") != std::string::npos, "%s",
          pcap_geterr(p));
    Packets packets;
    walk(held.get(), packets);
    check_sequence(packets, 0, 0);
  }
  CHECK(!has_ring(), "the memory stays");
}

/// A port of a fan-out group that comes back gets another ring, while blocks are being waited for.
void port_comes_back_in_group() {
  make_port(2);
  setenv("PCAPV3_FANOUT", "7:lb", 1);
  const Record debug("PCAPV3_DEBUG");
  const Handle handle = open_capture({.device = "see0,see2"});
  pcap_t* p = handle.get();
  const auto wait_for_text = [&](const char* text) {
    while (debug.text().find(text) == std::string::npos) usleep(1000);
  };
  const Sender sender = peer();
  std::thread other([&, reader = static_cast<pid_t>(syscall(SYS_gettid))] {
    wait_until_asleep(reader);
    ip("link delete see2");
    wait_for_text("see2: the interface is gone");
    sender.send(0, 10);
  });
  // The other port's blocks come, each packet once, whatever is looked after meanwhile.
  Packets packets = take_packets(p, 10);
  other.join();
  sender.send(10, 10);
  while (packets.size() < 20) walk(take(p).get(), packets);
  check_sequence(packets, 0, 19);
  std::thread back([&, reader = static_cast<pid_t>(syscall(SYS_gettid))] {
    wait_until_asleep(reader);
    make_port(2);
    wait_for_text("see2: the interface is back");
    Sender("play2", link_arguments().peer).send(20, 1);
  });
  walk(take(p).get(), packets);
  back.join();
  check_sequence(packets, 0, 20);
  ip("link delete see2");
}

// ---- Blocks and packets on one handle

void mixed() {
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  const Sender sender = peer();
  Packets packets;
  std::vector<Block> held;
  std::uint32_t next = 0;
  for (int round = 0; round < 20; ++round) {
    sender.send(next, 10);
    next += 10;
    wait_until_received(p, next);
    // Into the middle of a block, or to its end.
    const int count = round % 3 == 0 ? 10 : 3;
    while (packets.size() < next - 10 + static_cast<unsigned>(count)) {
      CHECK(pcap_dispatch(p, count, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
    }
    while (packets.size() < next) {
      held.push_back(take(p));
      const std::size_t before = packets.size();
      walk(held.back().get(), packets);
      CHECK(info(held.back()).packets == packets.size() - before, "%u, not %zu",
            info(held.back()).packets, packets.size() - before);
      if (round % 2 == 0) held.clear();
    }
  }
  check_sequence(packets, 0, next - 1);
}

// ---- Several ports

void several_ports() {
  const Handle handle = open_capture({.device = "see0,see1"});
  pcap_t* p = handle.get();
  CHECK(take(p, 0) == nullptr, "a block on idle links");
  const auto start = Clock::now();
  CHECK(take(p, 100) == nullptr, "a block on idle links");
  CHECK(seconds_since(start) >= 0.09, "%.3f s", seconds_since(start));
  const Players players(2);
  Packets packets[2];
  players.send(0, 100);
  std::vector<Block> held;
  const auto take_all = [&](std::size_t count) {
    while (packets[0].size() < count || packets[1].size() < count) {
      held.push_back(take(p));
      const pcap_v3_info& i = info(held.back());
      CHECK(i.port < 2, "port %u", i.port);
      CHECK(i.interface == see(i.port), "%s is port %u", i.interface, i.port);
      CHECK(i.ifindex == static_cast<int>(if_nametoindex(i.interface)), "%d", i.ifindex);
      walk(held.back().get(), packets[i.port]);
    }
  };
  take_all(100);
  // Packets next, with all the blocks outstanding, and blocks again.
  players.send(100, 100);
  const Packets merged = take_count(p, 200);
  check_ports(merged, 2, 100, 100);
  players.send(200, 100);
  pcap_v3_block_t* block = nullptr;
  int status = 0;
  while ((status = pcap_v3_next_block(p, -1, &block)) == PCAP_ERROR) {
    // What the merge has opened since goes to who reads packets.
    CHECK(std::string_view(pcap_geterr(p)).find("time order") != std::string::npos, "%s",
          pcap_geterr(p));
    Packets rest;
    CHECK(pcap_dispatch(p, -1, keep, user(rest)) >= 0, "%s", pcap_geterr(p));
    for (Packet& packet : rest) {
      packets[sender_of(number_of(packet.bytes))].push_back(std::move(packet));
    }
  }
  held.emplace_back(block);
  walk(block, packets[info(held.back()).port]);
  take_all(200);
  for (unsigned port = 0; port < 2; ++port) {
    std::uint32_t due = 0;
    for (const Packet& packet : packets[port]) {
      const std::uint32_t number = number_of(packet.bytes);
      CHECK(number == marked(port, due), "frame %u of port %u where %u was due", unmarked(number),
            sender_of(number), due);
      if (++due == 100) due = 200;
    }
  }
  held.clear();
  players.send(300, 100);
  check_ports(take_count(p, 200), 2, 300, 100);
}

// ---- No blocks

void check_none(pcap_t* p, const char* part) {
  pcap_v3_block_t* block = reinterpret_cast<pcap_v3_block_t*>(p);
  const int status = pcap_v3_next_block(p, 0, &block);
  CHECK(status == PCAP_ERROR && block == nullptr, "status %d", status);
  const std::string_view text = pcap_geterr(p);
  CHECK(text.find("no blocks") != text.npos && text.find(part) != text.npos, "%s", pcap_geterr(p));
}

void no_blocks() {
  check_none(create().get(), "not been activated");
  const Handle dead(pcap_open_dead(DLT_EN10MB, 100));
  check_none(dead.get(), "libpcap's own");
  CHECK(pcap_v3_set_flow_hash(dead.get(), 1) < 0, "a flow hash of a dead handle");
  FILE* file = std::tmpfile();
  {
    pcap_dumper_t* dumper = pcap_dump_fopen(dead.get(), file);
    pcap_dump_flush(dumper);
    std::rewind(file);
    char error[PCAP_ERRBUF_SIZE] = "";
    const Handle offline(pcap_fopen_offline(file, error));
    CHECK(offline != nullptr, "%s", error);
    check_none(offline.get(), "file");
  }
  setenv("PCAPV3_IMMEDIATE", "v2", 1);
  check_none(open_capture({.immediate = true}).get(), "libpcap's own");
  setenv("PCAPV3", "off", 1);
  const Handle stock = create();
  CHECK(pcap_v3_set_flow_hash(stock.get(), 1) == PCAP_ERROR, "a flow hash of a stock handle");
  check_none(open_capture().get(), "libpcap's own");
}

constexpr Test kTests[] = {
    {"a walk brings what a callback gets", like_callbacks},
    {"in nanoseconds", like_callbacks_nanoseconds},
    {"with a snapshot length", like_callbacks_cut},
    {"of one direction", like_callbacks_one_way},
    {"filtered here, and in the kernel", like_callbacks_filtered},
    {"on any, with LINUX_SLL and LINUX_SLL2", like_callbacks_cooked},
    {"what a block tells of itself", info_of_blocks},
    {"a walk that was stopped goes on", stopped_walk_goes_on},
    {"flow hash, if it is asked for", flow_hash},
    {"given back in reverse by three threads under load", reversed},
    {"given back at random by three threads under load", in_random_order},
    {"one held for long while the others go round", held_for_long},
    {"what was lost is told", lost_is_told},
    {"two losses in one ring are told", two_losses_are_told},
    {"closed with blocks outstanding", closed_before},
    {"closed while they are given back", closed_while_given_back},
    {"the filter replaced while blocks are outstanding", filter_replaced},
    {"timeouts", timeouts},
    {"breaks", breaks_one},
    {"breaks on several ports", breaks_aggregate},
    {"breaks under traffic", break_under_traffic},
    {"a break with blocks outstanding", break_with_blocks_out},
    {"the interface goes while a block is outstanding", interface_goes},
    {"a port of a fan-out group comes back meanwhile", port_comes_back_in_group},
    {"blocks and packets in turn", mixed},
    {"several ports", several_ports},
    {"handles without blocks", no_blocks},
};

const Registration kRegistration(
    {.name = "blocks", .tests = kTests, .links = 2, .instruments = "thread valgrind"});

}  // namespace
}  // namespace pcapv3::live
