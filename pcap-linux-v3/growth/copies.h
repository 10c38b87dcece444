// SPDX-License-Identifier: BSD-3-Clause
// Removes from one ring the packets that another ring has as well, when the second takes the place
// of the first (resize.h).
//
// Both are rings of one interface, and for a while the kernel has stored each packet in both. A
// copy is recognised by its time stamp, its lengths, its direction and its bytes. Stamps are equal
// because the kernel stamps a packet before it comes to any socket, while one socket asks for that
// (SO_TIMESTAMPNS; af_packet.c: tpacket_get_timestamp). A packet that was waiting in a CPU's
// backlog when stamps were requested has none. Each socket stamps it then, the newer socket first
// (dev.c: dev_add_pack). On several CPUs, the rings can have packets in different orders, so the
// place of a packet says little.
//
// Packets are removed by linking their neighbours in the block, so that nothing that reads blocks
// has to know of it.
#pragma once

#include <linux/if_packet.h>

#include "block.h"
#include "ring.h"
#include "ring_position.h"

namespace pcapv3 {

/// Returns whether the packet was stamped before it came to any socket.
inline bool is_stamped_for_all(const PacketView& packet) {
  return (packet.header().tp_status & (TP_STATUS_TS_SOFTWARE | TP_STATUS_TS_RAW_HARDWARE)) != 0;
}

/// Blocks of a ring to which nobody has access but the caller: the kernel stores nothing there any
/// more.
struct SealedBlocks {
  const Ring& ring;
  unsigned first;  ///< The first block's index.
  unsigned count;
};

/// Removes all packets from `sealed` of which `other` has a copy, and returns how many those are.
/// `other` must be at a ring's first block, have an end, stay unused meanwhile, and be the ring of
/// the socket that was bound later. Packets behind a corrupt one stay.
unsigned remove_copies(const SealedBlocks& sealed, const RingPosition& other,
                       std::uint32_t headroom);

/// Makes a block that the kernel was filling look like one that it has handed over (af_packet.c:
/// prb_close_block).
void close_block(tpacket_block_desc* block, std::uint32_t block_bytes, std::uint32_t headroom);

}  // namespace pcapv3
