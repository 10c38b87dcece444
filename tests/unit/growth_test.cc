// SPDX-License-Identifier: BSD-3-Clause
// A whole reader whose ring grows: each packet comes once and in the order of its CPU, or is
// counted, whatever happens meanwhile; what must not grow does not; and nothing is left behind.
#include "pcap-linux-v3/growth/growth.h"

#include <linux/filter.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <random>

#include "capture.h"
#include "catch.h"
#include "pcap-linux-v3/growth/ring_budget.h"
#include "pcap-linux-v3/include/pcap/linux-v3.h"
#include "pcap-linux-v3/port.h"

namespace pcapv3::test {
namespace {

constexpr std::uint64_t kMs = Capture::kMs;
using Call = FakeKernel::Call;

/// Returns whether all that was reserved of the budget has been released.
bool is_nothing_reserved() {
  release_ring(1);
  const bool none = !reserve_ring(0);  // as less than nothing is more than there is
  release_ring(0 - std::uint64_t{1});
  return none;
}

/// A capture whose ring grows, and packets that come by several CPUs: a packet's number has its CPU
/// in the upper byte, and counts the packets of that.
class Growing {
 public:
  static constexpr unsigned kCpus = 4;

  explicit Growing(const Capture::Options& options = growing()) : c(FeedKind::kSingle, options) {
    c.after_close = [this] {
      CHECK(c.kernel.descriptors() == 0);
      CHECK(c.kernel.mappings() == 0);
      CHECK(c.kernel.sockets() == 0);
      CHECK(is_nothing_reserved());
    };
  }

  static Capture::Options growing() {
    Capture::Options options;
    options.buffer = nullptr;
    options.timeout_ms = 100;
    return options;
  }

  Capture c;

  std::uint64_t ring_bytes() { return c.port(0)->ring().geometry().ring_bytes(); }
  unsigned growths() { return c.port(0)->growth().count(); }
  std::uint64_t sent() const { return sent_; }
  unsigned blocks() { return c.port(0)->ring().geometry().block_count; }

  bool is_free(unsigned cpu) const {
    return next_[cpu] == 0 || !c.kernel.is_under_way(cpu << 24 | (next_[cpu] - 1));
  }
  void send(std::size_t bytes = 1000, unsigned cpu = 0) {
    (void)c.kernel.receive(kInterface, number(cpu), bytes);
  }
  void send_many(unsigned count, std::size_t bytes = 1000, unsigned cpu = 0) {
    while (count-- != 0) send(bytes, cpu);
  }
  void send_in_parts(unsigned cpu, std::size_t bytes, unsigned sockets) {
    c.kernel.receive_in_parts(kInterface, number(cpu), bytes, sockets);
  }
  void send_slowly(unsigned cpu) { c.kernel.receive_slowly(kInterface, number(cpu)); }
  /// Fills three quarters of the ring's blocks.
  void fill() {
    while (!c.port(0)->position().has(blocks() * 3 / 4)) send();
  }

  /// Reads until the ring has grown, with a packet before each read of one.
  void read_until_grown() {
    const unsigned before = growths();
    for (int i = 0; i < 100'000 && growths() == before; ++i) {
      send();
      REQUIRE(c.read(1) == 1);
    }
    REQUIRE(growths() == before + 1);
  }
  void grow() {
    fill();
    read_until_grown();
  }
  /// Has the filter reject numbers that `divisor` divides: the kernel's, from now on, and the
  /// handle's for what is there already, as stock code has it (pcap-linux.c: pcap_setfilter_linux).
  void set_filter(std::uint32_t divisor) {
    sock_filter code[] = {
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, 0},  {BPF_ALU | BPF_MOD | BPF_K, 0, 0, divisor},
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0}, {BPF_RET | BPF_K, 0, 0, 0},
        {BPF_RET | BPF_K, 0, 0, 262144},
    };
    const sock_fprog program = {std::size(code), code};
    REQUIRE(setsockopt(c.socket(0), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) == 0);
    c.old_blocks = c.port(0)->unfinished_blocks();
    c.set_filter([divisor](std::uint32_t number) { return number % divisor != 0; });
  }

  /// Reads everything.
  void finish() {
    c.in_callback = nullptr;
    c.kernel.in_grace_period = nullptr;
    c.kernel.failure = nullptr;
    c.kernel.wait_for_grace();
    c.kernel.pass(300 * kMs);
    c.set_nonblocking(true);
    // Breaks may be left over.
    for (int status = -1; status != 0;) {
      status = c.read();
      REQUIRE((status >= 0 || status == PCAP_ERROR_BREAK));
    }
    c.read_all();
  }

