// SPDX-License-Identifier: BSD-3-Clause
// A ring position: which block of a ring is being read, and how far.
//
// Blocks are read in ring order, as the kernel fills them, and released when they have been walked
// through. A reader of one port opens one after the other; a merge (merge.h) also looks at the
// blocks behind.
//
// The program can also acquire a block (blocks/pool.h), which it releases by itself. If the
// position comes round to that block before then, the block looks like one that the kernel has
// handed over; only its sequence number, which grows from block to block, shows that it is not.
//
// What the kernel has put into the block that it is filling can be read in place once it is final
// (grace_period.h): mark() returns how far the ring is filled, and set_end() has the position show
// that much and no more. Such a block still belongs to the kernel: it is not released, and once the
// kernel has handed it over it is read on from where it was left.
//
// When a ring is replaced by another one (replacement.h), what is left in the old one comes first:
// the position goes on there as if both were one ring.
#pragma once

#include <cstdint>

#include "block.h"
#include "ring.h"

namespace pcapv3 {

class RingPosition {
 public:
  /// `ring` may be created later, but must be before anything else here is called.
  explicit RingPosition(Ring& ring) : ring_(ring) {}

  /// Starts anew, because the ring has been replaced after it was read.
  void restart() {
    old_ = nullptr;
    old_blocks_ = 0;
    earlier_ = 0;
    index_ = 0;
    lent_ = 0;
    begun_ = part_ = 0;
    ends_ = false;
    open_ = false;
    cursor_ = PacketCursor();
  }

  /// Exchanges the ring and `next`, and has the next `blocks` blocks of the old ring read before
  /// those of the new one. These must be all that it holds, and the reader's; no end may be set.
  /// What is in `next` now must stay until its blocks have been read.
  void replace(Ring& next, unsigned blocks) {
    const std::uint64_t last = blocks == 0 ? filling() - 1 : sequence(blocks - 1);
    ring_.swap(next);
    old_ = &next;
    old_index_ = index_;
    old_blocks_ = blocks;
    old_earlier_ = earlier_;
    earlier_ = last;
    index_ = 0;
    lent_ = 0;
    if (blocks == 0) begun_ = 0;
  }
  /// Returns whether blocks of the old ring are still to be read.
  bool has_old() const { return old_blocks_ != 0; }

  /// Sets the room that packets have been promised in front of their bytes.
  void set_headroom(std::uint32_t bytes) { headroom_ = bytes; }

  /// Makes sure a block is open: the one already being read, or the next if the kernel has handed
  /// it over. Returns false if there is none yet.
  bool open() {
    if (open_) return true;
    if (!has(0)) return false;
    begin(0);
    cursor_ = packets(0);
    open_ = true;
    return true;
  }

  /// When no block is open here, returns whether the block that the kernel is filling has packets
  /// that were not read. The kernel counts them as they come (af_packet.c: prb_fill_curr_block);
  /// their content must not be read.
  bool kernel_has_packets() const {
    if (has_old() || (lent_ != 0 && number(index_) <= lent_)) return has_old();
    return count(index_) > begun_;
  }

  /// Returns whether a block is open.
  bool is_open() const { return open_; }
  /// The open block's packets.
  PacketCursor& cursor() { return cursor_; }
  const PacketCursor& cursor() const { return cursor_; }

  /// Releases the open block and steps on to the next. Returns false if the block still belongs to
  /// the kernel: then the packets that come to it from now on are read next.
  bool close() {
    if (is_part()) {
      begun_ = part_;
      part_ = 0;
      open_ = false;
      cursor_ = PacketCursor();
      return false;
    }
    if (!has_old()) ring_.give_back(index_);
    step();
    return true;
  }
  /// Leaves the open block to somebody else, who must release it, and steps on to the next.
  void lend() {
    if (!has_old()) lent_ = number(index_);
    step();
  }

