// SPDX-License-Identifier: BSD-3-Clause
// How much memory all larger rings together may have.
#include "pcap-linux-v3/growth/ring_budget.h"

#include "catch.h"

namespace pcapv3::test {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kGiB = 1024 * kMiB;
constexpr std::uint64_t kNoLimit = MemoryLimits::kNoLimit;

MemoryLimits limits(std::uint64_t host) {
  MemoryLimits limits;
  limits.host = host;
  return limits;
}

}  // namespace

TEST_CASE("budget: an eighth of the host's memory") {
  CHECK(ring_budget(limits(8 * kGiB), 0) == kGiB);
  CHECK(ring_budget(limits(0), 0) == 0);
}

TEST_CASE("budget: a quarter of what any other limit leaves, whichever leaves least") {
  MemoryLimits l = limits(8 * kGiB);
  std::uint64_t MemoryLimits::*const limit =
      GENERATE(&MemoryLimits::cgroup, &MemoryLimits::address, &MemoryLimits::locked);
  l.*limit = 400 * kMiB;
  CHECK(ring_budget(l, 0) == 100 * kMiB);
  l.*limit = 8 * kGiB;
  CHECK(ring_budget(l, 0) == kGiB);
  l.*limit = 0;
  CHECK(ring_budget(l, 0) == 0);
}

TEST_CASE("budget: what is in use is not counted twice") {
  // With all of it free, 1 GiB; when half of that is in use, the host has as much less.
  CHECK(ring_budget(limits(8 * kGiB - 512 * kMiB), 512 * kMiB) == kGiB);
  MemoryLimits l = limits(kNoLimit);
  l.address = 400 * kMiB - 64 * kMiB;
  CHECK(ring_budget(l, 64 * kMiB) == 100 * kMiB);
}

TEST_CASE("budget: without limits, all") {
  CHECK(ring_budget(MemoryLimits(), 0) == kNoLimit);
  CHECK(ring_budget(MemoryLimits(), kGiB) == kNoLimit);
}

TEST_CASE("budget: what does not fit is not reserved, and what is released can be had again") {
  CHECK(reserve_ring(0));
  CHECK_FALSE(reserve_ring(std::uint64_t{1} << 60));
  const std::uint64_t some = kMiB;
  if (!reserve_ring(some)) return;  // a very small machine
  release_ring(some);
  CHECK(reserve_ring(some));
  release_ring(some);
}

TEST_CASE("budget: the limits of this process are found") {
  const MemoryLimits l = memory_limits();
  CHECK(l.host != kNoLimit);
  CHECK(l.host > 0);
}

}  // namespace pcapv3::test
