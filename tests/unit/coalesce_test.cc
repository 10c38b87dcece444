// SPDX-License-Identifier: BSD-3-Clause
// When a busy reader sleeps instead of being woken, and for how long.
#include "pcap-linux-v3/coalesce.h"

#include "catch.h"

namespace pcapv3::test {
namespace {

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::uint64_t kRing = 64 << 20;
constexpr std::uint64_t kWork = 100'000;

/// Plays a reader of blocks that come `apart_ns` apart, with `packets` in each, and take kWork to
/// read. Returns how often it wakes in a second, by a block or after a sleep; `longest_ns` is how
/// long a block has to wait for it.
unsigned wakes(WakeupCoalescing& pause, std::uint64_t apart_ns, std::uint64_t packets,
               std::uint64_t& longest_ns) {
  std::uint64_t now_ns = 1000 * kMs;
  std::uint64_t next_ns = now_ns + apart_ns;
  const std::uint64_t end_ns = now_ns + 1000 * kMs;
  std::uint64_t delivered = 0;
  std::uint64_t blocks = 0;
  unsigned count = 0;
  longest_ns = 0;
  while (now_ns < end_ns) {
    const std::uint64_t left_ns = pause.due(now_ns, delivered, blocks);
    now_ns = left_ns != 0 ? now_ns + left_ns : std::max(now_ns, next_ns);
    pause.woke(now_ns);
    ++count;
    for (; next_ns <= now_ns; next_ns += apart_ns) {
      longest_ns = std::max(longest_ns, now_ns - next_ns);
      delivered += packets;
      ++blocks;
      now_ns += kWork;
    }
  }
  return count;
}

WakeupCoalescing pause_of(std::uint64_t length_ns, std::uint64_t ring_bytes = kRing) {
  WakeupCoalescing pause;
  pause.add(ring_bytes, 64, length_ns);
  return pause;
}

}  // namespace

TEST_CASE("a busy reader wakes once in a pause, not for each block") {
  WakeupCoalescing pause = pause_of(WakeupCoalescing::kLongestNs);
  std::uint64_t longest_ns;
  const unsigned count = wakes(pause, 2 * kMs, 2000, longest_ns);
  CHECK(count >= 1000 / 15);
  CHECK(count <= 1000 / 15 + 3);
  CHECK(longest_ns <= WakeupCoalescing::kLongestNs);
}

TEST_CASE("a pause costs no wake-up, however far apart blocks are") {
  const std::uint64_t apart_ms = GENERATE(1u, 5u, 10u, 13u, 15u, 17u, 18u, 20u, 27u, 40u, 100u);
  WakeupCoalescing pause = pause_of(WakeupCoalescing::kLongestNs);
  std::uint64_t longest_ns;
  CHECK(wakes(pause, apart_ms * kMs, 5000, longest_ns) <= 1000 / apart_ms + 2);
}

TEST_CASE("a reader that finds few packets is woken for each block") {
  WakeupCoalescing pause = pause_of(WakeupCoalescing::kLongestNs);
  std::uint64_t longest_ns;
  CHECK(wakes(pause, 2 * kMs, WakeupCoalescing::kBusyPackets - 1, longest_ns) >= 499);
  CHECK(longest_ns == 0);
}

TEST_CASE("a ring that is too small is not left alone") {
  WakeupCoalescing pause = pause_of(WakeupCoalescing::kLongestNs);
  pause.add(2 << 20, 64, WakeupCoalescing::kLongestNs);  // lasts 1.3 ms at 10 Gbit/s
  pause.add(kRing, 64, WakeupCoalescing::kLongestNs);
  std::uint64_t longest_ns;
  CHECK(wakes(pause, 2 * kMs, 5000, longest_ns) >= 499);
}

TEST_CASE("a ring that fills fast is not left alone") {
  WakeupCoalescing pause = pause_of(WakeupCoalescing::kLongestNs);
  std::uint64_t longest_ns;
  CHECK(wakes(pause, kMs, 5000, longest_ns) < 100);
  CHECK(wakes(pause, kMs * 2 / 3, 5000, longest_ns) >= 1000);
  CHECK(longest_ns < 16 * kMs * 2 / 3);
}

TEST_CASE("the pause is as long as the ring that allows least has it, and not longer than any") {
  WakeupCoalescing pause = pause_of(3600 * 1000 * kMs);
  std::uint64_t longest_ns;
  wakes(pause, kMs, 5000, longest_ns);
  CHECK(longest_ns <= WakeupCoalescing::kLongestNs);
  pause.add(kRing, 64, 4 * kMs);
  wakes(pause, kMs, 5000, longest_ns);
  CHECK(longest_ns <= 4 * kMs);
  CHECK(longest_ns >= 2 * kMs);
}

TEST_CASE("who has worked for as long as a pause does not sleep") {
  WakeupCoalescing pause = pause_of(10 * kMs);
  pause.woke(100 * kMs);
  CHECK(pause.due(101 * kMs, 5000, 1) == 0);  // the first call: nothing is known
  pause.woke(105 * kMs);
  CHECK(pause.due(108 * kMs, 10000, 2) == 7 * kMs);
  pause.woke(115 * kMs);
  CHECK(pause.due(125 * kMs, 15000, 3) == 0);
}

TEST_CASE("a small ring's pause is what it holds at more than 10 Gbit/s") {
  WakeupCoalescing pause = pause_of(WakeupCoalescing::kLongestNs, 4 << 20);
  std::uint64_t longest_ns;
  // 32 blocks of 128 KiB, which come 0.3 ms apart: 3.5 Gbit/s.
  const unsigned count = wakes(pause, 300'000, 1500, longest_ns);
  CHECK(longest_ns <= (std::uint64_t{4} << 20) * 1000 / WakeupCoalescing::kMilliBytesPerNs);
  CHECK(longest_ns < 3 * kMs);
  CHECK(count < 3000);
}

TEST_CASE("a ring that is too small for a pause has none") {
  // It would be full in 64 us.
  WakeupCoalescing pause = pause_of(WakeupCoalescing::kLongestNs, 128 << 10);
  pause.woke(100 * kMs);
  (void)pause.due(100 * kMs, 5000, 1);
  pause.woke(101 * kMs);
  CHECK(pause.due(101 * kMs + 81'920, 10000, 2) == 0);
  WakeupCoalescing none = pause_of(WakeupCoalescing::kLongestNs, 0);
  std::uint64_t longest_ns;
  CHECK(wakes(none, 2 * kMs, 5000, longest_ns) >= 499);
}

TEST_CASE("a ring that is larger now allows a longer pause") {
  WakeupCoalescing pause = pause_of(WakeupCoalescing::kLongestNs, 2 << 20);
  std::uint64_t longest_ns;
  const unsigned before = wakes(pause, kMs, 5000, longest_ns);
  pause.add(kRing, 256, WakeupCoalescing::kLongestNs);  // the smaller one still counts
  CHECK(wakes(pause, kMs, 5000, longest_ns) + 2 >= before);
  pause.forget_rings();
  pause.add(kRing, 256, WakeupCoalescing::kLongestNs);
  CHECK(wakes(pause, kMs, 5000, longest_ns) < before / 5);
  CHECK(longest_ns <= WakeupCoalescing::kLongestNs);
}

}  // namespace pcapv3::test
