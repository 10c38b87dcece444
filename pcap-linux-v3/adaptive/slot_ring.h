// SPDX-License-Identifier: BSD-3-Clause
// The second ring of a port in immediate mode: TPACKET_V2, whose frames are handed over one by one,
// each with a wake-up, where V3 waits for a block.
//
// The two sockets are in a fan-out group (pair.h) in which the kernel asks this ring
// first and passes on to the V3 ring what has no room here (af_packet.c: fanout_demux_rollover). So
// it is a gate: as long as frames are given back, packets come here; when they are held, the ring
// is full after so many packets and everything goes to the V3 ring, without a wake-up; and when
// they are let go, packets come here again. Neither costs a system call or a packet. When to do
// which is mode_switch.h's. At first all frames are held.
//
// What comes is copied into blocks laid out as V3's, so that all that reads blocks can read these.
// That costs a copy of packets that come one by one, and gives each frame back at once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "adaptive/background.h"
#include "ring.h"
#include "ring_position.h"

namespace pcapv3 {

class SlotRing {
 public:
  /// Packets are promised `headroom` bytes in front of their bytes.
  explicit SlotRing(std::uint32_t headroom) : headroom_(headroom) {
    position_.set_headroom(headroom);
  }
  ~SlotRing();
  SlotRing(const SlotRing&) = delete;
  SlotRing& operator=(const SlotRing&) = delete;

  /// The memory is malloc's; see pcapv3_port.
  static void* operator new(std::size_t bytes) noexcept;
  static void operator delete(void* memory);

  /// Begins to make and map the ring on `socket`, which is not bound yet, has none, and is from now
  /// on this one's to close: for packets of up to `largest_packet` bytes, in about `bytes` of
  /// memory.
  void create(int socket, std::uint64_t largest_packet, std::uint64_t bytes);
  /// Waits until it is made. False, with errno, if it can't be had.
  bool wait_until_made();
  /// Begins to close it: nothing of it is used any more but the position, which is empty.
  void close();
  /// Takes over `frames`, made by mmap(2): `count` frames that no socket fills.
  bool adopt(void* frames, std::uint32_t count, std::uint32_t frame_bytes);

  int socket() const { return socket_; }
  std::uint32_t frame_count() const { return frame_count_; }
  std::uint32_t frame_bytes() const { return frame_bytes_; }

  /// Has packets come here from now on.
  void let_go();
  /// Has no more packets come here, as soon as the ring is full.
  void hold() { holding_ = true; }
  /// Whether it was ever let go.
  bool used() const { return used_; }

  /// How many frames have come and were not taken, if none were ever.
  unsigned came() const;
  /// Drops of these all that `blocks` has a copy of, in the blocks from `ahead` on and in the one
  /// that the kernel is filling. Returns how many. What is stamped after `until`, if not by chance,
  /// is no copy: that counts for frames that are all alike. (pair.h)
  unsigned drop_copies(const RingPosition& blocks, unsigned ahead, Stamp until);
  /// Drops all of them, and holds all frames as at first. No more come.
  void drop_all();

  /// Moves frames that have come into a block of the position. Returns how many.
  unsigned take();
  /// Whether there is a frame that take() would move; and whether anything is left to be read.
  bool has_frame() const { return quota_ != 0 && held_ < frame_count_ && is_ours(next_); }
  bool has_packets() const { return has_frame() || position_.has(0); }

  /// For a drain: has take() move the frames that are there now and no more, until clear_end().
  void set_end();
  void clear_end() { quota_ = kNoQuota; }

  /// The blocks they were moved into, numbered and stamped as the kernel's.
  RingPosition& position() { return position_; }
  const RingPosition& position() const { return position_; }

 private:
  static constexpr unsigned kBlocks = 4;
  static constexpr unsigned kNoQuota = ~0u;

  bool make();
  void unmake();
  std::byte* frame(unsigned index) const;
  bool is_ours(unsigned index) const;
  unsigned fill();
  void tell_of_rest();
  unsigned drop_copies(PacketCursor packets, unsigned count, Stamp until);
  bool is_copy(const std::byte* frame, const PacketView& packet) const;
  Stamp stamp(const std::byte* frame) const;
  bool stage(const std::byte* frame, std::uint8_t* at, std::uint32_t room,
             std::uint32_t& bytes) const;

  const std::uint32_t headroom_;
  std::uint64_t largest_packet_ = 0;
  std::uint64_t wanted_bytes_ = 0;
  int error_ = 0;  // errno of making it
  int socket_ = -1;
  std::byte* base_ = nullptr;
  std::size_t mapped_bytes_ = 0;
  std::uint32_t frame_bytes_ = 0;
  std::uint32_t frame_count_ = 0;
  std::uint32_t frames_a_page_block_ = 0;
  std::uint32_t page_block_bytes_ = 0;
  unsigned next_ = 0;          // frame that the kernel hands over next
  unsigned held_ = 0;          // before it, that were taken and are to be let go
  unsigned quota_ = kNoQuota;  // frames that may be taken
  bool holding_ = true;
  bool used_ = false;
  Ring staged_;
  RingPosition position_{staged_};
  unsigned filling_ = 0;  // block of the position
  std::uint64_t sequence_ = 0;
  BackgroundTask background_;  // last: its thread uses the others
};

}  // namespace pcapv3
