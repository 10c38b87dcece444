// SPDX-License-Identifier: BSD-3-Clause
// The ports of one handle, with their sockets: one, or those of a multi-interface capture by their
// places in its list.
#pragma once

#include <cstdint>

#include "merge.h"
#include "port.h"

namespace pcapv3 {

struct PortSet {
  static constexpr unsigned kMaxPorts = Merge::kMaxPorts;
  static_assert(kMaxPorts == PCAPV3_MAX_PORTS);

  static std::uint64_t bit(unsigned index) { return std::uint64_t{1} << index; }
  /// Returns all of them, by bit.
  std::uint64_t all() const { return count == 0 ? 0 : ~std::uint64_t{0} >> (kMaxPorts - count); }

  pcapv3_port* ports[kMaxPorts] = {};  // null: removed
  int sockets[kMaxPorts] = {};
  unsigned count = 0;
};

}  // namespace pcapv3
