// SPDX-License-Identifier: BSD-3-Clause
// When to change over between two rings: the cost decides, with hysteresis and no flapping.
#include "pcap-linux-v3/adaptive/mode_switch.h"

#include "catch.h"

namespace pcapv3::test {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

/// Plays `seconds` of wake-ups, `rate` a second, each with `packets`, from `now_ns` on. Returns how
/// often the mode changed.
unsigned play(ModeSwitch& mode, std::uint64_t& now_ns, double seconds, std::uint64_t rate,
              std::uint64_t packets, std::uint64_t many = 0) {
  unsigned changes = 0;
  const auto count = static_cast<std::uint64_t>(seconds * static_cast<double>(rate));
  for (std::uint64_t i = 0; i < count; ++i) {
    now_ns += kSecond / rate;
    changes += mode.count(packets, many, now_ns) ? 1 : 0;
  }
  return changes;
}

}  // namespace

TEST_CASE("single packets come as frames, up to as many wake-ups as the budget has") {
  constexpr std::uint64_t kMax =
      kSecond / ModeSwitch::kShare / (ModeSwitch::kWakeNs + ModeSwitch::kFrameNs);
  ModeSwitch mode(true);
  std::uint64_t now_ns = kSecond;
  CHECK(play(mode, now_ns, 2, kMax * 9 / 10, 1) == 0);
  CHECK_FALSE(mode.busy());
  CHECK(play(mode, now_ns, 1, kMax * 12 / 10, 1) == 1);
  CHECK(mode.busy());
}

TEST_CASE("packets that come many at once cost less each") {
  ModeSwitch mode(true);
  std::uint64_t now_ns = kSecond;
  CHECK(play(mode, now_ns, 1, 6'000, 32) == 0);  // 192,000 packets a second
  CHECK(play(mode, now_ns, 1, 31'000, 32) == 1);
}

TEST_CASE("a burst is no reason, a reader that does not keep up is") {
  ModeSwitch mode(true);
  std::uint64_t now_ns = kSecond;
  CHECK_FALSE(mode.count(1000, 0, now_ns));
  CHECK(play(mode, now_ns, 0.005, 1'000, 45, 1) == 1);
  CHECK(mode.busy());

  ModeSwitch far_behind(true);
  CHECK(far_behind.count(1000, 1000 / ModeSwitch::kMany, now_ns));
}

TEST_CASE("back to frames when few packets come, or none") {
  ModeSwitch mode(true);
  std::uint64_t now_ns = kSecond;
  CHECK(play(mode, now_ns, 0.1, 100'000, 1) == 1);
  const std::uint64_t block = ModeSwitch::kFewPackets / 1000;  // packets in one millisecond
  CHECK(play(mode, now_ns, 1, 1'000, 2 * block) == 0);
  CHECK(mode.left_ns(now_ns) > 0);
  CHECK(mode.left_ns(now_ns) <= ModeSwitch::kHoldNs);
  CHECK(play(mode, now_ns, 1, 1'000, block / 2) == 1);
  CHECK_FALSE(mode.busy());

  CHECK(play(mode, now_ns, 0.1, 100'000, 1) == 1);
  CHECK_FALSE(mode.count(0, 0, now_ns + mode.left_ns(now_ns) - 1));
  CHECK(mode.count(0, 0, now_ns + mode.left_ns(now_ns)));
}

TEST_CASE("a load that waits for answers stays with frames") {
  ModeSwitch mode(true);
  std::uint64_t now_ns = kSecond;
  CHECK(play(mode, now_ns, 0.003, 70'000, 1) == 1);
  CHECK(play(mode, now_ns, 0.015, 1'000, 1) == 1);  // each answer now takes a millisecond
  CHECK_FALSE(mode.busy());
  CHECK(play(mode, now_ns, 0.9, 70'000, 1) == 0);
  CHECK(play(mode, now_ns, 0.01, 1'000, 60, true) == 1);  // but a reader that does not keep up does
                                                          // not stay
  CHECK(play(mode, now_ns, 0.1, 1'000, 100) == 0);
  CHECK(play(mode, now_ns, 0.02, 1'000, 0) == 1);
  CHECK(play(mode, now_ns, 1.1, 70'000, 1) == 1);
}

TEST_CASE("no load makes it change over and over") {
  for (const std::uint64_t rate : {1'000, 5'000, 9'000, 15'000, 18'000, 25'000, 60'000, 500'000}) {
    ModeSwitch mode(true);
    std::uint64_t now_ns = kSecond;
    unsigned changes = 0;
    std::uint64_t in_block = 0;
    for (std::uint64_t i = 0; i < 3 * rate; ++i) {
      now_ns += kSecond / rate;
      ++in_block;
      if (mode.busy() && now_ns % 1'000'000 >= kSecond / rate) continue;  // a block a millisecond
      changes += mode.count(in_block, 0, now_ns) ? 1 : 0;
      in_block = 0;
    }
    CAPTURE(rate);
    CHECK(changes <= 1);
  }
}

TEST_CASE("a clock that is set back or ahead does no harm") {
  ModeSwitch mode(true);
  CHECK_FALSE(mode.count(1, 0, 1000 * kSecond));
  std::uint64_t now_ns = 2 * kSecond;
  CHECK(play(mode, now_ns, 0.1, 100'000, 1) == 1);
  CHECK(mode.count(1, 0, now_ns + 1000 * kSecond));  // as if nothing had come for that long
  CHECK_FALSE(mode.count(1, 0, now_ns));
}

}  // namespace pcapv3::test
