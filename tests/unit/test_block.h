// SPDX-License-Identifier: BSD-3-Clause
// Blocks made in memory as the kernel makes them, and rings of such blocks, for tests that want to
// know exactly what is in them or to spoil it.
#pragma once

#include <linux/if_packet.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "pcap-linux-v3/block.h"

namespace pcapv3::test {

using Bytes = std::vector<std::uint8_t>;

/// What a packet in a block can be made of.
struct TestPacket {
  Bytes bytes;
  std::uint32_t wire_length = 0;  ///< 0: as many as there are bytes.
  std::uint32_t sec = 1;
  std::uint32_t nsec = 0;
  std::uint32_t status = 0;  ///< TP_STATUS_VLAN_VALID and such.
  std::uint16_t tci = 0;
  std::uint16_t tpid = 0;
  sockaddr_ll from{};
};

/// `count` bytes: `first`, `first` + 1, ...
Bytes counting(std::size_t count, std::uint8_t first = 0);

/// A block of `block_bytes`, aligned as the kernel's are. The layout follows af_packet.c
/// (prb_open_block, prb_fill_curr_block, tpacket_rcv) for a socket with PACKET_RESERVE of
/// `headroom`, and a ring with a private area of `private_bytes` in each block.
class TestBlock {
 public:
  TestBlock(std::uint32_t block_bytes, std::uint32_t headroom, std::uint32_t private_bytes = 0);

  /// Adds a packet; false if the block is full.
  bool add(const TestPacket& packet);

  tpacket_block_desc* desc() { return reinterpret_cast<tpacket_block_desc*>(memory_.get()); }
  tpacket_hdr_v1& header() { return desc()->hdr.bh1; }
  /// The header of packet `index`, to be spoilt.
  tpacket3_hdr& packet(std::size_t index);
  std::uint32_t block_bytes() const { return block_bytes_; }
  std::uint32_t headroom() const { return headroom_; }
  PacketCursor cursor() { return PacketCursor(desc(), block_bytes_, headroom_); }

 private:
  struct Free {
    void operator()(std::uint8_t* memory) const;
  };
  std::uint32_t block_bytes_;
  std::uint32_t headroom_;
  std::unique_ptr<std::uint8_t, Free> memory_;
  std::vector<std::uint32_t> offsets_;
};

}  // namespace pcapv3::test