  /// Checks what was read: nothing came twice, and each CPU's packets came in order.
  void check_order() const {
    std::uint32_t next[kCpus] = {};
    for (const std::uint32_t number : c.got) {
      const std::uint32_t count = number & 0xffffff;
      if (count < next[number >> 24]) FAIL("packet " << std::hex << number << " comes too late");
      next[number >> 24] = count + 1;
    }
  }
  /// Checks that nothing is missing, either.
  void check_all() {
    check_order();
    const Counters counters = c.counters();
    CHECK(counters.received == sent_);
    CHECK(counters.dropped == 0);
    CHECK(counters.corrupt == 0);
    CHECK(counters.delivered == c.got.size());
    CHECK(counters.unwalked == 0);
    CHECK(counters.filtered == c.rejected.size());
    CHECK(c.got.size() + c.rejected.size() == sent_);
    std::set<std::uint32_t> seen(c.got.begin(), c.got.end());
    for (const std::uint32_t number : c.rejected) CHECK(seen.insert(number).second);
    CHECK(seen.size() == sent_);
  }

 private:
  static constexpr int kInterface = 5;  // the capture's first

  std::uint32_t number(unsigned cpu) {
    if (!is_free(cpu)) FAIL("a CPU that is busy");
    ++sent_;
    return cpu << 24 | next_[cpu]++;
  }

  std::uint32_t next_[kCpus] = {};
  std::uint64_t sent_ = 0;
};

/// Returns what `ask` returns in a forked process.
template <typename Question>
bool in_child(Question ask) {
  const pid_t child = fork();
  if (child == 0) _exit(ask() ? 0 : 1);
  int status = -1;
  return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

}  // namespace

TEST_CASE("growth: a backlog of packets that leave half of each block empty counts whole") {
  constexpr std::size_t kBytes = 65'549;  // one in a block of 128 KiB
  Growing g;
  for (unsigned i = 0; i < g.blocks() * 3 / 4; ++i) g.send(kBytes);
  g.read_until_grown();
  g.finish();
  g.check_all();
}

TEST_CASE("growth: a ring starts with 4 MiB, and grows after a backlog, with nothing lost") {
  Growing g;
  CHECK(g.ring_bytes() == 4 * kMiB);
  CHECK(g.c.kernel.mappings() == 1);
  g.fill();
  CHECK_FALSE(g.c.kernel.stamps_for_all());
  g.read_until_grown();
  CHECK(g.ring_bytes() == 16 * kMiB);
  CHECK(g.c.rings_replaced == 1);
  // What was in the old ring is still there, but nothing is asked of the kernel any more.
  CHECK(g.c.kernel.mappings() == 2);
  CHECK_FALSE(g.c.kernel.stamps_for_all());
  g.send_many(1000);
  g.finish();
  g.send_many(1000);  // some looks more
  g.finish();
  CHECK(g.c.kernel.mappings() == 1);
  g.check_all();
}

TEST_CASE("growth: a ring grows twice, up to 64 MiB, and no further") {
  Growing g;
  g.grow();
  g.finish();
  g.send_many(1000);
  g.finish();
  g.grow();
  CHECK(g.ring_bytes() == 64 * kMiB);
  g.finish();
  g.send_many(1000);
  g.finish();
  CHECK(g.c.kernel.mappings() == 1);
  const unsigned waits = g.c.kernel.grace_periods();
  g.fill();
  g.finish();
  CHECK(g.growths() == 2);
  CHECK(g.c.kernel.grace_periods() == waits + 1);  // finish() waits for one
  g.check_all();
}

TEST_CASE("growth: a ring grows with the rate, though the reader keeps up") {
  Growing g;
  // 50 MB a second.
  for (int ms = 0; ms < 400 && g.growths() == 0; ms += 2) {
    g.send_many(100);
    g.c.kernel.pass(2 * kMs);
    g.c.set_nonblocking(true);
    while (g.c.read() > 0) {
    }
  }
  CHECK(g.growths() == 1);
  CHECK(g.ring_bytes() == 16 * kMiB);
  g.finish();
  g.check_all();
}

TEST_CASE("growth: a ring does not grow at a low rate, however long it lasts") {
  Growing g;
  g.c.set_nonblocking(true);
  for (int ms = 0; ms < 20'000; ms += 20) {
    g.send_many(100, 1000);  // 5 MB a second
    g.c.kernel.pass(20 * kMs);
    (void)g.c.read();
  }
  CHECK(g.growths() == 0);
  g.finish();
  g.check_all();
}