  /// The block being read, or to be read next: its place in its ring.
  unsigned index() const { return index(0); }
  /// Returns the place of the block `ahead` places behind it in the same ring, or in the new one.
  unsigned index(unsigned ahead) const {
    if (ahead < old_blocks_) return wrapped(old_index_ + ahead, old_->geometry().block_count);
    return wrapped(index_ + ahead - old_blocks_, ring_.geometry().block_count);
  }
  /// Returns the ring in which the block being read lies.
  const Ring& ring() const { return has_old() ? *old_ : ring_; }
  /// Returns a number that grows by one from block to block, from 1 on, whatever their rings.
  std::uint64_t sequence(unsigned ahead) const {
    return (ahead < old_blocks_ ? old_earlier_ : earlier_) +
           __atomic_load_n(&header(ahead).seq_num, __ATOMIC_ACQUIRE);
  }
  /// Returns the number of blocks in the ring.
  unsigned block_count() const { return ring_.geometry().block_count; }

  // For a merge. `ahead` must be less than block_count().

  /// Returns whether the block `ahead` places behind this one is to be read: the kernel has handed
  /// it over, or it has packets before the end that was set.
  bool has(unsigned ahead) const {
    if (part_ != 0 && ahead > part_ahead_) return false;  // the rest of that block comes first
    if (!ends_ || ahead < end_.blocks) return is_new(ahead);
    return ahead == end_.blocks && end_.packets > begun(ahead);
  }
  /// Must be called once before packets() is called for that block, which is about to be read.
  void begin(unsigned ahead) {
    if (!ends_ || ahead != end_.blocks) return;
    part_ = end_.packets;
    part_ahead_ = ahead;
  }
  /// Returns its packets that were not read already.
  PacketCursor packets(unsigned ahead) const {
    const Ring& ring = ring_of(ahead);
    tpacket_block_desc* const block = ring.block(index(ahead));
    const std::uint32_t bytes = ring.geometry().block_bytes;
    const bool in_part = part_ != 0 && ahead == part_ahead_;
    PacketCursor cursor = in_part ? PacketCursor(block, bytes, headroom_, part_)
                                  : PacketCursor(block, bytes, headroom_);
    std::uint32_t read = begun(ahead);
    for (; read != 0 && cursor.has_packet(); --read) cursor.next();
    cursor.forget_lost(read);
    return cursor;
  }
  /// Returns how many of its packets were read while it was the kernel's.
  std::uint32_t begun(unsigned ahead) const { return ahead == 0 ? begun_ : 0; }
  /// Returns its header, which belongs to the kernel until the block has been handed over.
  const tpacket_hdr_v1& header(unsigned ahead) const {
    return ring_of(ahead).block(index(ahead))->hdr.bh1;
  }

  // For a drain.

  /// How far the ring is filled.
  struct Mark {
    unsigned blocks = 0;         ///< Blocks handed over, from the one being read on.
    std::uint64_t sequence = 0;  ///< Of the block behind them.
    Stamp opened = 0;            ///< When the kernel opened that block.
    std::uint32_t packets = 0;   ///< Packets in that block, if the kernel is filling it.
  };
  Mark mark() const {
    Mark mark;
    mark.blocks = handed_over();
    if (mark.blocks == old_blocks_ + block_count()) return mark;  // nothing is being filled
    const unsigned at = index(mark.blocks);
    // A block that the kernel has not opened anew, because the ring was full, has its old number.
    const bool filling = number(at) == number(at == 0 ? block_count() - 1 : at - 1) + 1;
    if (!filling || (lent_ != 0 && number(at) <= lent_)) return mark;
    mark.sequence = number(at);
    // The order matters: when the kernel opens a block, it writes the time last, and the count
    // before it (af_packet.c: prb_open_block).
    mark.opened = opened(at);
    mark.packets = count(at);
    return mark;
  }
  /// Called after a grace period, returns whether what `mark` counts is final. It is not if the
  /// block was just being opened, so that the count was an old one; then another mark must be made.
  bool is_final(const Mark& mark) const {
    if (mark.packets == 0) return true;
    const unsigned at = index(mark.blocks);
    return number(at) == mark.sequence && opened(at) == mark.opened && count(at) >= mark.packets;
  }
  /// Shows nothing past `mark`, which must be final and made at the present place.
  void set_end(const Mark& mark) {
    end_ = mark;
    ends_ = true;
  }
  /// Returns whether everything up to the end was read and no block is open.
  bool at_end() const { return ends_ && !open_ && end_.blocks == 0 && end_.packets <= begun_; }
  /// Returns whether, until the end is cleared, nothing more comes from the block `ahead` places
  /// behind this one or from any later block.
  bool ends_before(unsigned ahead) const {
    if (!ends_ || has(ahead)) return false;
    if (part_ == 0) return ahead >= end_.blocks;
    return part_ahead_ == end_.blocks && part_ == end_.packets && ahead > part_ahead_;
  }
  bool has_end() const { return ends_; }
  /// Shows everything again. What the reader has left unread of the kernel's block comes with the
  /// rest of it; a merge that has that block open must close it first.
  void clear_end() {
    ends_ = false;
    if (!open_ || part_ == 0) return;
    begun_ = part_ - cursor_.left();
    part_ = 0;
    open_ = false;
    cursor_ = PacketCursor();
  }
  /// Returns whether the open block is the kernel's, being read in place.
  bool is_part() const { return part_ != 0 && part_ahead_ == 0; }
  /// Returns whether the block before the one `ahead` places on is the kernel's, being read in
  /// place.
  bool is_part_before(unsigned ahead) const { return part_ != 0 && part_ahead_ + 1 == ahead; }

