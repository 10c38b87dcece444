// Views over one TPACKET_V3 block and the packets in it.
//
// A block is memory that the kernel writes and lends: the reader owns it from the moment its status
// shows TP_STATUS_USER until it is given back (ring.h does both). Nothing here owns memory, takes
// or gives back a block. What is here is the walk from packet to packet, and the promise that no
// offset or length found in a block is used before it was checked against the block.
//
// The layout is that of linux/if_packet.h; how the kernel fills it is in net/packet/af_packet.c
// (prb_open_block, prb_fill_curr_block, prb_close_block):
//
//   block:   tpacket_block_desc | packet | packet | ... up to blk_len
//   packet:  tpacket3_hdr (48 bytes) | sockaddr_ll (20) | reserved room | frame, from tp_mac on
#pragma once

#include <linux/if_packet.h>

#include <cstddef>
#include <cstdint>

namespace pcapv3 {

/// Bytes at the start of each packet before anything that may be overwritten: the kernel's header
/// and the address behind it.
inline constexpr std::uint32_t kAddressOffset = TPACKET_ALIGN(sizeof(tpacket3_hdr));
inline constexpr std::uint32_t kPacketHeaderBytes = kAddressOffset + sizeof(sockaddr_ll);

/// The kernel starts each packet at a multiple of this (af_packet.c: V3_ALIGNMENT).
inline constexpr std::uint32_t kPacketAlignment = 8;

/// When a packet was stamped, in a form that compares as time does and costs no arithmetic: seconds
/// since 1970 in the upper half, nanoseconds in the lower.
using Stamp = std::uint64_t;
inline constexpr Stamp kEndOfTime = ~Stamp{0};

constexpr Stamp stamp_of(std::uint64_t ns) {
  return (ns / 1'000'000'000) << 32 | ns % 1'000'000'000;
}
constexpr std::uint64_t ns_of(Stamp stamp) {
  return (stamp >> 32) * 1'000'000'000 + (stamp & 0xffffffff);
}

/// A packet in a block. Valid while the block is not given back; made by cursors only, so that all
/// it points at has been checked.
class PacketView {
 public:
  /// First byte the kernel stored: of the frame, or of its payload on a cooked (SOCK_DGRAM) socket.
  /// Writable: headers and tags are put in front of it, in place.
  std::uint8_t* bytes() const { return at_ + header().tp_mac; }
  const tpacket3_hdr& header() const { return *reinterpret_cast<const tpacket3_hdr*>(at_); }
  /// When the kernel or the card stamped it.
  Stamp stamp() const { return Stamp{header().tp_sec} << 32 | header().tp_nsec; }
  const sockaddr_ll& address() const {
    return *reinterpret_cast<const sockaddr_ll*>(at_ + kAddressOffset);
  }

 private:
  friend class PacketCursor;
  friend class Stretch;
  explicit PacketView(std::uint8_t* at) : at_(at) {}

  std::uint8_t* at_;
};

/// Neighbours in a block that have been walked once, by a PacketCursor, so that nothing is checked
/// again. Made by that only.
class Stretch {
 public:
  /// None.
  Stretch() = default;

  bool done() const { return left_ == 0; }
  std::uint32_t left() const { return left_; }
  /// The current packet. Only when not done().
  PacketView packet() const { return PacketView(at_); }
  void next() {
    --left_;
    at_ += reinterpret_cast<const tpacket3_hdr*>(at_)->tp_next_offset;
  }

 private:
  friend class PacketCursor;
  Stretch(std::uint8_t* at, std::uint32_t left) : at_(at), left_(left) {}

  std::uint8_t* at_ = nullptr;
  std::uint32_t left_ = 0;
};

/// Walks the packets of one block. Used up when done(); an offset that points outside the block
/// makes it corrupt() for good, with offset() telling where.
class PacketCursor {
 public:
  /// A cursor over nothing: done at once.
  PacketCursor() = default;

  /// `block` is a block that the reader owns, `block_bytes` its size as the ring was set up with.
  /// `headroom` is what packets have been promised in front of their bytes, by PACKET_RESERVE, for
  /// headers that are put there.
  PacketCursor(tpacket_block_desc* block, std::uint32_t block_bytes, std::uint32_t headroom)
      : base_(reinterpret_cast<std::uint8_t*>(block)), headroom_(headroom) {
    const tpacket_hdr_v1& h = block->hdr.bh1;
    left_ = h.num_pkts;
    if (left_ == 0) return;
    if (h.blk_len > block_bytes || h.offset_to_first_pkt < sizeof(*block) ||
        h.offset_to_first_pkt % kPacketAlignment != 0 || h.offset_to_first_pkt > h.blk_len) {
      corrupt_ = true;
      return;
    }
    at_ = base_ + h.offset_to_first_pkt;
    end_ = base_ + h.blk_len;
    corrupt_ = !fits();
  }

  bool done() const { return left_ == 0; }
  bool corrupt() const { return corrupt_; }
  /// Packets not yet walked past.
  std::uint32_t left() const { return left_; }
  /// Bytes from the block's start to the current packet.
  std::size_t offset() const { return at_ == nullptr ? 0 : static_cast<std::size_t>(at_ - base_); }

  /// The current packet. Only when neither done() nor corrupt().
  PacketView packet() const { return PacketView(at_); }

  /// The packets from here on that `end` has been walked past.
  Stretch up_to(const PacketCursor& end) const { return Stretch(at_, left_ - end.left_); }
  /// A cursor over the same.
  PacketCursor before(const PacketCursor& end) const {
    PacketCursor head = *this;
    head.left_ -= end.left_;
    return head;
  }

  /// Goes to the next packet; after the last one the cursor is done().
  void next() {
    if (left_ == 0 || --left_ == 0) return;
    const std::uint32_t step = reinterpret_cast<const tpacket3_hdr*>(at_)->tp_next_offset;
    if (step < kPacketHeaderBytes || step % kPacketAlignment != 0 ||
        step > static_cast<std::size_t>(end_ - at_)) {
      corrupt_ = true;
      return;
    }
    at_ += step;
    corrupt_ = !fits();
  }

 private:
  /// Whether the packet at at_, its header, headroom and bytes, lies inside the block.
  bool fits() const {
    const std::size_t room = static_cast<std::size_t>(end_ - at_);
    if (room < kPacketHeaderBytes) return false;
    const tpacket3_hdr& h = *reinterpret_cast<const tpacket3_hdr*>(at_);
    return h.tp_mac >= kPacketHeaderBytes + headroom_ &&
           std::uint64_t{h.tp_mac} + h.tp_snaplen <= room;
  }

  std::uint8_t* base_ = nullptr;
  std::uint8_t* at_ = nullptr;
  std::uint8_t* end_ = nullptr;
  std::uint32_t left_ = 0;
  std::uint32_t headroom_ = 0;
  bool corrupt_ = false;
};

}  // namespace pcapv3
