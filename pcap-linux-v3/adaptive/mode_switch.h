// SPDX-License-Identifier: BSD-3-Clause
// When a port in immediate mode changes over between its two rings (slot_ring.h): to blocks when
// waking for single packets costs too much, back to frames when it no longer would.
//
// What costs is to be woken, far more than the packet; a block costs that once for all that is in
// it. So there is a budget, a fifth of a CPU, and frames are kept to for as long as that pays for
// them, whatever the packets are. A reader that finds the ring of frames nearly full does not keep
// up with it; each time counts for much. Back to frames is by packets a second, because with blocks
// nothing tells how they would have come. The two bounds are far apart, so that no load makes it
// change over and over; but for one that waits for an answer before it goes on, which is fast only
// as long as frames are. Where next to nothing comes any more in blocks, cost is no reason for a
// while. bench/README.md (scenario "sweep") has what they were found by.
#pragma once

#include <algorithm>
#include <cstdint>

namespace pcapv3 {

class ModeSwitch {
 public:
  /// What a wake-up costs, and a packet, in nanoseconds; and how many times the budget a CPU is.
  static constexpr std::uint64_t kWakeNs = 10'000;
  static constexpr std::uint64_t kFrameNs = 400;
  static constexpr std::uint64_t kShare = 5;
  /// What may be spent at once, and what finding the ring full counts for.
  static constexpr std::uint64_t kBurstNs = 1'000'000;
  static constexpr std::uint64_t kFullNs = kBurstNs / 2;
  /// Packets a second below which frames are better.
  static constexpr std::uint64_t kFewPackets = 10'000;
  /// How long blocks are kept to after the last of them, in nanoseconds: more than a retire timeout
  /// in jiffies (before Linux 6.18), so that blocks are not taken for single packets; and how long
  /// before the first, if the retire timer is precise.
  static constexpr std::uint64_t kHoldNs = 10'000'000;
  static constexpr std::uint64_t kFirstHoldNs = 3'000'000;
  /// How long cost is no reason for blocks after they have been kept to for not twice that time.
  static constexpr std::uint64_t kReluctantNs = 1'000'000'000;

  explicit ModeSwitch(bool precise_timer)
      : first_hold_ns_(precise_timer ? kFirstHoldNs : kHoldNs) {}

  /// Whether packets are to come in blocks.
  bool busy() const { return busy_; }

  /// One look at the rings has found `packets` that came the present way by `now_ns`, of any clock;
  /// `full`: as many frames as fit, nearly. Returns whether it is time to change over, which is
  /// done then.
  bool count(std::uint64_t packets, bool full, std::uint64_t now_ns) {
    const std::uint64_t passed = now_ns > last_ns_ ? now_ns - last_ns_ : 0;
    last_ns_ = now_ns;
    if (busy_) {
      level_ns_ += packets * (kSecond / kFewPackets);
      level_ns_ = std::min(level_ns_ - std::min(level_ns_, passed), kHoldNs);
      if (level_ns_ != 0) return false;
      if (now_ns - changed_ns_ < 2 * kHoldNs) reluctant_until_ns_ = now_ns + kReluctantNs;
    } else {
      std::uint64_t cost_ns = full ? kFullNs : 0;
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

  /// After how long without a packet it is time for frames again, when busy().
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
