// SPDX-License-Identifier: BSD-3-Clause
// The private area of blocks: what is in it, for how long, that it is nobody's but the program's,
// and that packets are right behind it however they are read.
#include <pcap/linux-v3.h>
#include <sys/syscall.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "blocks.h"
#include "breaks.h"
#include "capture.h"
#include "ports.h"

namespace pcapv3::live {
namespace {

/// The largest private area (pcap-linux-v3/setup/geometry.h).
constexpr std::size_t kMost = 65535;

void walk(const Block& block, Packets& packets) {
  const int got = pcap_v3_dispatch_block(block.get(), -1, keep, user(packets));
  CHECK(got >= 0, "status %d", got);
}

/// The area of a block, which has to have one.
std::uint8_t* area_of(const Block& block) {
  void* const area = pcap_v3_block_private(block.get());
  CHECK(area != nullptr, "no private area");
  CHECK(reinterpret_cast<std::uintptr_t>(area) % 8 == 0, "it is at %p", area);
  CHECK(area == pcap_v3_block_private(block.get()), "it has moved");
  return static_cast<std::uint8_t*>(area);
}

/// A handle whose blocks are to have an area of `size` bytes, not activated.
Handle create_with(std::size_t size, const Options& options = {}) {
  Handle handle = create(options);
  CHECK(pcap_v3_set_private_size(handle.get(), size) == 0, "%s", pcap_geterr(handle.get()));
  return handle;
}

Handle open_with(std::size_t size, const Options& options = {}) {
  Handle handle = create_with(size, options);
  const int status = pcap_activate(handle.get());
  CHECK(status == 0, "status %d, %s", status, pcap_geterr(handle.get()));
  return handle;
}

/// Has rings of eight blocks, so that one has soon been around.
constexpr unsigned kBlocks = 8;
void set_small_ring() {
  setenv("PCAPV3_BLOCK", "256K", 1);
  setenv("PCAPV3_BUFFER", "2M", 1);
  setenv("PCAPV3_RETIRE", "1", 1);
}

/// What was written to the areas of one ring, and with it, what is to be in them.
class Areas {
 public:
  explicit Areas(std::size_t size) : size_(size) {}

  /// The area has what was written to it last, or all zeros if it was never seen.
  void check(const std::uint8_t* area) {
    const std::uint8_t wanted = fills_[area];
    const std::uint8_t* const other =
        std::find_if(area, area + size_, [&](std::uint8_t byte) { return byte != wanted; });
    CHECK(other == area + size_, "byte %td of %zu is 0x%x, not 0x%x", other - area, size_, *other,
          wanted);
  }
  void fill(std::uint8_t* area) {
    std::memset(area, fill_, size_);
    fills_[area] = fill_;
    if (++fill_ == 0) ++fill_;
  }
  void check_and_fill(std::uint8_t* area) {
    check(area);
    fill(area);
  }
  /// How many areas were seen.
  std::size_t count() const { return fills_.size(); }

