// A ring with a place in it: which block is being read, and how far.
//
// Blocks are taken in ring order, as the kernel fills them, and given back when walked through. A
// reader of one port opens one after the other; a merge (merge.h) also looks at those behind.
//
// A block can also be lent to the program (lending.h), which gives it back by itself. When the
// source comes round to it before, it looks like one that the kernel has handed over, and only its
// number, which grows from block to block, tells that it is not.
#pragma once

#include "block.h"
#include "ring.h"

namespace pcapv3 {

class Source {
 public:
  /// `ring` may be created later, but before anything else here is called.
  explicit Source(Ring& ring) : ring_(ring) {}

  /// Begins anew: the ring is another one.
  void restart() {
    index_ = 0;
    lent_ = 0;
    open_ = false;
    cursor_ = PacketCursor();
  }

  /// The room that packets have been promised in front of their bytes.
  void set_headroom(std::uint32_t bytes) { headroom_ = bytes; }

  /// Makes sure a block is open: the one already being read, or the next if the kernel has handed
  /// it over. False if there is none yet.
  bool open() {
    if (open_) return true;
    if (!is_new(index_)) return false;
    cursor_ = PacketCursor(ring_.block(index_), ring_.geometry().block_bytes, headroom_);
    open_ = true;
    return true;
  }

  /// Whether the block that the kernel is filling has packets, when none is open here. It counts
  /// them as they come (af_packet.c: prb_fill_curr_block); what is in them is not to be looked at.
  bool kernel_has_packets() const {
    if (lent_ != 0 && number(index_) <= lent_) return false;
    return __atomic_load_n(&ring_.block(index_)->hdr.bh1.num_pkts, __ATOMIC_ACQUIRE) != 0;
  }

  /// Whether one is.
  bool is_open() const { return open_; }
  /// The open block's packets.
  PacketCursor& cursor() { return cursor_; }
  const PacketCursor& cursor() const { return cursor_; }

  /// Gives the open block back and steps on to the next.
  void close() {
    ring_.give_back(index_);
    step();
  }
  /// Leaves the open block to somebody else, who gives it back, and steps on to the next.
  void lend() {
    lent_ = number(index_);
    step();
  }

  /// The block being read, or to be read next.
  unsigned index() const { return index_; }
  /// The one `ahead` places behind it in the ring.
  unsigned index(unsigned ahead) const {
    const unsigned index = index_ + ahead;
    const unsigned count = ring_.geometry().block_count;
    return index < count ? index : index - count;
  }
  /// How many blocks there are in all.
  unsigned block_count() const { return ring_.geometry().block_count; }

  // For a merge. `ahead` is less than block_count().

  /// Whether the kernel has handed over the block `ahead` places behind this one.
  bool has(unsigned ahead) const { return is_new(index(ahead)); }
  /// Its packets, once it has been handed over.
  PacketCursor packets(unsigned ahead) const {
    return PacketCursor(ring_.block(index(ahead)), ring_.geometry().block_bytes, headroom_);
  }
  /// Its header, which belongs to the kernel until it has been handed over.
  const tpacket_hdr_v1& header(unsigned ahead) const { return ring_.block(index(ahead))->hdr.bh1; }

  /// The number of the block that the kernel is filling, or will when there is room.
  std::uint64_t filling() const {
    unsigned ahead = 0;
    while (ahead < block_count() && has(ahead)) ++ahead;
    return number(index(ahead == 0 ? block_count() - 1 : ahead - 1)) + 1;
  }

 private:
  /// The kernel counts the blocks that it opens, from 1 on (af_packet.c: prb_open_block).
  std::uint64_t number(unsigned index) const {
    return __atomic_load_n(&ring_.block(index)->hdr.bh1.seq_num, __ATOMIC_ACQUIRE);
  }
  /// The number first: once it is a new one, the status can't be the lent block's any more.
  bool is_new(unsigned index) const {
    return (lent_ == 0 || number(index) > lent_) && ring_.is_ours(index);
  }
  void step() {
    if (++index_ == ring_.geometry().block_count) index_ = 0;
    open_ = false;
    cursor_ = PacketCursor();
  }

  Ring& ring_;
  std::uint32_t headroom_ = 0;
  unsigned index_ = 0;
  std::uint64_t lent_ = 0;  // the number of the last block that was lent; 0: none was
  bool open_ = false;
  PacketCursor cursor_;
};

}  // namespace pcapv3
