// SPDX-License-Identifier: BSD-3-Clause
// Single blocks, written as the kernel writes them (kernel_ring.h), for tests that need to know
// exactly what is in them, or to corrupt it.
#pragma once

#include <linux/if_packet.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "pcap-linux-v3/block.h"
#include "tests/kernel_ring.h"

namespace pcapv3::test {

/// Returns `count` bytes: `first`, `first` + 1, ...
Bytes counting(std::size_t count, std::uint8_t first = 0);

/// A block of `block_bytes`, aligned as the kernel's are, which can be handed over at any time with
/// what it holds. It belongs to a socket with PACKET_RESERVE of `headroom`, and to a ring with a
/// private area of `private_bytes` in each block.
class TestBlock {
 public:
  TestBlock(std::uint32_t block_bytes, std::uint32_t headroom, std::uint32_t private_bytes = 0);

  /// Adds a packet; returns false if the block is full.
  bool add(const TestPacket& packet);

  tpacket_block_desc* desc() { return reinterpret_cast<tpacket_block_desc*>(memory_.get()); }
  tpacket_hdr_v1& header() { return desc()->hdr.bh1; }
  /// Returns the header of packet `index`, for a test to corrupt.
  tpacket3_hdr& packet(std::size_t index) { return *packets_.at(index); }
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
  KernelBlock writer_;
  std::vector<tpacket3_hdr*> packets_;
};

}  // namespace pcapv3::test
