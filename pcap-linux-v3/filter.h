// SPDX-License-Identifier: BSD-3-Clause
// The filter of a handle, for packets that have to be filtered here because the kernel can't, or
// has not yet: which packets that is. Running it is libpcap's.
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
  /// When the kernel got the filter: packets stamped later have passed it there, so that those
  /// which are cut off, maybe too short to be filtered once more, are not.
  Stamp until = kEndOfTime;
  /// Whether the filter here covers all that the kernel's can. If not, whole packets stamped
  /// later are left to the kernel too.
  bool is_whole = true;

  /// Whether a packet has to be filtered here. `is_cut`: not all of its bytes are there.
  bool applies_to(Stamp stamp, bool is_cut) const {
    return run != nullptr && ((is_whole && !is_cut) || stamp <= until);
  }
};

}  // namespace pcapv3
