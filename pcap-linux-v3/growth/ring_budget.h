// SPDX-License-Identifier: BSD-3-Clause
// How much memory larger rings may take in this process, all handles together: a share of what the
// host has left, of what the process's cgroup may still use, and of its limits on address space and
// locked memory. What a program gets at activation is not counted here.
#pragma once

#include <cstdint>

namespace pcapv3 {

/// What limits memory, in bytes; kNoLimit: nothing does.
struct MemoryLimits {
  static constexpr std::uint64_t kNoLimit = ~std::uint64_t{0};

  std::uint64_t host = kNoLimit;     ///< Left on the host.
  std::uint64_t cgroup = kNoLimit;   ///< Left in the process's cgroup (memory.max).
  std::uint64_t address = kNoLimit;  ///< Left of RLIMIT_AS.
  std::uint64_t locked = kNoLimit;   ///< Left of RLIMIT_MEMLOCK, if the process locks its memory.
};

/// Returns the limits as they are now. Ring memory is not charged to a cgroup by the kernel, so
/// nothing but this keeps a container's rings within its limit.
MemoryLimits memory_limits();

/// Returns how many bytes may be used for rings that take `used` bytes already: an eighth of what
/// is left on the host, and a quarter of what the other limits leave.
std::uint64_t ring_budget(const MemoryLimits& limits, std::uint64_t used);

/// Reserves `bytes` for a ring. Returns false if that is more than what is left of the budget. Any
/// thread may call these.
bool reserve_ring(std::uint64_t bytes);
void release_ring(std::uint64_t bytes);

}  // namespace pcapv3
