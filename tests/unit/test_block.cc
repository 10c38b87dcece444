// SPDX-License-Identifier: BSD-3-Clause
#include "test_block.h"

#include <cstdlib>
#include <cstring>

namespace pcapv3::test {

Bytes counting(std::size_t count, std::uint8_t first) {
  Bytes bytes(count);
  for (auto& b : bytes) b = first++;
  return bytes;
}

void TestBlock::Free::operator()(std::uint8_t* memory) const { std::free(memory); }

TestBlock::TestBlock(std::uint32_t block_bytes, std::uint32_t headroom, std::uint32_t private_bytes)
    : block_bytes_(block_bytes),
      headroom_(headroom),
      memory_(static_cast<std::uint8_t*>(
          std::aligned_alloc(4096, (std::size_t{block_bytes} + 4095) / 4096 * 4096))),
      writer_(desc(), block_bytes, headroom, private_bytes) {
  std::memset(memory_.get(), 0, block_bytes);
  writer_.open(0, 0);
  writer_.close(0, 0);
}

bool TestBlock::add(const TestPacket& packet) {
  tpacket3_hdr* const before = writer_.last();
  tpacket3_hdr* const at = writer_.place(static_cast<std::uint32_t>(packet.bytes.size()));
  if (at == nullptr) return false;
  // Closing the block has ended the chain.
  if (before != nullptr) {
    before->tp_next_offset = static_cast<std::uint32_t>(reinterpret_cast<std::uint8_t*>(at) -
                                                        reinterpret_cast<std::uint8_t*>(before));
  }
  packets_.push_back(at);
  writer_.copy(at, packet);
  writer_.close(0, 0);
  return true;
}

}  // namespace pcapv3::test
