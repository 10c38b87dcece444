// SPDX-License-Identifier: BSD-3-Clause
// System calls that a test wants to see or to fail: the program has functions of its own in the C
// library's place, which libpcap calls too. Unless a test says otherwise they do what the C
// library's do.
#pragma once

#include <atomic>

namespace pcapv3::live::interposed {

/// Looks up the C library's functions. Until then they are made by system calls.
void find_originals();

/// What clock_gettime(2) adds to CLOCK_REALTIME, by which packets are stamped.
inline std::atomic<long> clock_offset_s = 0;

/// How often munmap(2) was called with a length that only rings have.
inline std::atomic<int> large_unmaps = 0;

/// How many packet sockets epoll_ctl(2) adds until it fails with ENOSPC; below 0: all.
inline std::atomic<int> epoll_adds_until_full = -1;

/// Whether socket(2) fails with EPERM for netlink.
inline std::atomic<bool> netlink_is_refused = false;

}  // namespace pcapv3::live::interposed
