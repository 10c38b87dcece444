// SPDX-License-Identifier: BSD-3-Clause
// Decides how large a ring should be, from what comes and how far the reader is behind.
//
// A small ring stays in the cache, and costs little while nothing asks for more. Two things do:
//
//   - The rate. A ring must hold what comes while the reader is stalled for kStallNs. Besides, a
//     reader of many packets wants to be woken seldom (coalesce.h), which a small ring does not
//     allow.
//   - The backlog. A reader that has been behind by more than half of the ring, or has lost
//     packets, needed a larger one.
//
// Nothing here knows of packets or clocks: numbers go in, and a size comes out.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace pcapv3 {

class RingDemand {
 public:
  /// The stall that a ring rides out at the recent rate, and a sleep of the reader besides.
  static constexpr std::uint64_t kStallNs = 65'000'000;
  /// From this rate on, a reader has enough to do to be woken too often with a small ring: bytes of
  /// ring a second.
  static constexpr std::uint64_t kBusyRate = 10'000'000;
  /// The smallest ring for such a reader.
  static constexpr std::uint64_t kBusyBytes = 16 << 20;
  /// The time over which a rate is measured. A rate counts when it lasts for two of these.
  static constexpr std::uint64_t kPeriodNs = 20'000'000;

  /// What is known of a ring.
  struct Load {
    std::uint64_t read_bytes = 0;     ///< Used up by blocks that were ever released.
    std::uint64_t backlog_bytes = 0;  ///< Used up by blocks that are to be read.
    std::uint64_t ring_bytes = 0;
    bool losing = false;  ///< Packets were lost because the ring was full.
  };

  /// Returns the bytes that the ring should have; not more than it has if it is large enough. Is to
  /// be called every few blocks; `now_ns` is a time of CLOCK_MONOTONIC.
  std::uint64_t wanted(std::uint64_t now_ns, const Load& load) {
    std::uint64_t bytes = 0;
    if (load.losing || load.backlog_bytes > load.ring_bytes / 2) bytes = 4 * load.ring_bytes;
    const std::uint64_t come = load.read_bytes + load.backlog_bytes;
    const std::uint64_t passed_ns = now_ns - since_ns_;
    if (passed_ns >= kPeriodNs) {
      // After a pause, the rate is that of the blocks after it.
      const bool paused = passed_ns > 4 * kPeriodNs;
      const std::uint64_t rate =
          paused ? 0 : (come - std::min(come, come_)) * 1'000'000 / (passed_ns / 1000);
      rate_ = std::min(rate, last_rate_);
      last_rate_ = rate;
      since_ns_ = now_ns;
      come_ = come;
    }
    if (rate_ >= kBusyRate) {
      bytes = std::max({bytes, kBusyBytes, std::bit_ceil(rate_ / 1'000'000 * kStallNs / 1000)});
    }
    return bytes;
  }
  /// Returns the rate that counts, in bytes of ring a second.
  std::uint64_t rate() const { return rate_; }

 private:
  std::uint64_t since_ns_ = 0;
  std::uint64_t come_ = 0;
  std::uint64_t last_rate_ = 0;
  std::uint64_t rate_ = 0;
};

}  // namespace pcapv3
