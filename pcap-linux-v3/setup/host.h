// SPDX-License-Identifier: BSD-3-Clause
// What the kernel says of this machine and of an interface, as far as a ring's shape depends on it.
#pragma once

#include <cstdint>

namespace pcapv3 {

/// Memory that can be had without swapping, in bytes: MemAvailable of /proc/meminfo, proc(5), or
/// where there is no /proc, what sysinfo(2) calls free.
std::uint64_t free_memory();

/// Whether the running kernel is at least `major`.`minor`.
bool kernel_is_at_least(unsigned major, unsigned minor);

/// Bytes of the largest frame that interface `index` can hand to a packet socket whole: its MTU, or
/// what segmentation and receive offloads build (gso_max_size and gro_max_size, 64 KiB on ordinary
/// interfaces, more with BIG TCP), and the link-layer header. Over all interfaces for index 0 or
/// less. Never less than what offloads can be switched on to build later.
std::uint64_t largest_packet(int index);

}  // namespace pcapv3
