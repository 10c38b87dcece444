// SPDX-License-Identifier: BSD-3-Clause
// The merge: whatever comes, in whatever blocks, each packet comes out once, in time order, and
// soon; what can't be in order is counted as late. kernel_ring.h plays the kernel's side, on a
// clock of the test's own.
#include "pcap-linux-v3/merge.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <set>

#include "catch.h"
#include "tests/kernel_ring.h"

namespace pcapv3::test {
namespace {

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::uint64_t kStart = 1'700'000'000ull * 1000 * kMs;
constexpr std::uint64_t kRetire = 8 * kMs;
constexpr std::uint64_t kWindow = 25 * kMs;
constexpr std::uint32_t kBlockBytes = 4096;

/// Returns a packet that holds its number.
TestPacket packet(std::uint32_t number, std::uint64_t stamp) {
  TestPacket packet{.bytes = Bytes(sizeof(number)),
                    .sec = static_cast<std::uint32_t>(stamp / 1'000'000'000),
                    .nsec = static_cast<std::uint32_t>(stamp % 1'000'000'000)};
  std::memcpy(packet.bytes.data(), &number, sizeof(number));
  return packet;
}

/// A socket's ring, and the reader's mapping of it.
struct Kernel {
  explicit Kernel(unsigned blocks)
      : writer(Geometry{kBlockBytes, blocks, 8}, 0, kStart),
        ring(writer.map(), writer.geometry()) {}

  KernelRing writer;
  Ring ring;
};

struct Out {
  std::uint32_t number;
  std::uint64_t stamp;
  std::uint64_t at;
  unsigned port;
  bool late;
};

/// Ports, the merge over them, and what came out of it: reads as merged.cc does.
class Fixture {
 public:
  explicit Fixture(unsigned ports, unsigned blocks = 64) {
    merge.set_window(kWindow);
    counters.resize(ports);
    for (unsigned i = 0; i < ports; ++i) {
      kernel.push_back(std::make_unique<Kernel>(blocks));
      positions.emplace_back(kernel.back()->ring);
      REQUIRE(merge.add(i, positions.back(), counters[i], filter));
    }
  }

  bool receive(unsigned port, std::uint64_t stamp, std::uint64_t now) {
    return kernel[port]->writer.receive(packet(next_number++, stamp), now);
  }
  void timers(std::uint64_t now) {
    for (auto& port : kernel) port->writer.expire(now);
  }

  void look(std::uint64_t now) {
    for (unsigned i = 0; i < kernel.size(); ++i) {
      while (merge.is_spent(i)) {
        positions[i].close();
        merge.gave_back(i);
      }
    }
    merge.look(now);
  }

  /// Reads what may go, and looks again after each `most` packets.
  void read(std::uint64_t now, unsigned most = ~0u, unsigned in_all = ~0u) {
    for (unsigned n = 0; n < in_all; ++n) {
      if (n % most == 0) look(now);
      if (merge.done()) look(now);
      if (merge.done()) return;
      if (merge.corrupt()) {
        CHECK(merge.drop_corrupt().cursor.corrupt());
        ++corrupt;
        continue;
      }
      Merge::LocalCursor hand(merge);
      const PacketView packet = hand.packet();
      std::uint32_t number;
      std::memcpy(&number, packet.bytes(), sizeof(number));
      const auto port = static_cast<unsigned>(&hand.counters() - counters.data());
      const std::uint64_t late = counters[port].late;
      hand.next();
      hand.commit();
      out.push_back({number, ns_of(packet.stamp()), now, port, counters[port].late > late});
    }
  }

  /// Drains: what the rings hold now comes out, including what is in the kernel's blocks; the drain
  /// is abandoned after `in_all` packets.
  void drain(std::uint64_t now, unsigned in_all = ~0u) {
    for (RingPosition& position : positions) position.set_end(position.mark());
    merge.set_draining(true);
    read(now, ~0u, in_all);
    for (unsigned i = 0; i < kernel.size(); ++i) {
      for (; merge.is_spent(i); merge.gave_back(i)) positions[i].close();
      positions[i].clear_end();
    }
    merge.set_draining(false);
  }

  std::vector<std::uint32_t> numbers() const {
    std::vector<std::uint32_t> numbers;
    for (const Out& o : out) numbers.push_back(o.number);
    return numbers;
  }

  std::vector<std::unique_ptr<Kernel>> kernel;
  std::deque<RingPosition> positions;
  std::vector<Counters> counters;
  UserlandFilter filter;
  Merge merge;
  std::vector<Out> out;
  std::uint32_t next_number = 0;
  unsigned corrupt = 0;
};

using Numbers = std::vector<std::uint32_t>;

}  // namespace

TEST_CASE("an idle port that holds nothing makes nobody wait") {
  Fixture f(2);
  f.receive(0, kStart + 5 * kMs, kStart + 5 * kMs);
  f.read(kStart + 5 * kMs);
  CHECK(f.out.empty());  // the packet is in a block that is still the kernel's
  f.timers(kStart + 8 * kMs);
  f.timers(kStart + 16 * kMs);
  f.read(kStart + 16 * kMs);
  CHECK(f.numbers() == Numbers{0});
}

TEST_CASE("a packet waits while an older one can be in another port's open block") {
  Fixture f(2);
  f.receive(0, kStart + 1 * kMs, kStart + 1 * kMs);
  f.receive(1, kStart + 2 * kMs, kStart + 2 * kMs);
  f.kernel[1]->writer.expire(kStart + 3 * kMs);
  f.kernel[1]->writer.expire(kStart + 11 * kMs);
  f.read(kStart + 11 * kMs);
  CHECK(f.out.empty());
  CHECK(f.merge.holds());
  CHECK(f.merge.deadline_ns() == kStart + 2 * kMs + kWindow);
  f.kernel[0]->writer.expire(kStart + 12 * kMs);
  f.kernel[0]->writer.expire(kStart + 20 * kMs);
  f.read(kStart + 20 * kMs);
  CHECK(f.numbers() == Numbers{0, 1});
  CHECK_FALSE(f.out[1].late);
}

TEST_CASE("nobody waits longer than the window, and what comes after it is late") {
  Fixture f(2);
  f.receive(0, kStart + 1 * kMs, kStart + 1 * kMs);
  f.receive(1, kStart + 2 * kMs, kStart + 2 * kMs);
  f.kernel[1]->writer.expire(kStart + 3 * kMs);
  f.kernel[1]->writer.expire(kStart + 11 * kMs);
  f.read(kStart + 26 * kMs);
  CHECK(f.out.empty());
  f.read(f.merge.deadline_ns());
  CHECK(f.numbers() == Numbers{1});
  f.timers(kStart + 30 * kMs);
  f.timers(kStart + 38 * kMs);
  f.read(kStart + 38 * kMs);
  CHECK(f.numbers() == Numbers{1, 0});
  CHECK(f.out[1].late);
}

TEST_CASE("a packet younger than the other port's open block may not go before it") {
  Fixture f(2);
  f.receive(0, kStart + 1 * kMs, kStart + 1 * kMs);
  f.timers(kStart + 10 * kMs);  // port 0's next block has been open since then
  f.receive(0, kStart + 11 * kMs, kStart + 11 * kMs);
  f.receive(1, kStart + 12 * kMs, kStart + 12 * kMs);
  f.receive(1, kStart + 8 * kMs, kStart + 12 * kMs);
  f.kernel[1]->writer.expire(kStart + 18 * kMs);
  f.kernel[1]->writer.expire(kStart + 18 * kMs);
  f.read(kStart + 18 * kMs);
  // 8 ms is before that block was opened; 12 ms is not.
  CHECK(f.numbers() == Numbers{0, 3});
}

TEST_CASE("of one interface, a packet stamped before its block was opened still goes first") {
  Fixture f(2);
  f.merge.set_one_interface();
  if (GENERATE(false, true)) f.read(kStart + 1 * kMs);  // this finds both rings empty
  f.receive(0, kStart, kStart + 1 * kMs);
  f.kernel[0]->writer.expire(kStart + 10 * kMs);  // this opens a block
  f.receive(0, kStart + 3 * kMs, kStart + 11 * kMs);
  f.receive(1, kStart + 4 * kMs, kStart + 12 * kMs);
  f.kernel[1]->writer.expire(kStart + 13 * kMs);
  f.kernel[1]->writer.expire(kStart + 21 * kMs);
  f.read(kStart + 21 * kMs);
  CHECK(f.numbers() == Numbers{0});
  f.kernel[0]->writer.expire(kStart + 22 * kMs);
  f.read(kStart + 22 * kMs);
  CHECK(f.numbers() == Numbers{0, 1, 2});
}

TEST_CASE("of one interface, what an empty ring allowed once is not allowed for ever") {
  Fixture f(2);
  f.merge.set_one_interface();
  f.read(kStart + 5 * kMs);  // this finds both rings empty
  f.receive(0, kStart + 1 * kMs, kStart + 6 * kMs);
  f.receive(1, kStart + 2 * kMs, kStart + 7 * kMs);
  f.kernel[1]->writer.expire(kStart + 8 * kMs);
  f.kernel[1]->writer.expire(kStart + 16 * kMs);
  f.read(kStart + 16 * kMs);
  CHECK(f.out.empty());
  f.kernel[0]->writer.expire(kStart + 17 * kMs);
  f.kernel[0]->writer.expire(kStart + 25 * kMs);
  f.read(kStart + 25 * kMs);
  CHECK(f.numbers() == Numbers{0, 1});
}

TEST_CASE("of packets with the same stamp the one that was seen first goes first") {
  Fixture f(2);
  for (int i = 0; i < 3; ++i) f.receive(0, kStart + kMs, kStart + kMs);
  for (int i = 0; i < 3; ++i) f.receive(1, kStart + kMs, kStart + kMs);
  f.timers(kStart + 8 * kMs);
  f.timers(kStart + 8 * kMs);
  f.read(kStart + 8 * kMs, 1);
  CHECK(f.numbers() == Numbers{0, 1, 2, 3, 4, 5});
}

TEST_CASE("neighbours out of order are put right, in a block and across two") {
  Fixture f(1);
  std::uint64_t t = kStart;
  for (int i = 0; i < 200; ++i) {
    t += 20'000;
    f.receive(0, i % 3 == 2 ? t - 50'000 : t, t);
  }
  f.timers(t);
  f.timers(t);
  f.read(t + 2 * kMs);
  REQUIRE(f.out.size() == 200);
  CHECK(std::is_sorted(f.out.begin(), f.out.end(),
                       [](const Out& a, const Out& b) { return a.stamp < b.stamp; }));
  CHECK(std::none_of(f.out.begin(), f.out.end(), [](const Out& o) { return o.late; }));
}

TEST_CASE("waiting ends when half of a ring is full") {
  Fixture f(2, 8);
  f.receive(0, kStart + 1 * kMs, kStart + 1 * kMs);  // and its timer never fires
  std::uint64_t t = kStart + 2 * kMs;
  unsigned received = 0;
  for (; received < 2000; ++received) {
    t += 1000;
    if (!f.receive(1, t, t)) break;
    if (received % 20 == 0) f.read(t);
  }
  CHECK(received == 2000);
}

TEST_CASE("a drain brings what the rings hold, in order, and no more; what follows comes once") {
  Fixture f(2);
  f.receive(0, kStart + 1 * kMs, kStart + 1 * kMs);
  f.receive(1, kStart + 2 * kMs, kStart + 2 * kMs);
  f.receive(0, kStart + 3 * kMs, kStart + 3 * kMs);
  f.timers(kStart + 4 * kMs);
  f.timers(kStart + 12 * kMs);
  f.receive(0, kStart + 14 * kMs, kStart + 14 * kMs);
  f.receive(1, kStart + 13 * kMs, kStart + 13 * kMs);
  f.drain(kStart + 15 * kMs);
  CHECK(f.numbers() == Numbers{0, 1, 2, 4, 3});
  f.receive(1, kStart + 16 * kMs, kStart + 16 * kMs);
  f.drain(kStart + 17 * kMs);  // the packet is in the same block
  f.receive(1, kStart + 18 * kMs, kStart + 18 * kMs);
  f.receive(0, kStart + 19 * kMs, kStart + 19 * kMs);
  CHECK(f.numbers() == Numbers{0, 1, 2, 4, 3, 5});
  f.timers(kStart + 20 * kMs);
  f.timers(kStart + 28 * kMs);
  f.read(kStart + 30 * kMs);
  CHECK(f.numbers() == Numbers{0, 1, 2, 4, 3, 5, 6, 7});
}

TEST_CASE("a drain does not wait for a clock that was set back") {
  Fixture f(2);
  f.receive(0, kStart + 1000 * kMs, kStart + 1000 * kMs);
  f.receive(1, kStart + 1001 * kMs, kStart + 1001 * kMs);
  f.read(kStart + 1002 * kMs);
  f.drain(kStart + 990 * kMs);
  CHECK(f.numbers() == Numbers{0, 1});
}

TEST_CASE("what a drain leaves comes afterwards, once") {
  Fixture f(2);
  for (unsigned i = 0; i < 10; ++i) {
    f.receive(i % 2, kStart + (i + 1) * kMs, kStart + (i + 1) * kMs);
  }
  f.drain(kStart + 15 * kMs, 3);
  CHECK(f.numbers() == Numbers{0, 1, 2});
  f.receive(1, kStart + 16 * kMs, kStart + 16 * kMs);
  f.timers(kStart + 17 * kMs);
  f.timers(kStart + 25 * kMs);
  f.read(kStart + 60 * kMs);
  CHECK(f.numbers() == Numbers{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10});
}

TEST_CASE("what is before a corrupt packet comes out, and the rest of the merge goes on") {
  Fixture f(2);
  f.receive(0, kStart + 1 * kMs, kStart + 1 * kMs);
  f.receive(0, kStart + 3 * kMs, kStart + 3 * kMs);
  f.kernel[0]->writer.last_packet().tp_snaplen = 1 << 20;
  f.receive(0, kStart + 4 * kMs, kStart + 4 * kMs);
  f.receive(1, kStart + 2 * kMs, kStart + 2 * kMs);
  f.timers(kStart + 8 * kMs);
  f.timers(kStart + 16 * kMs);
  f.read(kStart + 17 * kMs);
  CHECK(f.corrupt == 1);
  CHECK(std::set<std::uint32_t>{0, 3} == [&] {
    const Numbers n = f.numbers();
    return std::set<std::uint32_t>(n.begin(), n.end());
  }());
  f.receive(0, kStart + 20 * kMs, kStart + 20 * kMs);
  f.timers(kStart + 24 * kMs);
  f.timers(kStart + 32 * kMs);
  f.read(kStart + 33 * kMs);
  CHECK(f.out.back().number == 4);
}

TEST_CASE("a block that begins with a corrupt packet, after good ones, is told of") {
  Fixture f(2);
  f.receive(0, kStart + 1 * kMs, kStart + 1 * kMs);
  f.timers(kStart + 8 * kMs);
  f.timers(kStart + 16 * kMs);
  f.read(kStart + 17 * kMs);
  f.receive(0, kStart + 20 * kMs, kStart + 20 * kMs);
  f.kernel[0]->writer.last_packet().tp_snaplen = 1 << 20;
  f.timers(kStart + 24 * kMs);
  f.timers(kStart + 32 * kMs);
  f.read(kStart + 60 * kMs);
  CHECK(f.corrupt == 1);
}

TEST_CASE("a block older than the one before is read, though no other port has anything") {
  Fixture f(2);
  f.receive(0, kStart + 10 * kMs, kStart + 10 * kMs);
  f.timers(kStart + 16 * kMs);
  f.timers(kStart + 24 * kMs);
  f.read(kStart + 25 * kMs);
  f.receive(0, kStart + 5 * kMs, kStart + 26 * kMs);
  f.timers(kStart + 32 * kMs);
  f.timers(kStart + 40 * kMs);
  f.read(kStart + 60 * kMs);
  CHECK(f.numbers() == Numbers{0, 1});
  CHECK_FALSE(f.merge.holds());
}

TEST_CASE("a port that is gone is empty once its last block was read, and others go on") {
  Fixture f(2);
  f.receive(0, kStart + 1 * kMs, kStart + 1 * kMs);
  f.look(kStart + 2 * kMs);
  CHECK_FALSE(f.merge.is_empty(0));
  f.timers(kStart + 8 * kMs);
  f.timers(kStart + 8 * kMs);
  f.read(kStart + 9 * kMs);
  CHECK(f.merge.is_empty(0));
  f.merge.remove(0);
  f.receive(1, kStart + 10 * kMs, kStart + 10 * kMs);
  f.timers(kStart + 16 * kMs);
  f.timers(kStart + 24 * kMs);
  f.read(kStart + 24 * kMs);
  CHECK(f.numbers() == Numbers{0, 1});
}

TEST_CASE("a clock that is set back stops nothing, and makes nothing late") {
  Fixture f(2);
  f.receive(0, kStart + 100 * kMs, kStart + 100 * kMs);
  f.timers(kStart + 108 * kMs);
  f.timers(kStart + 116 * kMs);
  f.read(kStart + 117 * kMs);
  std::uint64_t t = kStart + 50 * kMs;
  for (int i = 0; i < 100; ++i, t += kMs) {
    f.receive(i % 2, t, t);
    if (i % 8 == 0) f.timers(t);
    f.read(t);
  }
  f.timers(t);
  f.timers(t + 8 * kMs);
  f.read(t + 17 * kMs);
  REQUIRE(f.out.size() == 101);
  CHECK(std::none_of(f.out.begin(), f.out.end(), [](const Out& o) { return o.late; }));
  CHECK(std::all_of(f.out.begin(), f.out.end(),
                    [](const Out& o) { return o.number == 0 || o.at - o.stamp <= kWindow; }));
}

TEST_CASE("what is held when the clock is set back goes at once") {
  Fixture f(2);
  f.receive(0, kStart + 101 * kMs, kStart + 101 * kMs);
  f.receive(1, kStart + 102 * kMs, kStart + 102 * kMs);
  f.kernel[1]->writer.expire(kStart + 102 * kMs);
  f.kernel[1]->writer.expire(kStart + 110 * kMs);
  f.read(kStart + 110 * kMs);
  CHECK(f.out.empty());
  f.read(kStart + 10 * kMs);
  CHECK(f.numbers() == Numbers{1});
}

TEST_CASE("a packet from the future is not waited for and makes no other late") {
  Fixture f(2);
  f.receive(0, kStart + 3'600'000 * kMs, kStart + 1 * kMs);
  f.timers(kStart + 8 * kMs);
  f.timers(kStart + 16 * kMs);
  f.read(kStart + 16 * kMs);
  CHECK(f.numbers() == Numbers{0});
  f.receive(1, kStart + 20 * kMs, kStart + 20 * kMs);
  f.receive(0, kStart + 21 * kMs, kStart + 21 * kMs);
  f.timers(kStart + 24 * kMs);
  f.timers(kStart + 32 * kMs);
  f.read(kStart + 34 * kMs);
  CHECK(f.numbers() == Numbers{0, 1, 2});
  CHECK_FALSE(f.out[1].late);
  CHECK_FALSE(f.out[2].late);
}

// Random ports, random traffic and random reading.
TEST_CASE("what comes out is what came in, in order but for what is told to be late") {
  const auto seed = static_cast<unsigned>(GENERATE(range(0, 120)));
  CAPTURE(seed);
  const bool drains = seed >= 60;
  std::mt19937_64 random(seed);
  const auto below = [&](std::uint64_t n) { return n == 0 ? 0 : random() % n; };
  const unsigned ports = 1 + static_cast<unsigned>(below(8));
  // Some kernels behave; in others stamps or timers are later than promised.
  const bool unruly = seed % 3 == 2;
  Fixture f(ports, unruly ? 64 : 256);

  struct Port {
    std::uint64_t gap;     // between packets, in ns
    std::uint64_t jitter;  // how much older a stamp can be than that of the packet before
    std::uint64_t next;
    std::uint64_t timer;
    std::uint64_t quiet_until;
  };
  std::vector<Port> port(ports);
  for (Port& p : port) {
    static constexpr std::uint64_t kGaps[] = {10'000, 40'000, 300'000, 5 * kMs, 60 * kMs};
    p.gap = kGaps[below(5)];
    p.jitter = below(3) == 0 ? Merge::kDisorderNs / 2 : 0;
    p.next = kStart + below(p.gap);
    p.timer = kStart + below(kRetire);
    p.quiet_until = 0;
  }

  std::vector<std::pair<std::uint64_t, std::uint64_t>> sent;  // stamp, time
  std::uint64_t now = kStart;
  bool over = false;
  const auto step = [&](std::uint64_t to) {
    for (unsigned i = 0; i < ports; ++i) {
      Port& p = port[i];
      while (p.next <= to && !over && sent.size() < 6000) {
        if (p.timer < p.next) {
          f.kernel[i]->writer.expire(p.timer);
          p.timer += kRetire + (unruly ? below(4 * kRetire) : 0);
          continue;
        }
        std::uint64_t stamp =
            p.next - std::min<std::uint64_t>(below(p.jitter + 1), p.next - kStart);
        if (unruly && below(500) == 0) stamp -= std::min(40 * kMs, stamp - kStart);
        REQUIRE(f.receive(i, stamp, p.next));
        sent.push_back({stamp, p.next});
        // Ticks of a coarse clock make ties.
        p.next += 1 + below(2 * p.gap);
        if (seed % 2 == 0) p.next -= p.next % 10'000;
        if (p.next <= sent.back().second) p.next = sent.back().second + 10'000;
        if (below(400) == 0) p.next += below(200 * kMs);  // the port goes quiet
      }
      while (p.timer <= to) {
        f.kernel[i]->writer.expire(p.timer);
        p.timer += kRetire + (unruly ? below(4 * kRetire) : 0);
      }
    }
    now = to;
  };
  while (sent.size() < 6000 && now < kStart + 20'000 * kMs) {
    step(now + 1 + below(3 * kMs));
    if (drains && below(50) == 0) {
      const bool whole = below(2) == 0;
      f.drain(now, whole ? ~0u : static_cast<unsigned>(below(20)));
      if (whole) REQUIRE(f.out.size() == sent.size());
    }
    f.read(now, below(4) == 0 ? 1 + static_cast<unsigned>(below(5)) : ~0u);
  }
  over = true;
  for (int i = 0; i < 100; ++i) {
    step(now + kMs);
    f.read(now);
  }

  REQUIRE(f.out.size() == sent.size());
  std::vector<bool> seen(sent.size());
  std::uint64_t youngest = 0;
  std::size_t late = 0;
  std::uint64_t longest = 0;
  for (const Out& o : f.out) {
    REQUIRE_FALSE(seen.at(o.number));
    seen[o.number] = true;
    REQUIRE(o.stamp == sent[o.number].first);
    REQUIRE(o.late == (o.stamp < youngest));
    late += o.late;
    youngest = std::max(youngest, o.stamp);
    longest = std::max(longest, o.at - sent[o.number].second);
  }
  if (!unruly && !drains) {
    CHECK(late == 0);
    CHECK(longest <= kWindow);
  }
  CHECK_FALSE(f.merge.holds());
}

}  // namespace pcapv3::test
