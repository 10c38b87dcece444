// SPDX-License-Identifier: BSD-3-Clause
// SlotRing: the second ring of a port in immediate mode. It is TPACKET_V2, whose slots are handed
// over one by one, each with a wake-up, where V3 waits for a block.
//
// The two sockets are in a fan-out group (pair.h) in which the kernel tries this ring first and
// passes on to the V3 ring what has no room here (af_packet.c: fanout_demux_rollover). So this ring
// has a gate (gate.h): while that is closed, the kernel finds no room here, and everything goes to
// the V3 ring, without a wake-up. Neither costs a system call or a packet. mode_switch.h decides
// when to do which. At first the gate is closed.
//
// Packets are copied into blocks laid out like V3's, so that all code that reads blocks can read
// these. That costs a copy of packets that come one by one, and releases each slot at once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "adaptive/background.h"
#include "adaptive/gate.h"
#include "ring.h"
#include "ring_position.h"

namespace pcapv3 {

class SlotRing {
 public:
  /// Packets get `headroom` free bytes in front of their bytes.
  explicit SlotRing(std::uint32_t headroom) : headroom_(headroom) {
    position_.set_headroom(headroom);
  }
  ~SlotRing();
  SlotRing(const SlotRing&) = delete;
  SlotRing& operator=(const SlotRing&) = delete;

  /// The memory comes from malloc; see pcapv3_port.
  static void* operator new(std::size_t bytes) noexcept;
  static void operator delete(void* memory);

  /// Begins to make and map the ring on `socket`, for packets of up to `largest_packet` bytes,
  /// in about `bytes` of memory. Requires that `socket` is not bound yet and has no ring; from now
  /// on this object owns it.
  void create(int socket, std::uint64_t largest_packet, std::uint64_t bytes);
  /// Waits until the ring is made. Returns false, with errno, if it is unavailable.
  bool wait_until_made();
  /// Begins to close the ring, and does it at once if the process has confined itself. Only the
  /// position, which is empty, may be used afterwards.
  void close();
  /// Takes over `frames`, memory made by mmap(2) with `count` slots that no socket fills, a
  /// multiple of four.
  bool adopt(void* frames, std::uint32_t count, std::uint32_t frame_bytes);

  int socket() const { return socket_; }
  std::uint32_t frame_count() const { return frame_count_; }
  std::uint32_t frame_bytes() const { return frame_bytes_; }

  /// Opens the gate: packets come here from now on.
  void open_gate();
  /// Opens it, which must be closed, for some packets only, and returns for how many.
  unsigned open_gate_a_little();
  /// Closes it: no more than a few packets come here from now on.
  void close_gate();
  /// Returns whether it was ever open.
  bool used() const { return used_; }

  /// Returns how many slots hold packets. Requires that none was ever taken.
  unsigned came() const;
  /// Drops all of these that `blocks` has a copy of, in the blocks from `ahead` on and in the one
  /// that the kernel is filling, and returns how many it dropped. Where several slots are alike, a
  /// packet counts as no copy if it came after `joined`, and when there may have been no room for
  /// it here. (pair.h) Requires that the gate was only opened a little.
  unsigned drop_copies(const RingPosition& blocks, unsigned ahead, Stamp joined);
  /// Drops all of them, and closes the gate as at first. Requires that no more packets come.
  void drop_all();

  /// Copies the packets that have come into a block of the position, and returns how many.
  unsigned take();
  /// Returns whether there is a packet that take() would copy.
  bool has_frame() const { return quota_ != 0 && is_ours(next_); }
  /// Returns whether anything is left to be read.
  bool has_packets() const { return has_frame() || position_.has(0); }

  /// For a drain: limits take() to the packets that are here now, until clear_end().
  void set_end();
  void clear_end() { quota_ = kNoQuota; }

  /// Returns the position in the blocks that packets are copied into, which are numbered and
  /// stamped like the kernel's.
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
  void set_gate(unsigned ahead);
  void give_back(unsigned index);
  void tell_of_rest();
  unsigned drop_copies(PacketCursor packets, std::uint32_t most, unsigned count, Stamp until);
  bool is_copy(const std::byte* frame, const PacketView& packet) const;
  Stamp stamp(const std::byte* frame) const;
  bool stage(const std::byte* frame, std::uint8_t* at, std::uint32_t room,
             std::uint32_t& bytes) const;

  const std::uint32_t headroom_;
  std::uint64_t largest_packet_ = 0;
  std::uint64_t wanted_bytes_ = 0;
  int error_ = 0;  // errno of make()
  int socket_ = -1;
  std::byte* base_ = nullptr;
  std::size_t mapped_bytes_ = 0;
  std::uint32_t frame_bytes_ = 0;
  std::uint32_t frame_count_ = 0;
  std::uint32_t frames_a_page_block_ = 0;
  std::uint32_t page_block_bytes_ = 0;
  unsigned next_ = 0;          // the slot that the kernel hands over next
  unsigned quota_ = kNoQuota;  // slots that may be taken
  Gate gate_;
  unsigned sure_ = 0;  // see open_gate_a_little()
  bool used_ = false;
  Ring staged_;
  RingPosition position_{staged_};
  unsigned filling_ = 0;  // the block that packets are copied into next
  std::uint64_t sequence_ = 0;
  BackgroundTask background_;  // last: its thread uses the others
};

}  // namespace pcapv3