TEST_CASE("growth: a ring that was full grows, and what was dropped is counted") {
  Growing g;
  const unsigned size = GENERATE(60u, 1000u, 20'000u, 65'000u);
  CAPTURE(size);
  for (int i = 0; i < 100'000 && !g.c.port(0)->position().has(g.blocks() - 1); ++i) g.send(size);
  g.send_many(50, size);
  for (int i = 0; i < 100'000 && g.growths() == 0; ++i) {
    g.send(size);
    g.c.kernel.pass(kMs / 100);
    (void)g.c.read(1);
  }
  CHECK(g.growths() == 1);
  g.finish();
  g.check_order();
  const Counters counters = g.c.counters();
  CHECK(counters.received == g.sent());
  CHECK(counters.dropped == g.sent() - g.c.got.size());
  CHECK(counters.delivered == g.c.got.size());
}

TEST_CASE("growth: what is dropped around the exchange is counted, once") {
  Growing g;
  const bool is_full = GENERATE(false, true);
  const bool in_parts = GENERATE(false, true);
  CAPTURE(is_full, in_parts);
  g.fill();
  while (!g.c.kernel.stamps_for_all()) REQUIRE(g.c.read(1) == 1);
  const auto overrun = [&] {
    for (int i = 0; i < 10'000 && !g.c.port(0)->position().has(g.blocks() - 1); ++i) g.send();
    g.send_many(20);
    if (in_parts && g.is_free(1)) g.send_in_parts(1, 500, 0);
  };
  overrun();
  g.c.kernel.in_grace_period = [&] { g.send_many(7); };
  if (is_full) {
    g.c.in_callback = [&](std::uint32_t) {
      if (g.growths() == 0) overrun();
    };
  }
  for (int i = 0; i < 10'000 && g.growths() == 0; ++i) (void)g.c.read();
  CHECK(g.growths() == 1);
  g.finish();
  g.check_order();
  const Counters counters = g.c.counters();
  CHECK(counters.received == g.sent());
  CHECK(counters.delivered == g.c.got.size());
  CHECK(counters.dropped == g.sent() - g.c.got.size());
  CHECK(counters.dropped >= 20);
}

TEST_CASE("growth: none during a drain") {
  Growing g;
  g.fill();
  while (!g.c.kernel.stamps_for_all()) REQUIRE(g.c.read(1) == 1);
  g.send_many(1000);
  g.c.break_in_handler();
  int status = 0;
  while (status >= 0) {
    status = g.c.read(300);
    CHECK(g.growths() == 0);
  }
  CHECK(status == PCAP_ERROR_BREAK);
  CHECK(g.c.got.size() == g.sent());
  g.c.set_nonblocking(true);
  for (int i = 0; i < 5000 && g.growths() == 0; ++i) {
    g.send();
    (void)g.c.read();
  }
  CHECK(g.growths() == 1);
  g.finish();
  g.check_all();
}

TEST_CASE("growth: signals wait until the sockets are exchanged") {
  Growing g;
  g.fill();
  bool broken = false;
  g.c.kernel.in_grace_period = [&] {
    if (std::exchange(broken, true)) return;  // it may be the drain's
    g.c.break_in_handler();
    CHECK_FALSE(g.c.break_flag_is_set());
  };
  for (int i = 0; i < 20'000 && g.growths() == 0; ++i) {
    g.send();
    if (g.c.read(1) == PCAP_ERROR_BREAK) broken = false;
  }
  CHECK(g.growths() == 1);
  g.finish();
  g.check_all();
}

TEST_CASE("growth: a packet of the old ring stays while a callback reads on") {
  Growing g;
  g.grow();
  g.send_many(9000);
  bool nested = false;
  g.c.in_callback = [&](std::uint32_t number) {
    if (std::exchange(nested, true)) return;
    const u_char* const bytes = g.c.last_bytes;
    while (g.c.port(0)->position().has_old()) REQUIRE(g.c.read(1) == 1);
    for (int i = 0; i < 3000; ++i) REQUIRE(g.c.read(1) == 1);
    CHECK(g.c.kernel.mappings() == 2);
    CHECK(number_of(bytes, 1000) == number);
  };
  REQUIRE(g.c.port(0)->position().has_old());
  CHECK(g.c.read(1) == 1);
  CHECK(nested);
  g.c.in_callback = nullptr;
  g.finish();
  CHECK(g.c.kernel.mappings() == 1);
  g.check_all();
}

TEST_CASE("growth: a packet under way during the exchange comes once") {
  Growing g;
  const unsigned in_wait = GENERATE(0u, 1u, 2u, 3u, 4u);
  const unsigned sockets = GENERATE(0u, 1u, 2u);
  const bool before = GENERATE(false, true);
  CAPTURE(in_wait, sockets, before);
  g.fill();
  while (!g.c.kernel.stamps_for_all()) REQUIRE(g.c.read(1) == 1);
  if (before) g.send_in_parts(1, 500, sockets);
  unsigned waits = 0;
  g.c.kernel.in_grace_period = [&] {
    if (waits == in_wait && g.is_free(2)) g.send_in_parts(2, 600, sockets);
    if (waits == in_wait && g.is_free(3)) g.send_slowly(3);
    g.send(700, 0);
    ++waits;
  };
  g.read_until_grown();
  CHECK(waits >= 3);
  g.finish();
  g.check_all();
}

TEST_CASE("growth: many packets of several CPUs that cross the exchange come once each") {
  Growing g;
  g.fill();
  unsigned waits = 0;
  g.c.kernel.in_grace_period = [&] {
    ++waits;
    for (unsigned n = 0; n < 400; ++n) {
      const unsigned cpu = n % 3;
      if (!g.is_free(cpu)) continue;
      g.send(60 + n, cpu);
      if (n > 390 && n % 3 != 0) g.send_in_parts(cpu, 100, waits % 3);
    }
  };
  g.read_until_grown();
  g.finish();
  g.check_all();
}

TEST_CASE("growth: nothing happens before packets have the stamps of all sockets") {
  Growing g;
  g.fill();
  while (!g.c.kernel.stamps_for_all()) REQUIRE(g.c.read(1) == 1);
  // All that is there has come before.
  const unsigned waits = g.c.kernel.grace_periods();
  g.c.set_nonblocking(true);
  while (g.c.read(1) == 1) {
  }
  CHECK(g.growths() == 0);
  CHECK(g.c.kernel.grace_periods() == waits);
  for (int i = 0; i < 1000; ++i) {
    g.send();
    (void)g.c.read(1);
  }
  CHECK(g.growths() == 1);
  g.finish();
  g.check_all();
}

TEST_CASE("growth: packets without the stamps of all sockets are not waited for long") {
  Growing g;
  g.fill();
  while (!g.c.kernel.stamps_for_all()) REQUIRE(g.c.read(1) == 1);
  g.c.kernel.pass(3000 * kMs);
  for (int i = 0; i < 1000; ++i) REQUIRE(g.c.read(1) == 1);
  CHECK(g.growths() == 0);
  CHECK_FALSE(g.c.kernel.stamps_for_all());
  g.c.read_all();
  CHECK(g.c.kernel.mappings() == 1);
  g.c.kernel.pass(10'000 * kMs);
  g.grow();
  g.finish();
  g.check_all();
}

TEST_CASE("growth: a program that reads, breaks or drains meanwhile gets each packet once") {
  Growing g;
  const int way = GENERATE(range(0, 6));
  CAPTURE(way);
  if (way == 4) g.c.kernel.thread_ns = 5 * kMs;
  g.c.set_nonblocking(true);
  g.fill();
  bool done = false;
  g.c.kernel.in_grace_period = [&] {
    g.send_many(3, 100);
    if (done) return;
    done = true;
    if (way == 0) g.c.break_in_handler();
    if (way == 1) g.c.break_in_thread();
  };
  unsigned depth = 0;
  g.c.in_callback = [&](std::uint32_t number) {
    if (depth != 0 || number % 3 != 0) return;
    ++depth;
    if (way == 2) (void)g.c.read(2);
    if (way == 3 && number % 50 == 0) g.c.break_loop();
    if (way == 4 && number % 50 == 0) g.c.kernel.pass(kMs);
    if (way == 5 && number % 50 == 0) g.c.break_in_handler();
    --depth;
  };
  for (int i = 0; i < 20'000 && g.growths() == 0; ++i) {
    g.send(1000, 1);
    const int status = g.c.read(i % 7 == 0 ? 5 : 1);
    REQUIRE((status >= 0 || status == PCAP_ERROR_BREAK));
  }
  CHECK(g.growths() == 1);
  g.c.in_callback = nullptr;
  g.c.kernel.in_grace_period = nullptr;
  (void)g.c.read(1);  // for a break that is left over
  for (int i = 0; i < 3; ++i) {
    g.send_many(10);
    g.c.break_in_handler();
    int status = 0;
    while (status >= 0) status = g.c.read(400);
    CHECK(status == PCAP_ERROR_BREAK);
    CHECK(g.c.got.size() == g.sent());
    pcap_stat stats{};
    REQUIRE(g.c.frozen(stats));
    CHECK(stats.ps_recv == g.sent());
    CHECK(stats.ps_drop == 0);
  }
  // Nested reads deliver while the outer one has packets before these.
  g.finish();
  if (way != 2) {
    g.check_all();
  } else {
    CHECK(std::set<std::uint32_t>(g.c.got.begin(), g.c.got.end()).size() == g.sent());
  }
}

TEST_CASE("growth: a growth after a drain that has read part of the kernel's block") {
  Growing g;
  g.fill();
  g.c.set_nonblocking(true);
  while (g.c.got.size() + 500 < g.sent()) {
    g.send();
    g.c.break_in_handler();
    int status = 0;
    while (status >= 0) status = g.c.read(300);
  }
  g.send_many(200);
  g.grow();
  g.finish();
  g.check_all();
}

TEST_CASE("growth: blocks that are outstanding stay as they are") {
  Growing g;
  const unsigned held = GENERATE(1u, 6u, 40u);
  g.fill();
  std::vector<pcap_v3_block*> blocks;
  std::uint64_t sequence = 0;
  const auto acquire = [&] {
    pcap_v3_block* block = nullptr;
    if (g.c.acquire(0, &block) != 1) return false;
    CHECK(pcap_v3_block_info(block)->sequence == ++sequence);
    CHECK(pcap_v3_block_info(block)->lost == 0);
    blocks.push_back(block);
    return true;
  };
  const auto release = [&] {
    g.c.walk(blocks.front());
    g.c.release(blocks.front());
    blocks.erase(blocks.begin());
  };
  for (int i = 0; i < 10'000 && g.growths() == 0; ++i) {
    g.send_many(50);
    (void)acquire();
    while (blocks.size() > held) release();
    while (blocks.size() > 1 && g.c.port(0)->position().handed_over() + blocks.size() + 4 > 32) {
      release();
    }
  }
  CHECK(g.growths() == 1);
  g.send_many(2000);
  for (int i = 0; i < 60 && acquire(); ++i) g.send_many(50);
  CHECK(g.c.kernel.mappings() == 2);
  while (!blocks.empty()) release();
  // The old socket is the next spare one.
  g.send_many(2000);
  g.finish();
  CHECK(g.c.kernel.mappings() == 1);
  CHECK(g.c.kernel.descriptors() == 3);
  g.grow();
  g.finish();
  g.check_all();
}

TEST_CASE("growth: a wait for a block sees the new socket's") {
  Growing g;
  g.fill();
  pcap_v3_block* block = nullptr;
  const auto acquire = [&](int timeout_ms) {
    if (g.c.acquire(timeout_ms, &block) != 1) return false;
    g.c.walk(block);
    g.c.release(block);
    return true;
  };
  for (int i = 0; i < 1000 && g.growths() == 0; ++i) {
    g.send_many(50);
    (void)acquire(0);
  }
  REQUIRE(g.growths() == 1);
  while (acquire(300)) {
  }
  g.c.kernel.at(10 * kMs, [&] { g.send_many(1000); });
  const std::uint64_t before = g.c.kernel.now_ns();
  CHECK(acquire(5000));
  CHECK(g.c.kernel.now_ns() - before < 20 * kMs);
  g.finish();
  g.check_all();
}

TEST_CASE("growth: blocks are acquired first when the ring has just grown") {
  Growing g;
  g.grow();
  REQUIRE(g.c.port(0)->position().has_old());
  g.send_many(9000);  // blocks of both rings have the same places
  pcap_v3_block* block = nullptr;
  for (int i = 0; i < 100; ++i) {
    if (g.c.acquire(0, &block) != 1) continue;
    g.c.walk(block);
    g.c.release(block);
  }
  CHECK(g.c.kernel.mappings() == 1);
  g.finish();
  g.check_all();
}

TEST_CASE(
    "growth: a block acquired in a callback is the new ring's after the old one's last packet") {
  Growing g;
  g.grow();
  g.send_many(9000);
  const RingPosition& position = g.c.port(0)->position();
  pcap_v3_block* block = nullptr;
  g.c.in_callback = [&](std::uint32_t) {
    // The new ring's first block is next.
    const bool is_last = position.has_old() && position.index(1) == 0 && position.index() != 31;
    if (block != nullptr || !is_last || !position.cursor().done()) return;
    (void)g.c.acquire(0, &block);
    CHECK(g.c.kernel.mappings() == 2);  // the packet is still in use
  };
  while (position.has_old()) REQUIRE(g.c.read(1) == 1);
  g.c.in_callback = nullptr;
  REQUIRE(block != nullptr);
  g.c.walk(block);
  g.c.release(block);
  g.finish();
  g.check_all();
}

TEST_CASE("growth: blocks that are outstanding when the handle is closed keep their ring") {
  std::vector<pcap_v3_block*> blocks;
  const auto release = [&] {
    for (pcap_v3_block* const block : blocks) pcap_v3_release_block(block);
    blocks.clear();
  };
  const bool late = GENERATE(false, true);
  Growing g;
  const std::function<void()> check = g.c.after_close;
  g.c.after_close = [&, check] {
    if (late) {
      CHECK(g.c.kernel.mappings() != 0);
      CHECK(g.c.kernel.descriptors() == 0);
    }
    for (pcap_v3_block* const block : blocks) CHECK(pcap_v3_block_info(block)->packets != 0);
    release();
    check();
  };
  g.fill();
  while (g.growths() == 0) {
    g.send_many(50);
    pcap_v3_block* block = nullptr;
    if (g.c.acquire(0, &block) == 1) blocks.push_back(block);
    if (blocks.size() == 20) release();
  }
  for (int i = 0; i < 15; ++i) {
    g.send_many(50);
    pcap_v3_block* block = nullptr;
    if (g.c.acquire(0, &block) == 1) blocks.push_back(block);
  }
  REQUIRE_FALSE(blocks.empty());
  if (!late) release();
}

TEST_CASE("growth: the filter goes along, and is as new as before") {
  Growing g;
  const int when = GENERATE(0, 1, 2, 3);
  CAPTURE(when);
  if (when == 0) g.set_filter(3);
  g.fill();
  g.c.set_nonblocking(true);
  if (when == 1) g.set_filter(3);
  g.c.kernel.in_grace_period = [&] { g.send_many(5, 300); };
  for (int i = 0; i < 10'000 && g.growths() == 0; ++i) {
    g.send();
    if (when == 2 && i == 200) g.set_filter(3);
    (void)g.c.read(1);
  }
  REQUIRE(g.growths() == 1);
  if (when == 3) g.set_filter(3);
  g.send_many(1000);
  g.c.set_nonblocking(false);
  const std::uint64_t sent = g.sent();
  g.finish();
  g.check_order();
  const Counters counters = g.c.counters();
  CHECK(counters.delivered == g.c.got.size());
  CHECK(counters.seen() == counters.received);
  CHECK(counters.dropped == 0);
  // What it rejects came before it was set, if at all; the rest, whatever became of it, is there.
  std::set<std::uint32_t> seen(g.c.got.begin(), g.c.got.end());
  const std::set<std::uint32_t>& rejected = g.c.rejected;
  for (std::uint32_t number = 0; number < sent; ++number) {
    if (number % 3 != 0 && seen.count(number) == 0) FAIL("packet " << number << " is missing");
    if (number + 1000 >= sent && number % 3 == 0 && seen.count(number) != 0) {
      FAIL("packet " << number << " passed the filter");
    }
  }
  if (when == 0) CHECK(rejected.empty());
}

TEST_CASE("growth: a call that fails leaves the capture as it was, and is tried again later") {
  Growing g{[] {
    Capture::Options options = Growing::growing();
    options.promiscuous = GENERATE(false, true);
    return options;
  }()};
  struct Failure {
    Call call;
    int error;
    unsigned nth;
  };
  const Failure failure =
      GENERATE(Failure{Call::kMakeRing, ENOMEM, 0}, Failure{Call::kMap, ENOMEM, 0},
               Failure{Call::kMakeRing, EPERM, 0}, Failure{Call::kBind, ENODEV, 0},
               Failure{Call::kBind, ENODEV, 1}, Failure{Call::kDup, EMFILE, 0},
               Failure{Call::kDupTo, EBADF, 0}, Failure{Call::kGetFilter, EACCES, 0},
               Failure{Call::kGrace, EPERM, 0});
  CAPTURE(static_cast<int>(failure.call), failure.error, failure.nth);
  g.fill();
  unsigned before = failure.nth;
  unsigned failed = 0;
  g.c.kernel.failure = [&](Call call) {
    if (call != failure.call) return 0;
    if (before != 0) return --before, 0;
    // A socket can be bound to nothing again if not the first time.
    if (++failed > 1 && call == Call::kBind) return 0;
    return failure.error;
  };
  g.c.kernel.in_grace_period = [&] {
    g.send_many(3, 100);
    if (g.is_free(2)) g.send_in_parts(2, 600, 1);
  };
  for (int i = 0; i < 8000 && (failed == 0 || g.c.kernel.stamps_for_all()); ++i) {
    g.send();
    REQUIRE(g.c.read(1) == 1);
  }
  CHECK(failed != 0);
  CHECK(g.growths() == 0);
  CHECK(g.ring_bytes() == 4 * kMiB);
  g.c.read_all();
  CHECK_FALSE(g.c.kernel.stamps_for_all());
  CHECK(g.c.kernel.mappings() == 1);
  CHECK(g.c.kernel.memberships() == 0);
  CHECK(g.c.kernel.descriptors() == 3);  // its own, the one for grace periods and the spare one
  // Not at once,
  failed = 0;
  const unsigned waits = g.c.kernel.grace_periods();
  g.fill();
  g.c.read_all();
  CHECK(failed == 0);
  CHECK(g.c.kernel.grace_periods() == waits);
  // but later.
  g.c.kernel.failure = nullptr;
  g.c.kernel.pass(10'000 * kMs);
  g.grow();
  g.finish();
  CHECK(g.growths() == 1);
  g.check_all();
}

TEST_CASE("growth: where no memory is left of the budget, the ring stays as it is") {
  Growing g;
  constexpr std::uint64_t kTooMuch = std::uint64_t{1} << 50;
  release_ring(0 - kTooMuch);  // reserves them, whatever there is
  g.fill();
  g.c.read_all();
  CHECK(g.growths() == 0);
  CHECK_FALSE(g.c.kernel.stamps_for_all());
  release_ring(kTooMuch);
  g.c.kernel.pass(10'000 * kMs);
  g.grow();
  g.finish();
  g.check_all();
}

TEST_CASE("growth: a promiscuous capture's membership goes along") {
  Capture::Options options = Growing::growing();
  options.promiscuous = true;
  Growing g(options);
  // The program's own socket has one, too; the host adds it.
  packet_mreq request{};
  request.mr_type = PACKET_MR_PROMISC;
  setsockopt(g.c.socket(0), SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request, sizeof(request));
  g.c.kernel.in_grace_period = [&] { CHECK(g.c.kernel.memberships() >= 1); };
  g.grow();
  CHECK(g.c.kernel.memberships() == 1);
  g.finish();
  g.send_many(1000);
  g.finish();
  CHECK(g.c.kernel.memberships() == 1);
  g.grow();
  CHECK(g.c.kernel.memberships() == 1);
  g.finish();
  g.check_all();
}

TEST_CASE("growth: none for a program that has its socket, whenever it gets it") {
  Growing g;
  const int when = GENERATE(0, 1, 2, 3);
  if (when == 0) pcapv3_reader_keep_socket(g.c.reader);
  g.fill();
  if (when == 1) pcapv3_reader_keep_socket(g.c.reader);
  if (when == 2) {
    while (!g.c.kernel.stamps_for_all()) REQUIRE(g.c.read(1) == 1);
    pcapv3_reader_keep_socket(g.c.reader);
  }
  if (when == 3) {
    g.c.kernel.thread_ns = 5 * kMs;
    while (!g.c.kernel.stamps_for_all()) REQUIRE(g.c.read(1) == 1);
    pcapv3_reader_keep_socket(g.c.reader);
    g.c.kernel.pass(5 * kMs);
  }
  for (int i = 0; i < 5000; ++i) {
    g.send();
    REQUIRE(g.c.read(1) == 1);
  }
  CHECK(g.growths() == 0);
  CHECK(g.ring_bytes() == 4 * kMiB);
  CHECK_FALSE(g.c.kernel.stamps_for_all());
  g.finish();
  CHECK(g.c.kernel.mappings() == 1);
  g.check_all();
}

TEST_CASE("growth: none in a forked process") {
  Growing g;
  g.fill();
  const bool under_way = GENERATE(false, true);
  if (under_way) {
    while (!g.c.kernel.stamps_for_all()) REQUIRE(g.c.read(1) == 1);
  }
  CHECK(in_child([&] {
    for (int i = 0; i < 5000; ++i) {
      g.send();
      if (g.c.read(1) != 1) return false;
    }
    return g.growths() == 0 && g.ring_bytes() == 4 * kMiB;
  }));
}

TEST_CASE("growth: none with PCAPV3_BUFFER, and none without drains") {
  Capture::Options options = Growing::growing();
  if (GENERATE(false, true)) {
    options.buffer = "4M";
  } else {
    options.drain = false;
  }
  Growing g(options);
  const std::uint64_t bytes = g.ring_bytes();
  for (int i = 0; i < 20; ++i) {
    g.send_many(1000);
    g.c.read_all();
  }
  CHECK(g.growths() == 0);
  CHECK(g.ring_bytes() == bytes);
  g.finish();
  g.check_all();
}

namespace {

/// Puts this process under a filter that allows everything.
bool confine() {
  sock_filter allow = {BPF_RET | BPF_K, 0, 0, 0x7fff0000};  // SECCOMP_RET_ALLOW
  const sock_fprog program = {1, &allow};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, 2 /* SECCOMP_MODE_FILTER */, &program) == 0;
}

}  // namespace

TEST_CASE("growth: a process that confines itself is left alone from then on") {
  const int when = GENERATE(0, 1, 2);
  const bool acquires = GENERATE(false, true);
  CAPTURE(when, acquires);
  CHECK(in_child([&] {
    auto& g = *new Growing;
    g.fill();
    g.c.set_nonblocking(true);
    const auto read_one = [&] {
      pcap_v3_block* block = nullptr;
      if (!acquires) return g.c.read(1) >= 0;
      const int status = g.c.acquire(0, &block);
      if (status == 1) {
        g.c.walk(block);
        g.c.release(block);
      }
      return status >= 0;
    };
    if (when == 1) {
      while (!g.c.kernel.stamps_for_all()) g.c.read(1);
    }
    if (when == 2) g.read_until_grown();
    if (!confine()) return true;  // the kernel has no seccomp
    const unsigned waits = g.c.kernel.grace_periods();
    const unsigned growths = g.growths();
    for (int i = 0; i < 10'000; ++i) {
      g.send();
      if (!read_one()) return false;
    }
    if (g.c.kernel.grace_periods() != waits || g.growths() != growths) return false;
    g.c.kernel.pass(300 * kMs);
    while (g.c.got.size() < g.sent()) {
      const std::size_t before = g.c.got.size();
      if (!read_one()) return false;
      if (g.c.got.size() == before) return false;
    }
    std::uint32_t next = 0;
    for (const std::uint32_t number : g.c.got) {
      if (number != next++) return false;
    }
    return g.sent() == next;
  }));
}

// ---- Random schedules ----

namespace {

class Schedule {
 public:
  explicit Schedule(unsigned seed)
      : random_(seed),
        acquires_(seed % 4 == 3),
        filters_(seed % 4 == 1),
        fails_(seed % 3 == 2),
        nests_(seed % 5 == 4) {
    g_.c.set_nonblocking(true);
    g_.c.kernel.thread_ns = one_in(2) ? 0 : below(10) * kMs;
    g_.c.kernel.in_grace_period = [this] {
      send(below(20));
      if (one_in(10)) break_loop();
    };
    g_.c.in_callback = [this](std::uint32_t) { do_in_callback(); };
    if (fails_) {
      // What RLIMIT_NOFILE forbids does not change from one call to the next.
      g_.c.kernel.failure = [this](Call call) {
        if (call == Call::kDupTo) return dup_fails_ ? EBADF : 0;
        return one_in(15) ? ENOMEM : 0;
      };
    }
  }

  void run() {
    for (int step = 0; step < 150; ++step) {
      take_step();
      if (step % 50 == 49) g_.c.kernel.pass(fails_ ? 10'000 * kMs : 0);
    }
    release();
    g_.finish();
    check();
  }
  unsigned growths() { return g_.growths(); }

 private:
  unsigned below(unsigned bound) { return static_cast<unsigned>(random_() % bound); }
  bool one_in(unsigned n) { return below(n) == 0; }

  void send(unsigned count) {
    while (count-- != 0) {
      const unsigned cpu = below(Growing::kCpus);
      if (!g_.is_free(cpu)) continue;
      const std::size_t bytes = one_in(30) ? 60'000 : one_in(3) ? 60 : 1000 + below(500);
      // One CPU always gets on.
      if (cpu != 0 && one_in(200)) {
        g_.send_slowly(cpu);
      } else if (cpu != 0 && one_in(100)) {
        g_.send_in_parts(cpu, bytes, below(3));
      } else {
        g_.send(bytes, cpu);
      }
    }
  }
  void break_loop() {
    switch (below(3)) {
      case 0:
        return g_.c.break_loop();
      case 1:
        return g_.c.break_in_handler();
      default:
        return g_.c.break_in_thread();
    }
  }
  void do_in_callback() {
    if (one_in(20)) send(below(8));
    if (one_in(500)) g_.c.kernel.pass(below(5) * kMs);
    if (one_in(3000)) break_loop();
    if (nests_ && depth_ == 0 && one_in(50)) {
      ++depth_;
      read();
      --depth_;
    }
  }
  void read() {
    const int count = one_in(2) ? -1 : 1 + static_cast<int>(below(300));
    const int status = g_.c.read(count);
    REQUIRE((status >= 0 || status == PCAP_ERROR_BREAK));
  }
  void acquire() {
    pcap_v3_block* block = nullptr;
    const int status = g_.c.acquire(0, &block);
    REQUIRE((status >= 0 || status == PCAP_ERROR_BREAK));
    if (status != 1) return;
    g_.c.walk(block);
    blocks_.push_back(block);
    if (blocks_.size() > 8 || one_in(3)) release();
  }
  void release() {
    while (!blocks_.empty()) {
      const unsigned i = below(static_cast<unsigned>(blocks_.size()));
      g_.c.release(blocks_[i]);
      blocks_.erase(blocks_.begin() + i);
    }
  }
  void take_step() {
    send(below(one_in(10) ? 3000 : 200));
    if (one_in(3)) g_.c.kernel.pass(below(40) * kMs);
    if (one_in(30)) break_loop();
    dup_fails_ = one_in(10);
    if (filters_ && one_in(10)) {
      const unsigned divisor = 2 + below(3);
      if (one_in(2)) {
        g_.c.set_filter(nullptr);
      } else {
        g_.c.set_filter([divisor](std::uint32_t number) { return number % divisor != 0; });
      }
    }
    if (acquires_ && one_in(2)) {
      for (unsigned i = below(12); i > 0; --i) acquire();
    } else if (!one_in(4)) {
      read();
    }
  }

  void check() {
    const Counters counters = g_.c.counters();
    CHECK(counters.received == g_.sent());
    CHECK(counters.filtered == g_.c.rejected.size());
    CHECK(counters.delivered == g_.c.got.size());
    CHECK(counters.unwalked == 0);
    CHECK(counters.corrupt == 0);
    CHECK(counters.seen() == counters.received);
    std::set<std::uint32_t> seen(g_.c.got.begin(), g_.c.got.end());
    CHECK(seen.size() == g_.c.got.size());
    for (const std::uint32_t number : g_.c.rejected) CHECK(seen.insert(number).second);
    CHECK(seen.size() + counters.dropped == g_.sent());
    CHECK(g_.c.kernel.memberships() == 0);
    if (!nests_) g_.check_order();
  }

  std::mt19937 random_;
  const bool acquires_;
  const bool filters_;
  const bool fails_;
  const bool nests_;
  Growing g_;
  bool dup_fails_ = false;
  unsigned depth_ = 0;
  std::vector<pcap_v3_block*> blocks_;
};

}  // namespace

TEST_CASE("growth: each packet comes once, in order, or is counted, whatever happens") {
  const auto seed = static_cast<unsigned>(GENERATE(range(0, 40)));
  CAPTURE(seed);
  Schedule(seed).run();
}

TEST_CASE("growth: the schedules have growths in them") {
  unsigned growths = 0;
  for (unsigned seed = 0; seed < 8; ++seed) {
    Schedule schedule(seed);
    schedule.run();
    growths += schedule.growths();
  }
  CHECK(growths >= 4);
}

}  // namespace pcapv3::test
