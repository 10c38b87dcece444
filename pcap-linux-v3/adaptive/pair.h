// SPDX-License-Identifier: BSD-3-Clause
// Pair: the state of a port's two rings in immediate mode, which are not joined yet, joined, or
// given up. The thread that reads joins them with its first read; any thread can request that they
// be given up.
//
// They are joined this late because the program may have plans of its own for the socket that it
// gets from pcap_fileno(3PCAP): a group of PACKET_FANOUT, PACKET_IGNORE_OUTGOING, another bind(2).
// None of these works for a member of a group. A program that asks for the socket before the first
// read keeps one that is in no group, and gets all its packets in blocks. A program that only asks
// for a descriptor to wait on (pcap_get_selectable_fd(3PCAP)) does not cause that.
//
// The two are joined under traffic. When a socket joins, it leaves its own place in the list of
// those that packets are passed to, and gets one in the group's a moment later (af_packet.c:
// fanout_add, which calls __dev_remove_pack and then __fanout_link); it loses what comes in
// between. These steps make sure that nothing is lost, and nothing comes twice:
//
//   1. The ring of slots joins, alone. It has had the drop-all filter since before it was bound, so
//      that nothing changes: all packets go to the blocks.
//   2. Its gate is opened a little, and it gets the blocks' filter. From here on both get each
//   packet,
//      the slots first: a group's place in the list is before older ones (dev.c: dev_add_pack). If
//      the slots overflow, the blocks have what the slots lack.
//   3. If half of these slots are full by now, traffic is too dense: the ring of slots gets the
//      drop-all filter, and its packets, which the blocks have too, are dropped. It is tried again
//      later. (Nor does it begin when many blocks are full: a member that is nearly full gets no
//      more packets.)
//   4. The blocks' socket joins. What comes while it is in no list goes to the slots, whose socket
//      is the group's only member, and which have room. After that, each packet comes by one of the
//      two.
//   5. An RCU grace period later, no packet is under way any more to the blocks by their socket's
//      own place. (Replacing a group's program by the same one waits for one: af_packet.c:
//      __fanout_set_data_bpf calls synchronize_net.)
//   6. Each slot of which the blocks have a copy is dropped: a packet of the same bytes, stamped at
//      the same time or right after. A copy lies behind what was in the blocks at step 2, and
//      before the end of the grace period; so the search includes what the kernel's open block
//      counts by then, which is final. A copy is stamped later than its slot, and packets that came
//      before step 2 are stamped earlier than any slot; and packets roll over from the slots only
//      when as many have come as surely get one (slot_ring.h). So packets that are all alike are
//      not taken for each other.
//   7. The gate is opened.
//
// One case remains: if a thread is held up between 3 and 4, those slots may run full. A packet that
// another CPU is just passing round while the socket joins can then come to the blocks twice, by
// the old way and by the new one.
//
// A forked process shares the sockets and the rings, but not this state: what it requests holds for
// itself only, and changes nothing that is shared.
#pragma once

#include <atomic>

#include "process.h"
#include "setup/fanout.h"

namespace pcapv3 {

class SlotRing;
class Ring;
class RingPosition;

class Pair {
 public:
  // By any thread; only end() waits.

  /// Requests that the two be given up. Returns true, to the first caller only, if they are joined:
  /// that caller must call end().
  bool ask_to_end() {
    const unsigned before = state_.fetch_or(kEnding);
    return (before & (kJoined | kEnding)) == kJoined;
  }
  /// Notes that the program has a descriptor that stands for both. Returns false if it must get the
  /// socket instead, because it asked for the socket before anything was read.
  bool watch() { return set_unless_alone(kWatched); }
  /// Returns whether the blocks are read as if there had never been slots. Once true, it stays so.
  bool is_alone() const { return is_alone(state_.load(std::memory_order_relaxed)); }
  bool is_ending() const { return (state_.load(std::memory_order_relaxed) & kEnding) != 0; }
  /// Returns whether end() is done: no more packets come in slots.
  bool is_ended() const { return (state_.load(std::memory_order_acquire) & kEnded) != 0; }
  bool is_joined() const { return (state_.load(std::memory_order_relaxed) & kJoined) != 0; }
  /// Returns whether this process was forked after this object was made.
  bool is_others() const { return maker_.is_other(); }
  /// Makes all packets that come from now on go to the socket `blocks`. With `wakes`, that socket
  /// reports itself readable until stop_waking(), because slots may still hold packets. The call
  /// takes the kernel milliseconds; it may come from another thread than the one that reads.
  void end(int blocks, const Ring& ring, bool wakes);

  // By the thread that reads.

  /// Returns true if both are read, which then stays so; false if the blocks are alone.
  bool reads_both() {
    return (state_.load(std::memory_order_relaxed) & kRead) != 0 || set_unless_alone(kRead);
  }
  enum class Joining { kDone, kLater, kFailed };
  /// The number of packets that came, and how many of them were dropped.
  struct Counts {
    unsigned packets = 0;
    unsigned drops = 0;
  };
  /// Joins them, as described above, and sets `counts` to the slots' counts by then, without
  /// copies. If it returns anything but kDone, errno says why, the socket `blocks` is in no group,
  /// and no packet has come in a slot.
  Joining join(int blocks, SlotRing& frames, const RingPosition& position, bool loopback,
               Counts& counts);
  /// Must be called when no slots are read any more: ends what end() did with `wakes`.
  void stop_waking(const Ring& ring);

 private:
  static constexpr unsigned kJoining = 1;
  static constexpr unsigned kJoined = 2;
  static constexpr unsigned kEnding = 4;
  static constexpr unsigned kWatched = 8;
  static constexpr unsigned kRead = 16;
  static constexpr unsigned kEnded = 32;

  static constexpr int kNone = -1;
  static constexpr int kStopped = -2;

  static bool is_alone(unsigned state) { return state == kEnding; }
  bool set_unless_alone(unsigned bit) {
    unsigned state = state_.load();
    do {
      if (is_alone(state)) return false;
    } while (!state_.compare_exchange_weak(state, state | bit));
    return true;
  }
  Joining join_now(int blocks, SlotRing& frames, const RingPosition& position, bool loopback,
                   Counts& counts);

  const Maker maker_;
  std::atomic<unsigned> state_{0};
  std::atomic<int> kept_{kNone};  // the block that makes the socket readable
  bool grouped_ = false;          // the slots' socket is in a group
  PairGroup group_;
};

}  // namespace pcapv3
