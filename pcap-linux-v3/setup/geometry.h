// SPDX-License-Identifier: BSD-3-Clause
// The shape of a ring: block size, number of blocks and retire timeout are chosen here, from what
// the program and the settings request and what the host has. It is a pure function;
// pcap-linux-v3(7) has its results as a table.
//
// Two things use up a ring. One is bytes, in a burst that the reader does not keep pace with. The
// other is time: the kernel closes a block that holds packets when the retire timeout has passed,
// however little is in it (af_packet.c: prb_retire_rx_blk_timer_expired), so that at a trickle of
// packets a ring lasts for blocks x timeout and no longer. A short timeout therefore gets many
// small blocks.
//
// A ring that can grow (growth/growth.h) starts small: it holds what stock libpcap's does, in bytes
// and in time, in about twice the memory.
#pragma once

#include <cstdint>

#include "setup/error.h"
#include "setup/settings.h"

namespace pcapv3 {

inline constexpr std::uint64_t kMiB = 1 << 20;

/// Stock libpcap asks for this size when the program does not say (pcap-linux.c: setup_mmapped).
/// dumpcap passes the same figure on as if its user had chosen it, so it does not count as a
/// request.
inline constexpr std::uint64_t kStockRingBytes = 2 * kMiB;
inline constexpr std::uint64_t kDefaultRingBytes = 64 * kMiB;
/// What a ring that can grow starts with, if the program does not say.
inline constexpr std::uint64_t kSmallRingBytes = 4 * kMiB;
/// Stock libpcap's block size for TPACKET_V3 (pcap-linux.c: create_ring, MAXIMUM_SNAPLEN).
inline constexpr std::uint64_t kStockBlockBytes = kMiB / 4;
/// A ring that can grow lasts as long as stock's at a trickle of packets, up to this many
/// milliseconds.
inline constexpr std::uint32_t kStockStallMs = 8000;
/// The longest retire timeout, unless one is set: a packet waits no longer, whatever the program's
/// timeout. (Stock libpcap has none for a program that sets none, so that packets on a quiet link
/// stay in the open block until it is full, for hours if need be.)
inline constexpr std::uint32_t kMaxDelayMs = 250;
/// It is small because a block is used up whatever it holds.
inline constexpr std::uint64_t kLargestBlockBytes = kMiB / 4;
/// A ring rides out a stall of the reader of this many milliseconds, whatever the timeout.
inline constexpr std::uint32_t kStallMs = 250;
/// The largest private area of a block: the kernel stores its size in 16 bits, and a larger one
/// would silently become smaller (af_packet.c: init_prb_bdqc, internal.h: blk_sizeof_priv).
inline constexpr std::uint32_t kMaxPrivateBytes = 0xffff;

struct RingRequest {
  std::uint64_t tool_bytes = 0;      ///< pcap_set_buffer_size(3PCAP); 0 or kStockRingBytes: none.
  ByteSetting set_bytes;             ///< PCAPV3_BUFFER.
  ByteSetting set_block;             ///< PCAPV3_BLOCK.
  std::uint32_t set_retire_ms = 0;   ///< PCAPV3_RETIRE; 0: not set.
  int timeout_ms = 0;                ///< pcap_set_timeout(3PCAP); 0 or less: none.
  bool immediate = false;            ///< pcap_set_immediate_mode(3PCAP).
  std::uint32_t max_retire_ms = 0;   ///< No longer than this, unless set; 0: no such limit.
  bool grows = false;                ///< The ring can grow.
  bool starts_small = false;         ///< It is the first one of a ring that can grow.
  std::uint64_t free_bytes = 0;      ///< Memory that is available on this host.
  std::uint64_t largest_packet = 0;  ///< Bytes of the largest packet the interface can deliver.
  std::uint64_t private_bytes = 0;   ///< Of each block, for the program: 0 to kMaxPrivateBytes.
  std::uint32_t page_bytes = 4096;
};

struct Geometry {
  std::uint32_t block_bytes = 0;
  std::uint32_t block_count = 0;
  std::uint32_t retire_ms = 0;
  std::uint32_t private_bytes = 0;  ///< Of each block, in front of its packets.

  std::uint64_t ring_bytes() const { return std::uint64_t{block_bytes} * block_count; }
};

/// Chooses the shape. Settings are followed to the letter; a program's request may be exceeded, and
/// its timeout lengthened, for the sake of kStallMs. Returns false, with a text, only if a setting
/// or the private area asks for the impossible.
bool choose_geometry(const RingRequest& request, Geometry& geometry, ErrorText& error);

/// Returns the size to which a ring for `request` may grow.
std::uint64_t max_ring_bytes(const RingRequest& request);

}  // namespace pcapv3
