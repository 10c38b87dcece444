// SPDX-License-Identifier: BSD-3-Clause
// Gate: the slots of a ring that are marked as if they were full, so that the kernel passes packets
// on to the ring of blocks (slot_ring.h) as soon as it comes to one of them.
//
// It takes four marks, a quarter of the ring apart. The kernel takes a ring for one with room if
// the slot that it fills next is free, or the one a quarter of the ring ahead of that (af_packet.c:
// __tpacket_has_room with ROOM_POW_OFF). If only the latter were free, the packet would be lost. So
// each mark is guarded by the next one, and the last one by the first, or by a packet that has come
// in its place. This holds after each single change while a gate is set or cleared, whatever comes
// meanwhile: hence their order.
//
// One thing can't be prevented: between the kernel's look for room and its use of the slot
// (fanout_demux_rollover, tpacket_rcv) that slot may be marked, and the packet is dropped. So a
// gate is set ahead of the slots that the kernel may be about to use; a packet is lost only if the
// reader is interrupted just then, and the kernel has come to the first mark, and no further, when
// it goes on.
#pragma once

namespace pcapv3 {

class Gate {
 public:
  static constexpr unsigned kMarks = 4;

  /// A gate of a ring of `count` slots, a multiple of kMarks, which is not set.
  explicit Gate(unsigned count = kMarks) : count_(count) {}

  bool is_set() const { return set_; }
  /// Returns whether slot `index` is to be marked when the kernel does not need it.
  bool holds(unsigned index) const {
    return set_ && (index + count_ - first_) % (count_ / kMarks) == 0;
  }
  /// Returns how far ahead of the slots in use a gate may be: by less than a quarter.
  unsigned limit() const { return count_ / kMarks - 1; }

  /// Sets it, with its first mark on slot `first`: calls mark(index), which must mark a slot unless
  /// it is in use. It may be set already; then clear() must be called for the place it had.
  template <class Mark>
  void set(unsigned first, Mark mark) {
    // The last mark is first: until the kernel comes to it, a packet is in the slot that guards it.
    for (unsigned k = kMarks; k-- != 0;) mark(slot(first, k));
    first_ = first;
    set_ = true;
  }
  /// Returns the slot of the first mark.
  unsigned first() const { return first_; }

  /// Clears one whose first mark was `first`: calls unmark(index), which must make the slot free if
  /// it is marked. `next` is the slot that the reader takes next.
  template <class Unmark>
  void clear(unsigned first, unsigned next, Unmark unmark) const {
    // The mark that the kernel comes to first goes first: before the kernel comes to the last one,
    // there is a packet in that slot.
    const unsigned quarter = count_ / kMarks;
    const unsigned ahead = (first % quarter + quarter - next % quarter) % quarter;
    for (unsigned k = 0; k < kMarks; ++k) unmark(slot(next + ahead, k));
  }
  /// Clears it.
  template <class Unmark>
  void clear(unsigned next, Unmark unmark) {
    if (!set_) return;
    set_ = false;
    clear(first_, next, unmark);
  }

 private:
  /// Returns the slot of mark `k` of a gate whose first one is `first`.
  unsigned slot(unsigned first, unsigned k) const {
    return (first + k * (count_ / kMarks)) % count_;
  }

  unsigned count_;
  unsigned first_ = 0;
  bool set_ = false;
};

}  // namespace pcapv3