  /// Returns how many blocks the kernel has handed over that are not released.
  unsigned handed_over() const {
    unsigned ahead = 0;
    while (ahead < old_blocks_ + block_count() && is_new(ahead)) ++ahead;
    return ahead;
  }
  /// Returns the sequence() of the block that the kernel is filling, or will fill when there is
  /// room.
  std::uint64_t filling() const {
    const unsigned ahead = handed_over();
    if (ahead != 0) return sequence(ahead - 1) + 1;
    return earlier_ + number(index(block_count() - 1)) + 1;
  }

 private:
  /// Returns the block's number: the kernel counts the blocks that it opens, from 1 on
  /// (af_packet.c: prb_open_block).
  std::uint64_t number(unsigned index) const {
    return __atomic_load_n(&ring_.block(index)->hdr.bh1.seq_num, __ATOMIC_ACQUIRE);
  }
  /// Returns how many packets the block has; the kernel's block gains more.
  std::uint32_t count(unsigned index) const {
    return __atomic_load_n(&ring_.block(index)->hdr.bh1.num_pkts, __ATOMIC_ACQUIRE);
  }
  Stamp opened(unsigned index) const {
    const tpacket_bd_ts& at = ring_.block(index)->hdr.bh1.ts_first_pkt;
    const Stamp seconds = __atomic_load_n(&at.ts_sec, __ATOMIC_ACQUIRE);
    return seconds << 32 | __atomic_load_n(&at.ts_nsec, __ATOMIC_ACQUIRE);
  }
  /// Reads the number first: once it is a new one, the status can no longer be the acquired
  /// block's.
  bool is_new(unsigned ahead) const {
    if (ahead < old_blocks_) return true;
    const unsigned at = index(ahead);
    return (lent_ == 0 || number(at) > lent_) && ring_.is_ours(at);
  }
  const Ring& ring_of(unsigned ahead) const { return ahead < old_blocks_ ? *old_ : ring_; }
  static unsigned wrapped(unsigned index, unsigned count) {
    return index < count ? index : index - count;
  }
  void step() {
    if (has_old()) {
      old_index_ = wrapped(old_index_ + 1, old_->geometry().block_count);
      --old_blocks_;
    } else {
      index_ = wrapped(index_ + 1, ring_.geometry().block_count);
    }
    if (ends_) --end_.blocks;
    if (part_ != 0) --part_ahead_;
    begun_ = 0;
    open_ = false;
    cursor_ = PacketCursor();
  }

  Ring& ring_;
  std::uint32_t headroom_ = 0;
  unsigned index_ = 0;         // in the ring
  std::uint64_t earlier_ = 0;  // blocks of rings before this one
  const Ring* old_ = nullptr;  // the ring before this one
  unsigned old_blocks_ = 0;    // the blocks of it that come first
  unsigned old_index_ = 0;     // the first of them
  std::uint64_t old_earlier_ = 0;
  std::uint64_t lent_ = 0;   // the number of the last block that was acquired; 0: none was
  std::uint32_t begun_ = 0;  // packets of the block being read that were read while the kernel
                             // filled it
  Mark end_;                 // where what is shown ends
  bool ends_ = false;        // whether there is an end
  // The number of packets of the kernel's block, while it is being read up to the end; otherwise 0.
  std::uint32_t part_ = 0;
  unsigned part_ahead_ = 0;
  bool open_ = false;
  PacketCursor cursor_;
};

}  // namespace pcapv3
