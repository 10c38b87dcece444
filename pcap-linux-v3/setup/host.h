// SPDX-License-Identifier: BSD-3-Clause
// What a ring's shape depends on: the host's free memory, its kernel's version, and the largest
// packet of an interface.
#pragma once

#include <cstdint>

namespace pcapv3 {

/// Returns the bytes of memory available without swapping: MemAvailable of /proc/meminfo, proc(5),
/// or where there is no /proc, what sysinfo(2) calls free.
std::uint64_t free_memory();

/// Returns whether the running kernel is at least `major`.`minor`.
bool kernel_is_at_least(unsigned major, unsigned minor);

/// Returns the bytes of the largest frame that interface `index` can hand to a packet socket whole:
/// its MTU, or what segmentation and receive offloads build (gso_max_size and gro_max_size, 64 KiB
/// on ordinary interfaces, more with BIG TCP), and the link-layer header. For index 0 or less it is
/// the largest of all interfaces. It is never less than what offloads can be switched on to build
/// later.
std::uint64_t largest_packet(int index);

}  // namespace pcapv3
