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

#include <algorithm>
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
/// again. Made of what that tells only.
class Stretch {
 public:
  /// None.
  Stretch() = default;

  bool done() const { return left_ == 0; }
  std::uint32_t left() const { return left_; }
  /// The current packet. Only when not done().
  PacketView packet() const { return PacketView(at_); }
  bool is_at(const Stretch& other) const { return at_ == other.at_; }
  /// So many packets more have been walked, behind the last one.
  void grow(std::uint32_t packets) { left_ += packets; }
  void next() {
    --left_;
    const std::uint32_t offset = reinterpret_cast<const tpacket3_hdr*>(at_)->tp_next_offset;
    at_ += offset;
    fetch_ahead(offset);
  }

 private:
  friend class PacketCursor;
  Stretch(std::uint8_t* at, std::uint32_t left) : at_(at), left_(left) {}

  /// Fetches into the nearest cache what the first walk has left in the next one, if packets are of
  /// one size; see PacketCursor::fetch_ahead.
  void fetch_ahead(std::size_t offset) const {
    constexpr std::size_t kPackets = 16;
    const std::uint8_t* header = at_ + kPackets * offset;
    __builtin_prefetch(header);
    __builtin_prefetch(header + offsetof(tpacket3_hdr, hv1));
  }

  std::uint8_t* at_ = nullptr;
  std::uint32_t left_ = 0;
};

/// Walks the packets of one block. Used up when done(); an offset that points outside the block
/// makes it corrupt() for good, with offset() telling where.
class PacketCursor {
 public:
  class Hand;

  /// A cursor over nothing: done at once.
  PacketCursor() = default;

  /// `block` is a block that the reader owns, `block_bytes` its size as the ring was set up with.
  /// `headroom` is what packets have been promised in front of their bytes, by PACKET_RESERVE, for
  /// headers that are put there.
  PacketCursor(tpacket_block_desc* block, std::uint32_t block_bytes, std::uint32_t headroom)
      : base_(reinterpret_cast<std::uint8_t*>(block)),
        at_(base_),
        least_mac_(kPacketHeaderBytes + headroom) {
    const tpacket_hdr_v1& h = block->hdr.bh1;
    left_ = h.num_pkts;
    if (left_ == 0) return;
    end_ = base_ + std::min(h.blk_len, block_bytes);
    if (h.blk_len > block_bytes || h.offset_to_first_pkt < sizeof(*block)) {
      lose();
    } else {
      step(h.offset_to_first_pkt);
    }
  }

  /// Whether there is a packet here: neither done() nor corrupt().
  bool has_packet() const { return left_ != 0; }
  bool done() const { return left() == 0; }
  bool corrupt() const { return lost_ != 0; }
  /// Packets not yet walked past.
  std::uint32_t left() const { return left_ + lost_; }
  /// Bytes from the block's start to the current packet.
  std::size_t offset() const { return static_cast<std::size_t>(at_ - base_); }

  /// The current packet. Only when has_packet().
  PacketView packet() const { return PacketView(at_); }

  /// The packets from here on that `end` has been walked past.
  Stretch up_to(const PacketCursor& end) const { return Stretch(at_, left() - end.left()); }
  /// A cursor over the same.
  PacketCursor before(const PacketCursor& end) const {
    PacketCursor head = *this;
    head.left_ = left() - end.left();
    head.lost_ = 0;
    return head;
  }

  /// Goes to the next packet; after the last one the cursor is done(). Only when has_packet().
  void next() {
    if (--left_ == 0) return;
    const std::uint32_t offset = reinterpret_cast<const tpacket3_hdr*>(at_)->tp_next_offset;
    if (offset < kPacketHeaderBytes) {
      lose();
    } else {
      step(offset);
    }
  }

 private:
  /// Goes `offset` bytes on, to a packet that has to lie in the block: its header, its headroom and
  /// its bytes.
  void step(std::uint32_t offset) {
    const auto room = static_cast<std::size_t>(end_ - at_);
    if (offset % kPacketAlignment != 0 || offset + std::size_t{kPacketHeaderBytes} > room) {
      // Where it would be, if that is in the block.
      if (offset % kPacketAlignment == 0 && offset <= room) at_ += offset;
      lose();
      return;
    }
    at_ += offset;
    fetch_ahead(offset);
    const tpacket3_hdr& h = *reinterpret_cast<const tpacket3_hdr*>(at_);
    if (h.tp_mac < least_mac_ || std::uint64_t{h.tp_mac} + h.tp_snaplen > room - offset) lose();
  }
  /// Has the cache fetch what the kernel wrote on another CPU: to wait for that is most of what a
  /// reader would do. Packets of one size have their headers at places that can be told, and these
  /// can lie across two lines of 64 bytes; of others, all that is there is fetched.
  void fetch_ahead(std::size_t offset) {
    constexpr std::size_t kPackets = 32;
    constexpr std::size_t kBytes = 6144;
    constexpr std::size_t kLine = 64;
    if (offset == last_offset_) {
      const std::uint8_t* header = at_ + kPackets * offset;
      __builtin_prefetch(header);
      __builtin_prefetch(header + offsetof(tpacket3_hdr, hv1));
    } else {
      last_offset_ = offset;
      for (std::size_t i = 0; i < offset; i += kLine) __builtin_prefetch(at_ + kBytes + i);
    }
  }
  [[gnu::cold]] void lose() {
    lost_ = left_;
    left_ = 0;
  }

  std::uint8_t* base_ = nullptr;
  std::uint8_t* at_ = nullptr;
  std::uint8_t* end_ = nullptr;
  std::uint32_t left_ = 0;  // packets, as far as is known
  std::uint32_t lost_ = 0;  // packets from a corrupt one on
  std::uint32_t least_mac_ = 0;
  std::size_t last_offset_ = 0;
};

/// A copy of a cursor that can stay in registers over calls that the compiler knows nothing of: to
/// be put_back() before anybody else looks at the cursor.
class PacketCursor::Hand : public PacketCursor {
 public:
  explicit Hand(PacketCursor& cursor) : PacketCursor(cursor), cursor_(cursor) {}

  void put_back() const {
    cursor_.at_ = at_;
    cursor_.left_ = left_;
    cursor_.last_offset_ = last_offset_;
    if (left_ == 0) cursor_.lost_ = lost_;
  }
  /// Whether the cursor is still where it was put back.
  bool is_there() const { return cursor_.at_ == at_; }

 private:
  PacketCursor& cursor_;
};

/// A cursor that can tell which packet it has been walked past last: what a callback is called for.
class TellingCursor : public PacketCursor {
 public:
  class Hand;

  TellingCursor() = default;
  explicit TellingCursor(const PacketCursor& cursor) : PacketCursor(cursor) {}

  /// Null before the first packet.
  const tpacket3_hdr* walked() const { return walked_; }

 private:
  const tpacket3_hdr* walked_ = nullptr;
};

class TellingCursor::Hand : public PacketCursor::Hand {
 public:
  explicit Hand(TellingCursor& cursor) : PacketCursor::Hand(cursor), cursor_(cursor) {}

  void next() {
    cursor_.walked_ = &packet().header();
    PacketCursor::Hand::next();
  }

 private:
  TellingCursor& cursor_;
};

}  // namespace pcapv3