 private:
  std::size_t size_;
  std::uint8_t fill_ = 1;
  std::map<const std::uint8_t*, std::uint8_t> fills_;  // 0 where there was no other
};

// ---- What is in it

void zeros_then_what_was_left() {
  set_small_ring();
  for (const std::size_t size : {std::size_t{1}, std::size_t{8}, std::size_t{100}, kMost}) {
    const Handle handle = open_with(size);
    const Sender sender = remote();
    Areas areas(size);
    for (std::uint32_t i = 0; i < 3 * kBlocks; ++i) {
      sender.send(i, 1);
      const Block block = take(handle.get());
      CHECK(info(block).sequence == i + 1, "block %u", static_cast<unsigned>(info(block).sequence));
      areas.check_and_fill(area_of(block));
      Packets packets;
      walk(block, packets);
      check_sequence(packets, i, i);
      areas.check(area_of(block));
    }
    CHECK(areas.count() == kBlocks, "%zu areas", areas.count());
  }
}

/// Packets that are read one by one come past the area, and leave it as it is.
void other_reads_leave_it() {
  set_small_ring();
  constexpr std::size_t kSize = 1000;
  const Handle handle = open_with(kSize);
  pcap_t* p = handle.get();
  const Sender sender = remote();
  Areas areas(kSize);
  for (std::uint32_t i = 0; i < 9 * kBlocks; ++i) {
    sender.send(i, 1);
    Packets packets;
    switch (i / kBlocks % 3) {
      case 0: {
        const Block block = take(p);
        areas.check_and_fill(area_of(block));
        walk(block, packets);
        break;
      }
      case 1:
        packets = take_count(p, 1);
        break;
      default: {
        pcap_pkthdr* header = nullptr;
        const u_char* bytes = nullptr;
        int status = 0;
        while ((status = pcap_next_ex(p, &header, &bytes)) == 0) {
        }
        CHECK(status == 1, "status %d, %s", status, pcap_geterr(p));
        packets.emplace_back(*header, bytes);
      }
    }
    check_sequence(packets, i, i);
  }
  CHECK(areas.count() == kBlocks, "%zu areas", areas.count());
}

/// Of a block that was begun by others, what is left has the same area.
void rest_of_a_block() {
  const Handle handle = open_with(100, {.timeout_ms = 40});
  pcap_t* p = handle.get();
  for (;;) {
    remote().send(0, 10);
    wait_until_received(p, 10);
    Packets packets = take_count(p, 3);
    const Block rest = take(p);
    const bool whole = info(rest).packets == 7;  // and not two blocks
    Areas(100).check_and_fill(area_of(rest));
    walk(rest, packets);
    if (whole) {
      check_sequence(packets, 0, 9);
      break;
    }
    while (packets.size() < 10) walk(take(p), packets);
  }
}

void none_without_a_wish() {
  const Handle without = open_capture();
  const Handle zero = open_with(0);
  remote().send(0, 1);
  for (pcap_t* p : {without.get(), zero.get()}) {
    const Block block = take(p);
    CHECK(pcap_v3_block_private(block.get()) == nullptr, "there is one");
  }
}

// ---- Packets behind it

/// A handle with areas delivers what one without does.
void check_likeness(
    std::size_t size, const Options& options, std::size_t packets,
    void (*prepare)(pcap_t*) = [](pcap_t*) {}) {
  const Handle reference = open_capture(options);
  const Handle handle = open_with(size, options);
  prepare(reference.get());
  prepare(handle.get());
  send_variety();
  const Packets wanted = take_count(reference.get(), packets);
  check_alike(take_count(handle.get(), packets), wanted);
}

void other_reads_are_right() {
  for (const std::size_t size : {std::size_t{100}, kMost}) {
    check_likeness(size, {}, 60);
    check_likeness(size, {.snaplen = 70}, 60);
    check_likeness(size, {.precision = PCAP_TSTAMP_PRECISION_NANO}, 60);
    check_likeness(size, {}, 30, set_long_filter);
    check_likeness(size, {}, 20, [](pcap_t* p) { set_filter(p, "vlan 5"); });
    check_likeness(size, {}, 20, [](pcap_t* p) { set_direction(p, PCAP_D_OUT); });
    check_likeness(size, {.device = "any"}, 60);
    check_likeness(size, {.device = "any"}, 60, [](pcap_t* p) { set_datalink(p, DLT_LINUX_SLL2); });
    check_likeness(size, {.immediate = true}, 60);
  }
}

/// Reads what fills the ring several times over.
void under_load() {
  for (const char* device : {"see0", "see0,see1"}) {
    const Handle handle = open_with(kMost, {.device = device, .buffer_bytes = 4 << 20});
    pcap_t* p = handle.get();
    const Sender sender = remote();
    for (std::uint32_t first = 0; first < 10'000; first += 100) {
      sender.send(first, 100, 1400);
      check_sequence(take_until(p, first + 99), first, first + 99, 1, 1400);
    }
    CHECK(stats_of(p).ps_drop == 0, "%u dropped", stats_of(p).ps_drop);
  }
}

/// A drain reads the kernel's own block in place, or has it handed over.
void drains() {
  for (const bool blocks : {false, true}) {
    const Handle witness = open_capture({.buffer_bytes = 2 << 20});
    const Handle handle = open_with(100, {.timeout_ms = 1000});
    pcap_t* p = handle.get();
    break_on(SIGUSR1, p);
    std::thread breaker([&, reader = static_cast<pid_t>(syscall(SYS_gettid))] {
      wait_until_asleep(reader);
      remote().send(0, 50);
      wait_until_received(witness.get(), 50);
      signal_thread(reader);
    });
    Packets packets;
    int status = 0;
    if (blocks) {
      pcap_v3_block_t* block = nullptr;
      while ((status = pcap_v3_next_block(p, -1, &block)) == 1) {
        const Block owner(block);
        Areas(100).check_and_fill(area_of(owner));
        walk(owner, packets);
      }
    } else {
      status = pcap_loop(p, -1, keep, user(packets));
    }
    breaker.join();
    CHECK(status == PCAP_ERROR_BREAK, "status %d, %s", status, pcap_geterr(p));
    check_sequence(packets, 0, 49);
  }
}

// ---- Threads

/// A capture thread that leaves a note in each block, and decoders that read it and leave another,
/// which the capture thread finds when the block comes again.
struct Note {
  std::uint64_t sequence;
  std::uint32_t packets;
  std::uint32_t decoded;
};

void notes_of_threads() {
  // However slow the threads are, no more blocks are outstanding than there are frames in a burst,
  // so that none is dropped.
  constexpr std::uint32_t kBurst = kBlocks - 2;
  const std::uint32_t frames = 200 / run_arguments().slowdown * kBurst;
  set_small_ring();
  const Handle handle = open_with(sizeof(Note));
  pcap_t* p = handle.get();
  std::mutex mutex;
  std::condition_variable more;
  std::deque<Block> queue;
  bool over = false;
  std::atomic<std::uint32_t> walked = 0;
  const auto decode = [&] {
    for (;;) {
      std::unique_lock lock(mutex);
      more.wait(lock, [&] { return over || !queue.empty(); });
      if (queue.empty()) return;
      const Block block = std::move(queue.front());
      queue.pop_front();
      lock.unlock();
      auto* const note = reinterpret_cast<Note*>(area_of(block));
      CHECK(note->sequence == info(block).sequence, "the note of another block");
      CHECK(note->packets == info(block).packets && note->decoded == 0, "another note");
      Packets packets;
      walk(block, packets);
      note->decoded = static_cast<std::uint32_t>(packets.size());
      walked += note->decoded;
    }
  };
  std::vector<std::thread> decoders;
  for (int i = 0; i < 3; ++i) decoders.emplace_back(decode);
  std::thread traffic([&] {
    const Sender sender = remote();
    for (std::uint32_t sent = 0; sent < frames; ++sent) {
      while (sent % kBurst == 0 && walked != sent) std::this_thread::yield();
      sender.send({.number = sent});
      usleep(1000);
    }
  });
  std::uint64_t sequence = 0;
  while (walked < frames) {
    Block block = take(p, 10);
    if (block == nullptr) continue;
    CHECK(info(block).sequence == ++sequence, "a gap in the numbers");
    auto* const note = reinterpret_cast<Note*>(area_of(block));
    if (sequence > kBlocks) {
      CHECK(note->sequence == sequence - kBlocks, "the note of another block");
      CHECK(note->decoded == note->packets, "%u of %u packets", note->decoded, note->packets);
    } else {
      CHECK(note->sequence == 0 && note->packets == 0 && note->decoded == 0, "not zero");
    }
    *note = {.sequence = sequence, .packets = info(block).packets, .decoded = 0};
    const std::lock_guard lock(mutex);
    queue.push_back(std::move(block));
    more.notify_one();
  }
  traffic.join();
  {
    const std::lock_guard lock(mutex);
    over = true;
  }
  more.notify_all();
  for (std::thread& thread : decoders) thread.join();
  CHECK(sequence > kBlocks, "%u blocks", static_cast<unsigned>(sequence));
}

void there_after_close() {
  Handle handle = open_with(kMost);
  remote().send(0, 10);
  std::vector<Block> blocks;
  Packets packets;
  for (std::size_t count = 0; count < 10; count += info(blocks.back()).packets) {
    blocks.push_back(take(handle.get()));
    std::memset(area_of(blocks.back()), 0xab, kMost);
  }
  handle.reset();
  std::thread([&] {
    for (const Block& block : blocks) {
      const std::uint8_t* const area = area_of(block);
      CHECK(std::count(area, area + kMost, 0xab) == static_cast<std::ptrdiff_t>(kMost), "changed");
      std::memset(area_of(block), 0xcd, kMost);
      walk(block, packets);
    }
    blocks.clear();
  }).join();
  check_sequence(packets, 0, 9);
}

// ---- Immediate mode, several ports, ports that come back

void immediate_mode() {
  set_small_ring();
  for (const char* mode : {"adaptive", "v3"}) {
    setenv("PCAPV3_IMMEDIATE", mode, 1);
    const Handle handle = open_with(100, {.immediate = true});
    pcap_t* p = handle.get();
    const Sender sender = remote();
    // By frames first, where there are some.
    std::uint32_t next = 0;
    for (; next < 20; ++next) {
      sender.send(next, 1);
      check_sequence(take_count(p, 1), next, next);
    }
    CHECK(take(p, 0) == nullptr, "a block on an idle link");
    Areas areas(100);
    for (const std::uint32_t end = next + 3 * kBlocks; next < end; ++next) {
      sender.send(next, 1);
      const Block block = take(p);
      areas.check_and_fill(area_of(block));
      Packets packets;
      walk(block, packets);
      check_sequence(packets, next, next);
    }
    CHECK(areas.count() == kBlocks, "%zu areas", areas.count());
  }
}

void several_ports() {
  set_small_ring();
  for (const bool cooked : {false, true}) {
    const Handle handle = open_with(1000, {.device = "see0,see1"});
    pcap_t* p = handle.get();
    // Opens the ports anew.
    if (cooked) set_datalink(p, DLT_LINUX_SLL2);
    const Players players(2);
    Areas areas(1000);
    Packets packets[2];
    for (std::uint32_t i = 0; i < 3 * kBlocks; ++i) {
      players.send({.number = i});
      while (packets[0].size() <= i || packets[1].size() <= i) {
        const Block block = take(p);
        areas.check_and_fill(area_of(block));
        walk(block, packets[info(block).port]);
      }
    }
    CHECK(areas.count() == 2 * kBlocks, "%zu areas", areas.count());
    for (unsigned port = 0; port < 2; ++port) {
      for (std::uint32_t i = 0; i < 3 * kBlocks; ++i) {
        const std::uint32_t number = number_of(packets[port][i].bytes);
        CHECK(number == marked(port, i), "frame %u of port %u", unmarked(number), port);
      }
    }
    // Packets in time order, from the same rings.
    for (std::uint32_t i = 100; i < 200; i += 5) {
      players.send(i, 5);  // in no more blocks than there are
      check_numbers(take_count(p, 10), 2, i, 5);
    }
  }
}

/// The ring that a port of a fan-out group gets when it comes back is like its first.
void port_comes_back_in_group() {
  make_port(2);
  set_small_ring();
  setenv("PCAPV3_FANOUT", "7:lb", 1);
  const Record debug("PCAPV3_DEBUG");
  const Handle handle = open_with(kMost, {.device = "see0,see2"});
  pcap_t* p = handle.get();
  const auto wait_for_text = [&](const char* text) {
    while (debug.text().find(text) == std::string::npos) usleep(1000);
  };
  Areas areas(kMost);
  Packets packets;
  const auto take_one = [&](std::uint32_t number, std::string_view interface) {
    const Block block = take(p);
    CHECK(info(block).interface == interface, "%s", info(block).interface);
    areas.check_and_fill(area_of(block));
    packets.clear();
    walk(block, packets);
    check_sequence(packets, number, number);
  };
  const Sender sender = remote();
  Sender("play2", peer()).send(0, 1);
  take_one(0, "see2");
  std::thread other([&, reader = static_cast<pid_t>(syscall(SYS_gettid))] {
    wait_until_asleep(reader);
    ip("link delete see2");
    wait_for_text("see2: the interface is gone");
    sender.send(1, 1);
  });
  take_one(1, "see0");
  other.join();
  std::thread back([&, reader = static_cast<pid_t>(syscall(SYS_gettid))] {
    wait_until_asleep(reader);
    make_port(2);
    wait_for_text("see2: the interface is back");
    Sender("play2", peer()).send(2, 1);
  });
  // All zeros, though its place in memory may be that of the first.
  areas = Areas(kMost);
  take_one(2, "see2");
  back.join();
  const Sender returned("play2", peer());
  for (std::uint32_t i = 3; i < 3 + 2 * kBlocks; ++i) {
    returned.send(i, 1);
    take_one(i, "see2");
  }
  ip("link delete see2");
}

// ---- Sizes that can't be

/// The text with which activation refuses a size.
std::string refusal(std::size_t size, const char* device = "see0") {
  const Handle handle = create_with(size, {.device = device});
  const int status = pcap_activate(handle.get());
  CHECK(status == PCAP_ERROR, "status %d for %zu bytes", status, size);
  return pcap_geterr(handle.get());
}

void too_large() {
  const std::size_t sizes[] = {kMost + 1, kMost + 9, std::size_t{1} << 20,
                               // what becomes 8, or nothing, in 16 or 32 bits
                               (std::size_t{1} << 16) + 8, std::numeric_limits<std::size_t>::max(),
                               std::size_t{1} << (sizeof(std::size_t) * 8 - 1)};
  for (const std::size_t size : sizes) {
    const std::string text = refusal(size);
    CHECK(text == "a private area of " + std::to_string(size) +
                      " bytes in each block is too large: 65535 are possible",
          "%s", text.c_str());
  }
  const std::string text = refusal(kMost + 1, "see0,see1");
  CHECK(text.starts_with("see0: a private area of 65536 bytes"), "%s", text.c_str());
  CHECK(open_with(kMost) != nullptr, "no handle");
}

/// What would fit, as the text has it, does, with the largest packet behind it; one byte more does
/// not.
void no_room_for_the_largest_packet() {
  setenv("PCAPV3_BLOCK", "128K", 1);
  setenv("PCAPV3_BUFFER", "1M", 1);
  const std::string text = refusal(kMost);
  CHECK(text.find("of 65535 bytes leaves no room for the largest packet") != text.npos &&
            text.find("PCAPV3_BLOCK=128K") != text.npos,
        "%s", text.c_str());
  const std::size_t fits = std::stoul(text.substr(text.find("=128K: ") + 7));
  CHECK(fits > 0 && fits < kMost, "%s", text.c_str());
  (void)refusal(fits + 1);
  const Handle handle = open_with(fits);
  constexpr std::size_t kLargest = 65535 + ETH_HLEN;  // the link's MTU
  const Sender sender = remote();
  for (std::uint32_t i = 0; i < 20; ++i) {
    sender.send(i, 1, kLargest);
    const Block block = take(handle.get());
    std::memset(area_of(block), 0xff, fits);
    Packets packets;
    walk(block, packets);
    check_sequence(packets, i, i, 1, kLargest);
  }
}

void wrong_handles() {
  const Handle active = open_capture();
  const int status = pcap_v3_set_private_size(active.get(), 8);
  CHECK(status == PCAP_ERROR_ACTIVATED, "status %d after activation", status);
  const auto check_none = [](pcap_t* p) {
    const int refused = pcap_v3_set_private_size(p, 8);
    CHECK(refused == PCAP_ERROR, "status %d", refused);
    CHECK(std::string_view(pcap_geterr(p)).find("libpcap's own") != std::string_view::npos, "%s",
          pcap_geterr(p));
  };
  const Handle dead(pcap_open_dead(DLT_EN10MB, 100));
  CHECK(pcap_v3_set_private_size(dead.get(), 8) < 0, "an area of a dead handle");
  // Has no blocks, whatever it asked for.
  setenv("PCAPV3_IMMEDIATE", "v2", 1);
  const Handle v2 = open_with(8, {.immediate = true});
  remote().send(0, 1);
  check_sequence(take_count(v2.get(), 1), 0, 0);
  setenv("PCAPV3", "off", 1);
  const Handle stock = create();
  check_none(stock.get());
}

constexpr Test kTests[] = {
    {"zeros at first, then what was left in its place", zeros_then_what_was_left},
    {"reads packet by packet leave it as it is", other_reads_leave_it},
    {"the rest of a block has it", rest_of_a_block},
    {"none if none was asked for", none_without_a_wish},
    {"packets behind it are those of a handle without", other_reads_are_right},
    {"packets behind it, under load", under_load},
    {"a drain behind it", drains},
    {"notes that threads leave each other", notes_of_threads},
    {"it outlives its handle", there_after_close},
    {"in immediate mode", immediate_mode},
    {"of several ports", several_ports},
    {"of a port of a fan-out group that comes back", port_comes_back_in_group},
    {"a size beyond the kernel's is refused", too_large},
    {"a size that leaves no room for the largest packet is refused",
     no_room_for_the_largest_packet},
    {"handles that can't have it", wrong_handles},
};

const Registration kRegistration(
    {.name = "blocks_private", .tests = kTests, .links = 2, .instruments = "thread valgrind"});

}  // namespace
}  // namespace pcapv3::live
