// SPDX-License-Identifier: BSD-3-Clause
// What a feed returns to the reader (reader.h). There are three kinds, one class each, with the
// same functions: Single (single.h), Merged (merged.h) and TwoRings (adaptive/two_rings.h). The
// kind is chosen at activation, and the reader switches on it once for each batch of packets.
#pragma once

#include <cstdint>

namespace pcapv3 {

/// What is next in a feed.
enum class Ready : std::uint8_t {
  kNothing,  ///< No packet may be delivered now.
  kPackets,  ///< deliver() brings at least one packet, unless the callback itself reads on.
  kCorrupt   ///< drop_corrupt() continues behind what is corrupt.
};

}  // namespace pcapv3
