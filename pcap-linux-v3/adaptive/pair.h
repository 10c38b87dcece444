// SPDX-License-Identifier: BSD-3-Clause
// What becomes of a port's two rings in immediate mode: not joined yet, joined, or given up. The
// thread that reads joins them, with its first read; any thread can have them given up.
//
// They are joined so late because the program may have plans of its own with the socket that it
// gets from pcap_fileno(3PCAP): a group of PACKET_FANOUT, PACKET_IGNORE_OUTGOING, another bind(2).
// None of that works for a member of a group. Whoever has asked for the socket before the first
// read keeps one that is in none, and all its packets come by blocks. What asks for a descriptor to
// wait on only (pcap_get_selectable_fd(3PCAP)) is no reason for that.
//
// Joining them under traffic. To join, a socket leaves its own place in the list of those that
// packets are passed to, and gets one in the group's a moment later (af_packet.c: fanout_add, which
// calls __dev_remove_pack and then __fanout_link): what comes in between is lost to it. So that
// nothing is lost, and nothing comes twice:
//
//   1. The ring of frames joins, alone. It is shut by a filter since before it was bound, so that
//      nothing changes: all packets go to the blocks.
//   2. Its frames are let go, and it gets the blocks' filter. From here on both get each packet,
//      the frames first: a group's place in the list is before those that are older (dev.c:
//      dev_add_pack). If they overflow, the blocks have what they have not.
//   3. If many frames are full by now, traffic is too dense for this: the frames are shut, and all
//      that is in them, which the blocks have too, is dropped. Another time. (Nor is it begun with
//      when many blocks are full: a member that is nearly full gets nothing any more.)
//   4. The blocks' socket joins. What comes while it is in no list goes to the frames, which are
//      the group's only member, and have room. After that, packets come by one or the other.
//   5. An RCU grace period later, nothing is under way any more that still came to the blocks by
//      their socket's own place. (One replaces a group's program by the same one: af_packet.c:
//      __fanout_set_data_bpf calls synchronize_net.)
//   6. Each frame that the blocks have a copy of is dropped: one of the same bytes, stamped at the
//      same time or right after. A copy lies behind what was in the blocks at step 2, and before
//      the grace period's end; so also what the kernel's open block counts then is looked at, and
//      is final. A copy is stamped later than its frame, and packets that came before step 2
//      earlier than any; and what rolls over from the frames once they run full comes some time
//      after step 4. So packets that are all alike are not taken for each other.
//
// Left is this: between 3 and 4 a thread that is held up may have the frames run full. A packet
// that another CPU is just passing round while the socket joins can then come to the blocks by the
// old way and by the new one.
//
// A forked process shares the sockets and the rings, but not this: what it asks for is its own
// request. It does nothing to what is shared.
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
  // Of any thread; none of them waits.

  /// The two are to be given up. Returns whether they are joined, so that the caller is to end()
  /// them; for the first who asks only.
  bool ask_to_end() {
    const unsigned before = state_.fetch_or(kEnding);
    return (before & (kJoined | kEnding)) == kJoined;
  }
  /// The program has a descriptor that tells of both. False if it is to have the socket, because it
  /// has asked for that before and nothing was read by then.
  bool watch() { return set_unless_alone(kWatched); }
  /// Whether the blocks are to be read as if there had never been frames.
  /// That stays so once it is.
  bool is_alone() const { return is_alone(state_.load(std::memory_order_relaxed)); }
  bool is_ending() const { return (state_.load(std::memory_order_relaxed) & kEnding) != 0; }
  /// Whether end() is done: no more frames come.
  bool is_ended() const { return (state_.load(std::memory_order_acquire) & kEnded) != 0; }
  bool is_joined() const { return (state_.load(std::memory_order_relaxed) & kJoined) != 0; }
  /// In a process that was forked after this was made.
  bool is_others() const { return maker_.is_other(); }
  /// All packets that come from now on come to the socket `blocks`. With `wakes`, that one calls
  /// itself readable until stop_waking(), because there may be frames still. Takes the kernel
  /// milliseconds; may be called by another thread than the one that reads.
  void end(int blocks, const Ring& ring, bool wakes);

  // Of the thread that reads.

  /// Whether both are to be read, which stays so; false if the blocks are alone.
  bool reads_both() {
    return (state_.load(std::memory_order_relaxed) & kRead) != 0 || set_unless_alone(kRead);
  }
  enum class Joining { kDone, kLater, kFailed };
  /// Packets that have come, and those of them that were dropped.
  struct Counts {
    unsigned packets = 0;
    unsigned drops = 0;
  };
  /// Joins them, as told above; `counts` are the frames' by then, without copies. Else errno tells
  /// why, the socket `blocks` is in no group, and no packet has come as a frame.
  Joining join(int blocks, SlotRing& frames, const RingPosition& position, bool loopback,
               Counts& counts);
  /// There are no frames any more.
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
  bool grouped_ = false;          // the frames are in a group
  PairGroup group_;
};

}  // namespace pcapv3
