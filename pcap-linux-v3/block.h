// SPDX-License-Identifier: BSD-3-Clause
// Views over one TPACKET_V3 block and the packets in it.
//
// A block is memory that the kernel and the reader own in turn: the reader owns it from the moment
// its status shows TP_STATUS_USER until it is released (ring.h does both). Nothing here owns
// memory, acquires or releases a block. This file has the walk from packet to packet, and
// guarantees that no offset or length found in a block is used before it has been checked against
// the block.
//
// The layout is that of linux/if_packet.h; how the kernel fills it is in net/packet/af_packet.c
// (prb_open_block, prb_fill_curr_block, prb_close_block):
//
//   block:   tpacket_block_desc | private area, if any | packet | packet | ... up to blk_len
//   packet:  tpacket3_hdr (48 bytes) | sockaddr_ll (20) | reserved room | frame, from tp_mac on
#pragma once

#include <linux/if_packet.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace pcapv3 {

/// Bytes at the start of each packet that must not be overwritten: the kernel's header and the
/// address behind it.
inline constexpr std::uint32_t kAddressOffset = TPACKET_ALIGN(sizeof(tpacket3_hdr));
inline constexpr std::uint32_t kPacketHeaderBytes = kAddressOffset + sizeof(sockaddr_ll);

/// The kernel starts each packet at a multiple of this (af_packet.c: V3_ALIGNMENT).
inline constexpr std::uint32_t kPacketAlignment = 8;

/// When a packet was stamped, in a form that compares as time does and needs no arithmetic: seconds
/// since 1970 in the upper half, nanoseconds in the lower.
using Stamp = std::uint64_t;
inline constexpr Stamp kEndOfTime = ~Stamp{0};

