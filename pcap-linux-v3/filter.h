// SPDX-License-Identifier: BSD-3-Clause
// Decides to which packets a handle's userland filter applies: those that must be filtered here
// because the kernel can't do it, or has not done it yet. Running the filter is left to libpcap.
#pragma once

#include <cstdint>

#include "block.h"
#include "host_ops.h"

namespace pcapv3 {

/// A filter. `wire_length` and `captured_length` are as pcap_offline_filter(3PCAP) takes them.
/// Returns 0 if the packet is rejected.
using PacketFilter = pcapv3_host_filter;

struct UserlandFilter {
  PacketFilter run = nullptr;  ///< Null: the kernel's filter is all there is.
  void* owner = nullptr;
  /// When the kernel got the filter. Packets stamped later have passed it there, so they are not
  /// filtered again: they may be truncated, and too short for it.
  Stamp until = kEndOfTime;
  /// Whether the filter here covers all that the kernel's can. If not, whole packets stamped later
  /// are left to the kernel, too.
  bool is_whole = true;

  /// Returns whether a packet must be filtered here. `is_cut` means that the packet is truncated.
  bool applies_to(Stamp stamp, bool is_cut) const {
    return run != nullptr && ((is_whole && !is_cut) || stamp <= until);
  }
};

}  // namespace pcapv3
