// SPDX-License-Identifier: BSD-3-Clause
#include "adaptive/pair.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <sys/socket.h>

#include <algorithm>

#include "adaptive/slot_ring.h"
#include "clock.h"
#include "ring.h"
#include "ring_position.h"
#include "setup/fanout.h"

namespace pcapv3 {
namespace {

/// Waits for an RCU grace period: after it, no packet is under way any more by an entry of the
/// kernel's lists, or past a filter, that has been replaced. Requires that `socket` is in a group.
bool wait_for_grace(int socket) {
  // It takes two calls, because only replacing a program waits for the grace period.
  return choose_frames(socket) && choose_frames(socket);
}

/// Returns what the socket has counted since it was last asked.
Pair::Counts take_counts(int socket) {
  tpacket_stats stats = {};
  socklen_t length = sizeof(stats);
  (void)getsockopt(socket, SOL_PACKET, PACKET_STATISTICS, &stats, &length);
  return {stats.tp_packets, stats.tp_drops};
}

}  // namespace

void Pair::end(int blocks, const Ring& ring, bool wakes) {
  // This takes two calls, see wait_for_grace().
  (void)choose_blocks(blocks);
  (void)choose_blocks(blocks);
  if (wakes) {
    const int kept = ring.keep_one();
    int none = kNone;
    // The reader may have found out by itself that no slots are in use any more.
    if (kept >= 0 && !kept_.compare_exchange_strong(none, kept)) {
      ring.let_go(static_cast<unsigned>(kept));
    }
  }
  state_.fetch_or(kEnded);
}

void Pair::stop_waking(const Ring& ring) {
  const int kept = kept_.exchange(kStopped);
  if (kept >= 0 && !maker_.is_other()) ring.let_go(static_cast<unsigned>(kept));
}

Pair::Joining Pair::join(int blocks, SlotRing& frames, const RingPosition& position, bool loopback,
                         Counts& counts) {
  unsigned state = state_.load();
  do {
    if ((state & (kJoining | kEnding)) != 0) return Joining::kFailed;
  } while (!state_.compare_exchange_weak(state, state | kJoining));
  const Joining joining = join_now(blocks, frames, position, loopback, counts);
  const int reason = errno;
  if (joining != Joining::kDone) {
    state_.fetch_and(~kJoining);
  } else if ((state_.fetch_xor(kJoining | kJoined) & kEnding) != 0) {
    // Another thread has requested the end meanwhile, and left it to this one.
    end(blocks, position.ring(), true);
  }
  errno = reason;
  return joining;
}

Pair::Joining Pair::join_now(int blocks, SlotRing& frames, const RingPosition& position,
                             bool loopback, Counts& counts) {
  sock_filter code[BPF_MAXINSNS] = {};
  sock_fprog filter = {BPF_MAXINSNS, code};
  if (!grouped_ && are_in_one_group(blocks, frames.socket())) {
    // Another process, a child or parent of this one by fork(2), has joined them, and may have read
    // up to an unknown place.
    (void)choose_blocks(blocks);
    errno = EALREADY;
    return Joining::kFailed;
  }
  if (!get_filter(blocks, filter)) return Joining::kFailed;
  if (!grouped_ && !begin_pair(frames.socket(), loopback, group_)) {
    // The kernel returns EINVAL also for an interface that is down (before Linux 6.13).
    return errno == EINVAL ? Joining::kLater : Joining::kFailed;
  }
  grouped_ = true;

  unsigned ahead = 0;
  while (ahead < position.block_count() && position.has(ahead)) ++ahead;
  if (ahead >= position.block_count() / 2) {
    // Once joined, not all of the ring can be used (two_rings.cc: clear_pressure).
    errno = EBUSY;
    return Joining::kLater;
  }
  const unsigned room = frames.open_gate_a_little();
  Joining joining = Joining::kFailed;
  Stamp joined = 0;  // no packet was passed on to the blocks before
  Counts before;
  if (open_filter(frames.socket(), filter)) {
    before = take_counts(frames.socket());  // these packets are in the blocks, too
    if (frames.came() > room / 2) {
      errno = EBUSY;
      joining = Joining::kLater;
    } else if (joined = stamp_of(realtime_ns()); complete_pair(blocks, group_)) {
      joining = Joining::kDone;
    } else if (errno == EINVAL || errno == ENETDOWN) {
      joining = Joining::kLater;
    }
  }
  const int reason = errno;
  if (joining != Joining::kDone) (void)attach_drop_all(frames.socket());
  const bool settled = wait_for_grace(frames.socket());
  if (joining == Joining::kDone) {
    const unsigned copies = frames.drop_copies(position, ahead, joined);
    frames.open_gate();
    counts = take_counts(frames.socket());
    counts.packets += before.packets - before.drops;
    counts.packets -= std::min(counts.packets, copies);
  } else {
    frames.drop_all();
    (void)take_counts(frames.socket());
    if (!settled) joining = Joining::kFailed;
  }
  errno = reason;
  return joining;
}

}  // namespace pcapv3
