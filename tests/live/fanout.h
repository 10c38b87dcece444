// SPDX-License-Identifier: BSD-3-Clause
// What tests of fan-out share: handles in a group, and what each of them got.
#pragma once

#include <map>
#include <vector>

#include "capture.h"
#include "ports.h"

namespace pcapv3::live {

/// Handles opened from here on are in this group.
inline void join(const char* setting) { setenv("PCAPV3_FANOUT", setting, 1); }

using Handles = std::vector<Handle>;

inline Handles open_members(std::size_t count, const Options& options = {}) {
  Handles handles;
  for (std::size_t i = 0; i < count; ++i) {
    handles.push_back(open_capture(options));
    set_nonblock(handles.back().get());
  }
  return handles;
}

/// What each handle took.
using Shares = std::vector<Packets>;

inline std::size_t total(const Shares& shares) {
  std::size_t sum = 0;
  for (const Packets& share : shares) sum += share.size();
  return sum;
}

/// Takes packets from all handles until there are `count`.
inline void take(const Handles& handles, std::size_t count, Shares& shares) {
  shares.resize(handles.size());
  while (total(shares) < count) {
    for (std::size_t i = 0; i < handles.size(); ++i) {
      if (handles[i] == nullptr) continue;
      const int taken = pcap_dispatch(handles[i].get(), -1, keep, user(shares[i]));
      CHECK(taken >= 0, "status %d, %s", taken, pcap_geterr(handles[i].get()));
    }
    std::this_thread::yield();
  }
}

/// Which handle got the frame of each number.
inline std::map<std::uint32_t, std::size_t> owners_of(const Shares& shares) {
  std::map<std::uint32_t, std::size_t> owners;
  for (std::size_t i = 0; i < shares.size(); ++i) {
    for (const Packet& packet : shares[i]) {
      const std::uint32_t number = number_of(packet.bytes);
      const auto [at, is_new] = owners.try_emplace(number, i);
      CHECK(is_new, "frame %u came to handle %zu and to handle %zu", number, at->second, i);
    }
  }
  return owners;
}

}  // namespace pcapv3::live