constexpr Stamp stamp_of(std::uint64_t ns) {
  return (ns / 1'000'000'000) << 32 | ns % 1'000'000'000;
}
constexpr std::uint64_t ns_of(Stamp stamp) {
  return (stamp >> 32) * 1'000'000'000 + (stamp & 0xffffffff);
}

/// Returns the private area of a block that the reader owns: `bytes` for the program, which the
/// kernel reserves in front of the packets and never writes to. Returns null if the block has no
/// such area.
inline void* private_area(tpacket_block_desc* block, std::uint32_t bytes) {
  const std::uint32_t at = block->offset_to_priv;
  const std::uint32_t end = block->hdr.bh1.offset_to_first_pkt;
  if (bytes == 0 || at < sizeof(*block) || at % kPacketAlignment != 0 || at > end ||
      end - at < bytes) {
    return nullptr;
  }
  return reinterpret_cast<std::uint8_t*>(block) + at;
}

/// Prefetches what is read of a packet's header, which can lie across two cache lines.
inline void fetch_header(const std::uint8_t* packet) {
  __builtin_prefetch(packet);
  __builtin_prefetch(packet + offsetof(tpacket3_hdr, hv1));
}

/// A packet in a block, valid until the block is released. Only cursors make one, so everything
/// that it points at has been checked.
class PacketView {
 public:
  /// Returns the first byte the kernel stored: of the frame, or of its payload on a cooked
  /// (SOCK_DGRAM) socket. Writable: headers and tags are put in front of it, in place.
  std::uint8_t* bytes() const { return at_ + header().tp_mac; }
  const tpacket3_hdr& header() const { return *reinterpret_cast<const tpacket3_hdr*>(at_); }
  /// Returns when the kernel or the card stamped it.
  Stamp stamp() const {
    // Seconds and nanoseconds lie side by side: one load.
    static_assert(offsetof(tpacket3_hdr, tp_nsec) == offsetof(tpacket3_hdr, tp_sec) + 4);
    Stamp stamp;
    std::memcpy(&stamp, &header().tp_sec, sizeof(stamp));
    return std::endian::native == std::endian::little ? std::rotl(stamp, 32) : stamp;
  }
  const sockaddr_ll& address() const {
    return *reinterpret_cast<const sockaddr_ll*>(at_ + kAddressOffset);
  }

 private:
  friend class PacketCursor;
  friend class Run;
  explicit PacketView(std::uint8_t* at) : at_(at) {}

  std::uint8_t* at_;
};

/// Neighbours in a block that a PacketCursor has walked once, so that nothing is checked again.
/// Only PacketCursor makes a non-empty one.
class Run {
 public:
  /// An empty run.
  Run() = default;

  bool done() const { return left_ == 0; }
  std::uint32_t left() const { return left_; }
  /// Returns the current packet. Requires !done().
  PacketView packet() const { return PacketView(at_); }
  bool is_at(const Run& other) const { return at_ == other.at_; }
  /// Adds `packets` packets, which must have been walked, behind the last one.
  void grow(std::uint32_t packets) { left_ += packets; }
  /// Goes to the next packet. Returns how many bytes it lies behind the one before.
  std::uint32_t next() {
    // If packets are of one size, prefetches from where the first walk left them into the nearest
    // cache.
    constexpr std::size_t kPacketsAhead = 16;
    --left_;
    const std::uint32_t offset = packet().header().tp_next_offset;
    at_ += offset;
    fetch_header(at_ + kPacketsAhead * offset);
    return offset;
  }

 private:
  friend class PacketCursor;
  Run(std::uint8_t* at, std::uint32_t left) : at_(at), left_(left) {}

  std::uint8_t* at_ = nullptr;
  std::uint32_t left_ = 0;
};

/// Walks the packets of one block, until done(). An offset that points outside the block makes the
/// cursor corrupt() for good; offset() then returns where.
class PacketCursor {
 public:
  class LocalCursor;

  /// A cursor over nothing: done() from the start.
  PacketCursor() = default;

  /// `block` must be a block that the reader owns, and `block_bytes` its size as the ring was set
  /// up with. `headroom` is the room that packets have been promised in front of their bytes, by
  /// PACKET_RESERVE, for headers that are put there.
  PacketCursor(tpacket_block_desc* block, std::uint32_t block_bytes, std::uint32_t headroom)
      : base_(reinterpret_cast<std::uint8_t*>(block)),
        at_(base_),
        least_mac_(kPacketHeaderBytes + headroom) {
    const tpacket_hdr_v1& h = block->hdr.bh1;
    left_ = h.num_pkts;
    if (left_ == 0) return;
    end_ = base_ + std::min(h.blk_len, block_bytes);
    begin(h.offset_to_first_pkt, h.blk_len <= block_bytes);
  }

  /// A cursor over the first `packets` packets, at least one, of a block that the kernel is still
  /// filling: these are final (grace_period.h), but the length of the block is not.
  PacketCursor(tpacket_block_desc* block, std::uint32_t block_bytes, std::uint32_t headroom,
               std::uint32_t packets)
      : base_(reinterpret_cast<std::uint8_t*>(block)),
        at_(base_),
        end_(base_ + block_bytes),
        left_(packets),
        least_mac_(kPacketHeaderBytes + headroom) {
    begin(block->hdr.bh1.offset_to_first_pkt, true);
  }

  /// Returns whether there is a packet here: neither done() nor corrupt().
  bool has_packet() const { return left_ != 0; }
  bool done() const { return left() == 0; }
  bool corrupt() const { return lost_ != 0; }
  /// Returns the number of packets not yet walked past.
  std::uint32_t left() const { return left_ + lost_; }
  /// Returns the number of bytes from the block's start to the current packet.
  std::size_t offset() const { return static_cast<std::size_t>(at_ - base_); }

  /// Returns the current packet. Requires has_packet().
  PacketView packet() const { return PacketView(at_); }

  /// Returns the packets from here on that `end` has been walked past.
  Run up_to(const PacketCursor& end) const { return Run(at_, left() - end.left()); }

  /// Goes to the next packet; after the last one the cursor is done(). Requires has_packet().
  void next() {
    if (--left_ == 0) {
      at_ = end_;  // shows that the last was walked past
      return;
    }
    const std::uint32_t offset = packet().header().tp_next_offset;
    if (offset == last_offset_) {
      fetch_header(at_ + offset + kPacketsAhead * offset);
    } else if (!change_offset(offset)) {
      return;
    }
    step(offset);
  }
  /// Must be called with the number of packets lost to corruption that were already counted.
  void forget_lost(std::uint32_t packets) { lost_ -= std::min(packets, lost_); }
  /// Walks past packets for as long as their stamps do not fall, at most `most` of them. Returns
  /// the last one's stamp. Requires has_packet().
  Stamp extend(std::uint32_t most) {
    for (;;) {
      most -= extend_alike(most - 1);
      const Stamp last = packet().stamp();
      next();
      if (!has_packet() || packet().stamp() < last || --most == 0) return last;
    }
  }
  /// Returns where packets have been prefetched up to, if they are of one size.
  const std::uint8_t* fetched() const { return at_ + kPacketsAhead * last_offset_; }

 private:
  // What the kernel wrote on another CPU is prefetched some way ahead: waiting for it is most of
  // what a reader would do. The headers of packets of one size are at predictable places; for
  // others, everything ahead is prefetched.
  static constexpr std::size_t kPacketsAhead = 32;
  static constexpr std::size_t kBytesAhead = 6144;

  static constexpr std::uint32_t kLeastOffset =
      (kPacketHeaderBytes + kPacketAlignment - 1) / kPacketAlignment * kPacketAlignment;

  /// Goes to the first packet, if the block is sound so far.
  void begin(std::uint32_t offset_to_first, bool sound) {
    if (!sound || offset_to_first < sizeof(tpacket_block_desc) ||
        offset_to_first % kPacketAlignment != 0) {
      lose();
    } else {
      step(offset_to_first);
    }
  }
  /// Called when the next packet is `offset` bytes behind, unlike the one before. Returns false if
  /// that is impossible.
  bool change_offset(std::uint32_t offset) {
    if (offset < kLeastOffset || offset % kPacketAlignment != 0) {
      lose();
      return false;
    }
    last_offset_ = offset;
    constexpr std::size_t kLine = 64;
    for (std::size_t i = 0; i < offset; i += kLine) __builtin_prefetch(at_ + kBytesAhead + i);
    return true;
  }
  /// Goes `offset` bytes on, to a packet that must lie in the block with its header, headroom and
  /// bytes.
  void step(std::uint32_t offset) {
    const auto room = static_cast<std::size_t>(end_ - at_);
    if (offset + std::uint64_t{kPacketHeaderBytes} > room) {
      if (offset <= room) at_ += offset;  // where the packet would be
      lose();
      return;
    }
    at_ += offset;
    if (!lies_within(packet().header(), room - offset)) lose();
  }
  bool lies_within(const tpacket3_hdr& h, std::size_t room) const {
    return h.tp_mac >= least_mac_ && std::uint64_t{h.tp_mac} + h.tp_snaplen <= room;
  }
  /// Does the work of extend() for as long as there is another packet, as far behind as the one
  /// before: then there is less to check. Returns how many packets it went.
  std::uint32_t extend_alike(std::uint32_t most) {
    const std::uint32_t offset = last_offset_;
    const std::uint32_t steps = std::min(most, left_ - 1);
    std::uint32_t left = steps;
    PacketCursor here = *this;  // stays in registers
    for (Stamp last = packet().stamp(); left != 0; --left) {
      const auto room = static_cast<std::size_t>(end_ - here.at_);
      if (here.packet().header().tp_next_offset != offset ||
          offset + std::uint64_t{kPacketHeaderBytes} > room) {
        break;
      }
      const PacketView next(here.at_ + offset);
      const Stamp stamp = next.stamp();
      fetch_header(here.fetched() + offset);
      if (!lies_within(next.header(), room - offset) || stamp < last) break;
      here.at_ += offset;
      last = stamp;
    }
    at_ = here.at_;
    left_ -= steps - left;
    return steps - left;
  }
  [[gnu::cold]] void lose() {
    lost_ = left_;
    left_ = 0;
  }

  std::uint8_t* base_ = nullptr;
  std::uint8_t* at_ = nullptr;
  std::uint8_t* end_ = nullptr;
  std::uint32_t left_ = 0;  // packets left, as far as is known
  std::uint32_t lost_ = 0;  // packets lost, from a corrupt one on
  std::uint32_t least_mac_ = 0;
  std::uint32_t last_offset_ = kLeastOffset;  // from one packet to the next, as last seen
};

/// A copy of a cursor that can stay in registers over calls that the compiler knows nothing of:
/// commit() must be called before anything else looks at the cursor.
class PacketCursor::LocalCursor : public PacketCursor {
 public:
  explicit LocalCursor(PacketCursor& cursor) : PacketCursor(cursor), cursor_(cursor) {}

  void commit() const {
    cursor_.at_ = at_;
    cursor_.left_ = left_;
    cursor_.last_offset_ = last_offset_;
    if (left_ == 0) cursor_.lost_ = lost_;
  }
  /// Returns whether the cursor is still where commit() put it.
  bool is_there() const { return cursor_.at_ == at_; }

 private:
  PacketCursor& cursor_;
};

/// A cursor that records the packet it walked past last: the one that a callback is called for.
class TellingCursor : public PacketCursor {
 public:
  class LocalCursor;

  TellingCursor() = default;
  explicit TellingCursor(const PacketCursor& cursor) : PacketCursor(cursor) {}

  /// Returns that packet's header; null before the first packet.
  const tpacket3_hdr* walked() const { return walked_; }

 private:
  const tpacket3_hdr* walked_ = nullptr;
};

class TellingCursor::LocalCursor : public PacketCursor::LocalCursor {
 public:
  explicit LocalCursor(TellingCursor& cursor)
      : PacketCursor::LocalCursor(cursor), cursor_(cursor) {}

  void next() {
    cursor_.walked_ = &packet().header();
    PacketCursor::LocalCursor::next();
  }

 private:
  TellingCursor& cursor_;
};

}  // namespace pcapv3
