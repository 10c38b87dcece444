// SPDX-License-Identifier: BSD-3-Clause
// The two clocks: the one that packets are stamped by, and the one for everything else.
#pragma once

#include <time.h>

#include <cstdint>

namespace pcapv3 {

inline std::uint64_t clock_ns(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

/// Returns CLOCK_REALTIME in nanoseconds, which must be compared with packets' stamps only, because
/// it can be set.
inline std::uint64_t realtime_ns() { return clock_ns(CLOCK_REALTIME); }
/// Returns CLOCK_MONOTONIC in nanoseconds, for time-outs and deadlines.
inline std::uint64_t monotonic_ns() { return clock_ns(CLOCK_MONOTONIC); }
/// Returns how long it is until `ns` of CLOCK_MONOTONIC, in nanoseconds; 0 if that is past.
inline std::uint64_t ns_until(std::uint64_t ns) {
  const std::uint64_t now = monotonic_ns();
  return ns > now ? ns - now : 0;
}

}  // namespace pcapv3
