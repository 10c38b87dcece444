// SPDX-License-Identifier: BSD-3-Clause
// Wake-up coalescing: when a busy reader looks at its rings again without being woken.
//
// The kernel wakes a reader for each block. After some idle milliseconds, that costs as much as
// some thousand packets (20 to 50 us where bench/README.md was measured), and if there are several
// ports, each block brings only what the others are past. So a reader that finds many packets,
// block after block, sleeps for a while instead of waiting, and then reads all that has come. The
// while counts from when the reader was woken: a slow reader does not sleep.
//
// No reader sleeps if a ring would get a quarter full in that time at the recent rate, nor for
// longer than the ring could hold what a 10 Gbit/s link might begin to bring. Nothing here waits or
// knows of packets: a clock's nanoseconds go in, and the length of the sleep comes out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

namespace pcapv3 {

class WakeupCoalescing {
 public:
  static constexpr std::uint64_t kLongestNs = 15'000'000;
  /// Packets since the last wait that make a reader count as busy.
  static constexpr std::uint64_t kBusyPackets = 1000;
  /// How many bytes a ring must have for each nanosecond of a sleep, in thousandths: more than what
  /// comes at 10 Gbit/s.
  static constexpr std::uint64_t kMilliBytesPerNs = 1600;

  /// Must be called for each ring that is to be read; its packets may wait for `longest_ns` more.
  void add(std::uint64_t ring_bytes, std::uint32_t ring_blocks, std::uint64_t longest_ns) {
    min_blocks_ = std::min(min_blocks_, ring_blocks);
    length_ns_ = std::min({length_ns_, longest_ns, ring_bytes * 1000 / kMilliBytesPerNs});
  }
  /// Must be called before the rings that are read are added anew.
  void forget_rings() {
    min_blocks_ = ~std::uint32_t{0};
    length_ns_ = kLongestNs;
  }
  /// Must be called when a wait, or a sleep, has ended.
  void woke(std::uint64_t now_ns) { woken_ns_ = now_ns; }
  /// Must be called when the reader, which has delivered `delivered` packets in all and released
  /// `given_back` blocks, has no packets left and is about to wait. Returns how long it must sleep
  /// instead, in nanoseconds; 0 if it must wait.
  std::uint64_t due(std::uint64_t now_ns, std::uint64_t delivered, std::uint64_t given_back) {
    const std::uint64_t blocks = given_back - std::exchange(given_back_, given_back);
    const std::uint64_t packets = delivered - std::exchange(delivered_, delivered);
    const bool slept = std::exchange(sleeps_, false);
    if (packets == 0) return 0;
    // If blocks are further apart than a sleep, sleeping saves nothing.
    const std::uint64_t apart_ns = woken_ns_ - std::exchange(found_ns_, woken_ns_);
    const std::uint64_t passed_ns = now_ns - woken_ns_;
    if (packets < kBusyPackets || passed_ns >= length_ns_) return 0;
    if (blocks * length_ns_ > min_blocks_ / 4 * apart_ns) return 0;
    sleeps_ = slept || apart_ns <= length_ns_;
    return sleeps_ ? length_ns_ - passed_ns : 0;
  }

 private:
  std::uint64_t length_ns_ = kLongestNs;
  std::uint32_t min_blocks_ = ~std::uint32_t{0};
  std::uint64_t delivered_ = 0;  // before the last wait
  std::uint64_t given_back_ = 0;
  std::uint64_t woken_ns_ = 0;  // when that ended
  std::uint64_t found_ns_ = 0;  // when the last wait ended after which packets were found
  bool sleeps_ = false;         // the reader sleeps instead of waiting
};

}  // namespace pcapv3
