// SPDX-License-Identifier: BSD-3-Clause
// ModeSwitch: decides when a port in immediate mode switches between its two rings (slot_ring.h):
// to blocks when waking for single packets costs too much, back to slots when it no longer would.
//
// A wake-up costs far more than a packet, and a block costs one wake-up for all of its packets. So
// there is a budget, a fifth of a CPU, and the port stays with slots as long as the budget pays for
// them, whatever the packets are. A reader that finds many slots full at once does not keep up with
// them, and each such time counts for much. The switch back depends on packets a second,
// because blocks do not show how packets would have come one by one. The two bounds are far apart,
// so that no load makes the port switch over and over. The exception is traffic that waits for an
// answer before it goes on, which is fast only as long as slots are. So when next to nothing comes
// in blocks any more, cost is no reason to switch for a while. bench/README.md (scenario "sweep")
// has the measurements that the bounds come from.
#pragma once

#include <algorithm>
#include <cstdint>

namespace pcapv3 {

class ModeSwitch {
 public:
  /// The cost of a wake-up and of a packet, in nanoseconds. The budget is a CPU divided by kShare.
  static constexpr std::uint64_t kWakeNs = 10'000;
  static constexpr std::uint64_t kFrameNs = 400;
  static constexpr std::uint64_t kShare = 5;
  /// The most that may be spent at once, and the cost that finding so many slots full counts for.
  static constexpr std::uint64_t kBurstNs = 1'000'000;
  static constexpr std::uint64_t kMany = 48;
  static constexpr std::uint64_t kManyNs = kBurstNs / 2;
  /// Slots are better below this many packets a second.
  static constexpr std::uint64_t kFewPackets = 10'000;
  /// The port stays with blocks for kHoldNs nanoseconds after the last of them, which is longer
  /// than a retire timeout in jiffies (before Linux 6.18), so that blocks are not taken for single
  /// packets; and for kFirstHoldNs before the first of them, if the retire timer is precise.
  static constexpr std::uint64_t kHoldNs = 10'000'000;
  static constexpr std::uint64_t kFirstHoldNs = 3'000'000;
  /// If the port stayed with blocks for less than twice kHoldNs, cost is no reason to switch to
  /// them again for this long.
  static constexpr std::uint64_t kReluctantNs = 1'000'000'000;

  explicit ModeSwitch(bool precise_timer)
      : first_hold_ns_(precise_timer ? kFirstHoldNs : kHoldNs) {}

  /// Returns whether packets should come in blocks.
  bool busy() const { return busy_; }

  /// Must be called after each look at the rings, which found `packets` that came by the present
  /// mode until `now_ns`, of any clock. `many` is how many times kMany of these were full at once;
  /// 0 if blocks were read. If it is time to switch, switches and returns true.
  bool count(std::uint64_t packets, std::uint64_t many, std::uint64_t now_ns) {
    const std::uint64_t passed = now_ns > last_ns_ ? now_ns - last_ns_ : 0;
    last_ns_ = now_ns;
    if (busy_) {
      level_ns_ += packets * (kSecond / kFewPackets);
      level_ns_ = std::min(level_ns_ - std::min(level_ns_, passed), kHoldNs);
      if (level_ns_ != 0) return false;
      if (now_ns - changed_ns_ < 2 * kHoldNs) reluctant_until_ns_ = now_ns + kReluctantNs;
    } else {
      std::uint64_t cost_ns = many * kManyNs;
      if (packets != 0 && now_ns >= reluctant_until_ns_) cost_ns += kWakeNs + packets * kFrameNs;
      level_ns_ -= std::min(level_ns_, passed);
      level_ns_ += kShare * cost_ns;
      if (level_ns_ <= kShare * kBurstNs) return false;
      level_ns_ = first_hold_ns_;
    }
    changed_ns_ = now_ns;
    busy_ = !busy_;
    return true;
  }

  /// Returns how long it takes without a packet until it is time for slots again, when busy().
  std::uint64_t left_ns(std::uint64_t now_ns) const {
    const std::uint64_t until = last_ns_ + level_ns_;
    return until > now_ns ? until - now_ns : 0;
  }

 private:
  static constexpr std::uint64_t kSecond = 1'000'000'000;

  const std::uint64_t first_hold_ns_;
  bool busy_ = false;
  std::uint64_t last_ns_ = 0;
  std::uint64_t level_ns_ = 0;
  std::uint64_t changed_ns_ = 0;
  std::uint64_t reluctant_until_ns_ = 0;
};

}  // namespace pcapv3
