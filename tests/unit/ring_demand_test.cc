// SPDX-License-Identifier: BSD-3-Clause
// How large a ring should be, by rate and by backlog.
#include "pcap-linux-v3/growth/ring_demand.h"

#include "catch.h"

namespace pcapv3::test {
namespace {

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kSmall = 4 * kMiB;

/// Plays `ms` milliseconds of a reader that keeps up with so many bytes a second, and looks every
/// `every_ms`. Returns the most that was wanted.
std::uint64_t play(RingDemand& demand, std::uint64_t& now_ns, RingDemand::Load& load,
                   std::uint64_t bytes_a_second, unsigned ms, unsigned every_ms = 2) {
  std::uint64_t most = 0;
  for (unsigned passed = 0; passed < ms; passed += every_ms) {
    now_ns += every_ms * kMs;
    load.read_bytes += bytes_a_second / 1000 * every_ms;
    most = std::max(most, demand.wanted(now_ns, load));
  }
  return most;
}

struct Played {
  RingDemand demand;
  std::uint64_t now_ns = 1'000'000 * kMs;
  RingDemand::Load load;

  Played() { load.ring_bytes = kSmall; }
  std::uint64_t play(std::uint64_t bytes_a_second, unsigned ms, unsigned every_ms = 2) {
    return test::play(demand, now_ns, load, bytes_a_second, ms, every_ms);
  }
};

}  // namespace

TEST_CASE("demand: an idle ring, or one with little in it, is large enough") {
  Played p;
  CHECK(p.demand.wanted(p.now_ns, p.load) == 0);
  CHECK(p.play(0, 1000) == 0);
  CHECK(p.play(9'000'000, 1000) == 0);
  p.load.backlog_bytes = kSmall / 2;
  CHECK(p.demand.wanted(p.now_ns + 1, p.load) == 0);
}

TEST_CASE("demand: a backlog of more than half of the ring asks for four times as much") {
  Played p;
  p.load.ring_bytes = GENERATE(kSmall, 16 * kMiB);
  p.load.backlog_bytes = p.load.ring_bytes / 2 + 1;
  CHECK(p.demand.wanted(p.now_ns, p.load) == 4 * p.load.ring_bytes);
}

TEST_CASE("demand: so do lost packets") {
  Played p;
  p.load.losing = true;
  CHECK(p.demand.wanted(p.now_ns, p.load) == 4 * kSmall);
  p.load.losing = false;
  CHECK(p.demand.wanted(p.now_ns + 1, p.load) == 0);
}

TEST_CASE("demand: a rate counts once it has lasted for two periods") {
  Played p;
  p.play(0, 100);
  CHECK(p.play(50'000'000, 20) == 0);
  CHECK(p.play(0, 40) == 0);  // a burst of 1 MB
  CHECK(p.play(50'000'000, 60) == RingDemand::kBusyBytes);
}

TEST_CASE("demand: a rate's ring holds what comes in 65 ms") {
  const std::uint64_t megabytes = GENERATE(10u, 50u, 240u, 300u, 500u, 900u, 1250u);
  Played p;
  p.play(0, 50);
  const std::uint64_t bytes = p.play(megabytes * 1'000'000, 200);
  CHECK(bytes >= RingDemand::kBusyBytes);
  // (The rate that is measured may be a little lower than the true one.)
  CHECK(bytes >= megabytes * 1'000'000 * 64 / 1000);
  CHECK(bytes <= std::max(RingDemand::kBusyBytes, 2 * megabytes * 1'000'000 * 66 / 1000));
  CHECK(std::has_single_bit(bytes));
}

TEST_CASE("demand: what is to be read counts as come") {
  Played p;
  p.play(0, 50);
  p.load.ring_bytes = 64 * kMiB;
  std::uint64_t bytes = 0;
  for (unsigned ms = 0; ms < 200; ms += 2) {
    p.now_ns += 2 * kMs;
    p.load.backlog_bytes += 100'000;  // 50 MB a second, of which nothing is read
    bytes = std::max(bytes, p.demand.wanted(p.now_ns, p.load));
  }
  CHECK(bytes == RingDemand::kBusyBytes);
}

TEST_CASE("demand: a pause is no low rate, and what comes after it no high one") {
  Played p;
  p.play(50'000'000, 200);
  CHECK(p.demand.rate() > 40'000'000);
  // The reader is stopped for a second: what came meanwhile came in no time that is known.
  p.now_ns += 1000 * kMs;
  p.load.read_bytes += 40 * kMiB;
  CHECK(p.demand.wanted(p.now_ns, p.load) == 0);
  CHECK(p.demand.rate() == 0);
  CHECK(p.play(1'000'000, 200) == 0);
}

TEST_CASE("demand: a rate that falls asks for no more") {
  Played p;
  CHECK(p.play(900'000'000, 200) == 64 * kMiB);
  (void)p.play(1'000'000, 60);
  CHECK(p.play(1'000'000, 1000) == 0);
}

TEST_CASE("demand: looks that are seldom see the same rate") {
  Played p;
  p.play(0, 50);
  CHECK(p.play(50'000'000, 400, GENERATE(1u, 10u, 21u, 40u, 79u)) == RingDemand::kBusyBytes);
}

TEST_CASE("demand: counts that start anew, and extreme ones, ask for nothing that is not so") {
  Played p;
  p.play(50'000'000, 200);
  p.load.read_bytes = 0;
  p.now_ns += 25 * kMs;
  (void)p.demand.wanted(p.now_ns, p.load);
  CHECK(p.demand.rate() == 0);
  // 100 Gbit/s
  p.play(0, 50);
  CHECK(p.play(12'500'000'000, 200) == 1024 * kMiB);
}

}  // namespace pcapv3::test
