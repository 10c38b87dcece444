// SPDX-License-Identifier: BSD-3-Clause
#include "test_block.h"

#include <cstdlib>
#include <cstring>

namespace pcapv3::test {
namespace {

constexpr std::uint32_t round_up(std::uint32_t value, std::uint32_t to) {
  return (value + to - 1) / to * to;
}

}  // namespace

Bytes counting(std::size_t count, std::uint8_t first) {
  Bytes bytes(count);
  for (auto& b : bytes) b = first++;
  return bytes;
}

void TestBlock::Free::operator()(std::uint8_t* memory) const { std::free(memory); }

TestBlock::TestBlock(std::uint32_t block_bytes, std::uint32_t headroom, std::uint32_t private_bytes)
    : block_bytes_(block_bytes),
      headroom_(headroom),
      memory_(static_cast<std::uint8_t*>(std::aligned_alloc(4096, round_up(block_bytes, 4096)))) {
  std::memset(memory_.get(), 0, block_bytes);
  desc()->version = 1;
  header().block_status = TP_STATUS_USER;
  desc()->offset_to_priv = round_up(sizeof(tpacket_block_desc), kPacketAlignment);
  header().offset_to_first_pkt = desc()->offset_to_priv + round_up(private_bytes, kPacketAlignment);
  header().blk_len = header().offset_to_first_pkt;
}

bool TestBlock::add(const TestPacket& packet) {
  const std::uint32_t mac = round_up(kPacketHeaderBytes + 16, TPACKET_ALIGNMENT) + headroom_;
  const auto stored = static_cast<std::uint32_t>(packet.bytes.size());
  const std::uint32_t length = round_up(mac + stored, kPacketAlignment);
  if (header().blk_len + length > block_bytes_) return false;

  const std::uint32_t at = header().blk_len;
  // The kernel closes a block by ending the chain at its last packet (prb_close_block).
  if (!offsets_.empty()) this->packet(offsets_.size() - 1).tp_next_offset = at - offsets_.back();
  offsets_.push_back(at);
  header().blk_len += length;
  header().num_pkts += 1;
  header().ts_last_pkt.ts_sec = packet.sec;
  header().ts_last_pkt.ts_nsec = packet.nsec;

  tpacket3_hdr h{};
  h.tp_sec = packet.sec;
  h.tp_nsec = packet.nsec;
  h.tp_snaplen = stored;
  h.tp_len = packet.wire_length == 0 ? stored : packet.wire_length;
  h.tp_status = TP_STATUS_USER | packet.status;
  h.tp_mac = static_cast<std::uint16_t>(mac);
  h.tp_net = static_cast<std::uint16_t>(mac + 14);
  h.hv1.tp_vlan_tci = packet.tci;
  h.hv1.tp_vlan_tpid = packet.tpid;
  std::memcpy(memory_.get() + at, &h, sizeof(h));
  std::memcpy(memory_.get() + at + kAddressOffset, &packet.from, sizeof(packet.from));
  if (stored != 0) std::memcpy(memory_.get() + at + mac, packet.bytes.data(), stored);
  return true;
}

tpacket3_hdr& TestBlock::packet(std::size_t index) {
  return *reinterpret_cast<tpacket3_hdr*>(memory_.get() + offsets_.at(index));
}

}  // namespace pcapv3::test
