// SPDX-License-Identifier: BSD-3-Clause
#include "growth/copies.h"

#include <algorithm>
#include <cstring>

namespace pcapv3 {
namespace {

/// How much further back than expected a copy is looked for: more packets than the other CPUs store
/// while one of them is interrupted between two sockets.
constexpr unsigned kMaxDisorder = 4096;

/// Nothing reads the padding at the end of a packet's header, where the kernel writes zeros.
std::uint8_t& removal_mark(const PacketView& packet) {
  return const_cast<tpacket3_hdr&>(packet.header()).tp_padding[0];
}
constexpr std::uint8_t kRemoved = 1;

bool is_copy(const PacketView& one, const PacketView& other) {
  const tpacket3_hdr& a = one.header();
  const tpacket3_hdr& b = other.header();
  const bool are_stamps_right = is_stamped_for_all(one) || is_stamped_for_all(other)
                                    ? one.stamp() == other.stamp()
                                    : one.stamp() >= other.stamp();
  return are_stamps_right && a.tp_len == b.tp_len && a.tp_snaplen == b.tp_snaplen &&
         a.hv1.tp_vlan_tci == b.hv1.tp_vlan_tci &&
         one.address().sll_pkttype == other.address().sll_pkttype &&
         one.address().sll_ifindex == other.address().sll_ifindex &&
         std::memcmp(one.bytes(), other.bytes(), a.tp_snaplen) == 0;
}

/// A walk through the packets of sealed blocks that are not marked as removed.
class Walk {
 public:
  Walk(const SealedBlocks& blocks, std::uint32_t headroom) : blocks_(blocks), headroom_(headroom) {
    settle();
  }

  bool has_packet() const { return cursor_.has_packet(); }
  PacketView packet() const { return cursor_.packet(); }
  void next() {
    cursor_.next();
    settle();
  }
  /// Steps on if the packet here has been marked since.
  void settle() {
    for (;;) {
      while (cursor_.has_packet() && removal_mark(cursor_.packet()) == kRemoved) cursor_.next();
      if (cursor_.has_packet() || next_ == blocks_.count) return;
      cursor_ = cursor_of(next_++);
    }
  }

  PacketCursor cursor_of(unsigned block) const {
    const Geometry& geometry = blocks_.ring.geometry();
    const unsigned index = (blocks_.first + block) % geometry.block_count;
    return PacketCursor(blocks_.ring.block(index), geometry.block_bytes, headroom_);
  }

 private:
  const SealedBlocks& blocks_;
  const std::uint32_t headroom_;
  unsigned next_ = 0;
  PacketCursor cursor_;
};

/// Calls `visit` for each packet of `position` up to its end.
template <typename Visit>
void for_each_packet(const RingPosition& position, Visit visit) {
  RingPosition walk = position;
  for (unsigned ahead = 0; ahead < walk.block_count() && walk.has(ahead); ++ahead) {
    walk.begin(ahead);
    for (PacketCursor at = walk.packets(ahead); at.has_packet(); at.next()) visit(at.packet());
  }
}

/// Unlinks the packets of a block that are marked. Returns how many.
unsigned unlink_marked(tpacket_block_desc* block, PacketCursor at) {
  tpacket_hdr_v1& header = block->hdr.bh1;
  tpacket3_hdr* before = nullptr;  // the last packet that stays
  unsigned removed = 0;
  for (std::uint32_t offset = header.offset_to_first_pkt; at.has_packet();) {
    auto* const packet = const_cast<tpacket3_hdr*>(&at.packet().header());
    const std::uint32_t step = packet->tp_next_offset;
    if (packet->tp_padding[0] == kRemoved) {
      ++removed;
    } else {
      const auto here = reinterpret_cast<std::uint8_t*>(packet);
      if (before == nullptr) {
        header.offset_to_first_pkt = offset;
      } else {
        before->tp_next_offset =
            static_cast<std::uint32_t>(here - reinterpret_cast<std::uint8_t*>(before));
      }
      before = packet;
    }
    at.next();
    offset += step;
  }
  if (removed != 0 && at.corrupt()) {
    // The rest can't be found from a packet that stays, either: the link is one that is none.
    constexpr std::uint32_t kNowhere = 1;
    (before != nullptr ? before->tp_next_offset : header.offset_to_first_pkt) = kNowhere;
  }
  header.num_pkts -= removed;
  return removed;
}

}  // namespace

unsigned remove_copies(const SealedBlocks& sealed, const RingPosition& other,
                       std::uint32_t headroom) {
  Stamp oldest = kEndOfTime;
  for_each_packet(other, [&](const PacketView& p) { oldest = std::min(oldest, p.stamp()); });
  Stamp newest = 0;
  for (Walk walk(sealed, headroom); walk.has_packet(); walk.next()) {
    newest = std::max(newest, walk.packet().stamp());
  }
  Walk first(sealed, headroom);
  while (first.has_packet() && first.packet().stamp() < oldest) first.next();
  for_each_packet(other, [&](const PacketView& packet) {
    if (packet.stamp() > newest) return;
    first.settle();
    Walk walk = first;
    for (unsigned n = 0; n < kMaxDisorder && walk.has_packet(); ++n, walk.next()) {
      if (!is_copy(walk.packet(), packet)) continue;
      removal_mark(walk.packet()) = kRemoved;
      return;
    }
  });
  unsigned removed = 0;
  const Walk blocks(sealed, headroom);
  for (unsigned i = 0; i < sealed.count; ++i) {
    const unsigned index = (sealed.first + i) % sealed.ring.geometry().block_count;
    removed += unlink_marked(sealed.ring.block(index), blocks.cursor_of(i));
  }
  return removed;
}

void close_block(tpacket_block_desc* block, std::uint32_t block_bytes, std::uint32_t headroom) {
  tpacket_hdr_v1& header = block->hdr.bh1;
  for (PacketCursor at(block, block_bytes, headroom); at.has_packet(); at.next()) {
    header.ts_last_pkt.ts_sec = at.packet().header().tp_sec;
    header.ts_last_pkt.ts_nsec = at.packet().header().tp_nsec;
  }
  header.block_status |= TP_STATUS_USER;
}

}  // namespace pcapv3
