// SPDX-License-Identifier: BSD-3-Clause
#include "reader.h"

#include <algorithm>
#include <climits>

#include "clock.h"
#include "drain.h"

namespace {

using pcapv3::Ready;

constexpr std::uint64_t kNsPerMs = 1'000'000;
constexpr std::uint64_t kForever = pcapv3::WaitSet::kForEver;

/// Its address tells threads apart. (Initial-exec: the other ways to have such a variable need one
/// more library.)
__thread char this_thread __attribute__((tls_model("initial-exec")));

}  // namespace

bool pcapv3_reader::is_reader() const {
  return reader_.load(std::memory_order_relaxed) == &this_thread;
}

// ---- The feed ----

Ready pcapv3_reader::ready() {
  switch (kind_) {
    case Kind::kSingle:
      return single_.ready();
    case Kind::kMerged:
      return merged_->ready();
    case Kind::kTwoRings:
      break;
  }
  return two_->ready(break_.draining());
}

int pcapv3_reader::deliver(int max, pcap_handler callback, u_char* user) {
  follow_changes();
  switch (kind_) {
    case Kind::kSingle:
      return single_.deliver(delivery_, max, callback, user);
    case Kind::kMerged:
      return merged_->deliver(delivery_, max, callback, user);
    case Kind::kTwoRings:
      break;
  }
  return two_->deliver(delivery_, max, callback, user);
}

const char* pcapv3_reader::drop_corrupt() {
  switch (kind_) {
    case Kind::kSingle:
      return single_.drop_corrupt();
    case Kind::kMerged:
      return merged_->drop_corrupt();
    case Kind::kTwoRings:
      break;
  }
  return two_->drop_corrupt();
}

/// Returns the packets of a block that is being read directly; null if there are none.
pcapv3::PacketCursor* pcapv3_reader::open_packets() {
  if (kind_ == Kind::kSingle) return single_.open_packets();
  return kind_ == Kind::kTwoRings ? two_->open_packets() : nullptr;
}

/// Releases a block that was read directly and to its end.
void pcapv3_reader::release_spent() {
  if (kind_ == Kind::kSingle) single_.release_spent();
  if (kind_ == Kind::kTwoRings) two_->release_direct();
}

/// Releases everything that was read to the end, except for what is read directly.
void pcapv3_reader::release_all_spent() {
  if (kind_ == Kind::kMerged) merged_->release_spent();
  if (kind_ == Kind::kTwoRings) two_->release_spent();
}

/// Returns whether nothing that was found is left to deliver.
bool pcapv3_reader::is_drained() {
  if (kind_ == Kind::kSingle) return single_.open_packets() == nullptr;
  return kind_ == Kind::kTwoRings ? two_->is_drained() : merged_->merge().done();
}

/// Returns whether there may be packets that no event will report. Called only where a program can
/// wait on the set.
bool pcapv3_reader::has_more() {
  if (break_.draining()) return true;  // at least its end is to be reported
  return kind_ != Kind::kTwoRings || two_->has_more();
}

bool pcapv3_reader::keeps_packet() const {
  // As long as a block is kept, the port's own socket reports itself readable (af_packet.c:
  // packet_poll): where the program selects on that socket, a block's last packet is not kept.
  return !releases_at_once() || !ports_.ports[0]->position().cursor().done();
}

/// Follows the ports' plans if one has changed.
void pcapv3_reader::follow_changes() {
  unsigned version = 0;
  for (unsigned i = 0; i < ports_.count; ++i) version += ports_.ports[i]->plan_version();
  if (version != followed_) follow();
}

// ---- The loop ----

int pcapv3_reader::read(int count, pcap_handler callback, u_char* user) {
  // This comes first: a close by another thread must wait for what the first read does, too.
  const bool nested = break_.begin_read();
  begin_read(nested);
  acquires_ = false;
  int status;
  if (count != 1 || open_packets() == nullptr || break_.draining()) {
    status = run(count <= 0 ? INT_MAX : count, 0, callback, user);
  } else {
    // This is what pcap_next_ex(3PCAP) finds most of the time: a packet in the middle of a block.
    follow_changes();
    status = delivery_.run(*open_packets(), 1, callback, user);
    status = status == 1 && open_packets() != nullptr && *break_flag_ == 0
                 ? stay(1)
                 : run(1, status, callback, user);
  }
  break_.end_read(nested);
  return status;
}

void pcapv3_reader::begin_read(bool nested) {
  nested_ = nested;
  reader_.store(&this_thread, std::memory_order_relaxed);
  if (kind_ == Kind::kTwoRings && !two_->begin_read()) {
    kind_ = Kind::kSingle;
    in_set_ = false;
  }
  for (unsigned i = 0; i < ports_.count; ++i) ports_.ports[i]->begin_read();
}

/// Reads until `max` packets are delivered, counting `delivered` that were delivered before.
int pcapv3_reader::run(int max, int delivered, pcap_handler callback, u_char* user) {
  bool looked = false;     // at packets, even if all were rejected
  bool collected = false;  // events
  give_up_ns_ = 0;
  // A program that waits by select(2) may have done so for an event that brings nothing, such as a
  // block that was already read: its read must not wait any longer then. The events must be asked
  // for before that block is released, which takes the event away. If the reads do not wait, the
  // descriptor would report a second time what this read finds.
  if (watched_ && is_drained()) {
    if (!collect(0, collected)) return PCAP_ERROR;
    collected |= nonblocking_;
  }
  for (;;) {
    if (*break_flag_ != 0) {
      // If the break is not the callback's, the caller must not lose what was delivered: the break
      // then belongs to the next read.
      if (delivered >= max && !break_.is_callbacks()) return stay(delivered);
      if (!drains_after_break()) return PCAP_ERROR_BREAK;
    }
    // The last block is kept until the next read: pcap_next(3PCAP) hands out a pointer into it.
    if (delivered >= max) {
      if (releases_at_once()) release_spent();
      if (kind_ == Kind::kSingle) return delivered;
      return has_more() ? stay(delivered) : leave(delivered);
    }
    if (break_.draining() && break_.is_overdue()) return end_drain(false);
    switch (ready()) {
      case Ready::kCorrupt:
        return fail(drop_corrupt());
      case Ready::kPackets: {
        looked = true;
        const int left = max - delivered;
        delivered +=
            deliver(break_.draining() ? std::min(left, break_.batch()) : left, callback, user);
        if (kind_ == Kind::kSingle ? !look_after_ring() : !look_after_ports()) return PCAP_ERROR;
        continue;
      }
      case Ready::kNothing:
        break;
    }
    if (break_.draining()) {
      // Everything up to the ends may go, so nothing is left.
      if (drain_more()) continue;
      return end_drain(true);
    }
    if (delivered > 0 || (looked && !waits_forever())) return leave(delivered);
    switch (wait(collected)) {
      case Waited::kLook:
        break;
      case Waited::kOver:
        return leave(0);
      case Waited::kFailed:
        return PCAP_ERROR;
    }
  }
}

/// Lets the lone port's ring grow, or goes on with that; see growth/growth.h. Returns false, with
/// the handle's error text, if the socket with the new ring can't be waited for.
bool pcapv3_reader::look_after_ring() {
  pcapv3_port& port = *ports_.ports[0];
  pcapv3::Growth& growth = port.growth();
  if (!growth.is_due(port.counters().blocks) || break_.draining()) return true;
  if (!growth.look(port, grace_period_, !nested_)) return true;
  if (in_set_) wait_.remove(ports_.sockets[0]);
  if (growth.take_over(port, ports_.sockets[0], grace_period_)) note_lone_ring();
  return !in_set_ || enter_set();
}

int pcapv3_reader::fail(const char* text) {
  host_.error(handle_, text);
  return stay(PCAP_ERROR);
}

/// Ends a read after which nothing may go for now; what is held makes the descriptor readable once
/// it may.
int pcapv3_reader::leave(int status) {
  if (watched_) wait_.wake_in(std::min(until_next(), until_look(false)));
  return status;
}

/// Ends a read after which more may go.
int pcapv3_reader::stay(int status) {
  if (watched_) wait_.stay_awake();
  return status;
}

// ---- Blocks ----

int pcapv3_reader::acquire(int timeout_ms, pcap_v3_block** block) {
  const bool nested = break_.begin_read();
  begin_read(nested);
  int status = PCAP_ERROR;
  if (leave_packets()) {
    acquires_ = true;
    give_up_ns_ = 0;
    std::uint64_t until_ns = 0;
    if (!nonblocking_ && timeout_ms != 0) {
      until_ns = timeout_ms < 0
                     ? kForever
                     : pcapv3::monotonic_ns() + static_cast<std::uint64_t>(timeout_ms) * kNsPerMs;
    }
    status = wait_to_acquire(until_ns, block);
  }
  break_.end_read(nested);
  return status;
}

int pcapv3_reader::wait_to_acquire(std::uint64_t until_ns, pcap_v3_block** block) {
  bool over = false;
  for (;;) {
    if (*break_flag_ != 0 && !drains_after_break()) return PCAP_ERROR_BREAK;
    if (break_.draining() && break_.is_overdue()) return end_drain(false);
    const int status = acquire_next(block);
    // There may be another block: a program that waits on the descriptor must come back.
    if (status != 0) return stay(status);
    if (break_.draining()) {
      // Everything up to the ends can be acquired, so nothing is left.
      if (drain_more()) continue;
      return end_drain(true);
    }
    if (over) return leave(0);
    if (!may_have_blocks()) return PCAP_ERROR;
    std::uint64_t wait_ns = until_ns == kForever ? until_ns : pcapv3::ns_until(until_ns);
    if (hotplug_.is_all_gone()) wait_ns = std::min(wait_ns, pcapv3::ns_until(hotplug_.over_ns()));
    bool some = false;
    if (!collect(wait_ns, some)) return PCAP_ERROR;
    over = until_ns != kForever && pcapv3::ns_until(until_ns) == 0;
  }
}

/// Acquires a block of the next port that has one. Returns 1; 0 if there is none; or PCAP_ERROR,
/// with the handle's error text.
int pcapv3_reader::acquire_next(pcap_v3_block** block) {
  if (!look_after_ports()) return PCAP_ERROR;
  if (kind_ == Kind::kSingle && !look_after_ring()) return PCAP_ERROR;
  for (unsigned n = 0; n < ports_.count; ++n) {
    const unsigned i = next_acquired_;
    next_acquired_ = i + 1 < ports_.count ? i + 1 : 0;
    pcapv3_port& port = *ports_.ports[i];
    const int status = port.blocks().acquire(port, i, block);
    if (status == 0) continue;
    if (status < 0) host_.error(handle_, port.error());
    if (kind_ != Kind::kSingle) merge()->skipped(i);
    troubled_ = false;
    return status;
  }
  return 0;
}

/// Stops reading packets in favour of blocks. A merge can only change over while it holds no block.
/// Returns false, with the handle's error text, if it holds one or if that fails.
bool pcapv3_reader::leave_packets() {
  release_all_spent();
  const bool left = kind_ == Kind::kSingle     ? true
                    : kind_ == Kind::kTwoRings ? two_->leave_packets()
                                               : merged_->is_closed();
  if (!left) {
    host_.error(handle_,
                "packets of several rings are being read in time order: blocks can't be acquired "
                "before all that have come were read");
    return false;
  }
  for (unsigned i = 0; i < ports_.count; ++i) {
    if (ports_.ports[i]->blocks().prepare(*ports_.ports[i])) continue;
    host_.error(handle_, ports_.ports[i]->error());
    return false;
  }
  return in_set_ || enter_set();
}

// ---- Breaks ----

/// Called when the break flag is set. Returns whether the read goes on, to drain.
bool pcapv3_reader::drains_after_break() {
  if (releases_at_once()) release_spent();
  if (break_.draining()) clear_ends();
  *break_flag_ = 0;
  if (!break_.start_drain()) return false;
  begin_drain();
  return true;
}

/// Starts a drain: what the rings hold now is delivered before the read ends; see drain.h.
void pcapv3_reader::begin_drain() {
  drained_seen_ = seen();
  clear_ends();
  pcapv3::RingPosition* positions[pcapv3::PortSet::kMaxPorts];
  for (unsigned i = 0; i < ports_.count; ++i) positions[i] = &ports_.ports[i]->position();
  break_.set_waiting(true);  // until then only a signal handler runs on this thread
  pcapv3::set_ends(grace_period_, positions, ports_.count);
  break_.set_waiting(false);
  if (kind_ == Kind::kMerged) merged_->merge().set_draining(true);
  if (kind_ == Kind::kTwoRings) two_->set_end();
}

void pcapv3_reader::clear_ends() {
  for (unsigned i = 0; i < ports_.count; ++i) ports_.ports[i]->position().clear_end();
  if (kind_ == Kind::kMerged) merged_->merge().set_draining(false);
  if (kind_ == Kind::kTwoRings) two_->clear_end();
}

/// Returns the number of packets that the ports have accounted for.
std::uint64_t pcapv3_reader::seen() const {
  std::uint64_t seen = 0;
  for (unsigned i = 0; i < ports_.count; ++i) seen += ports_.ports[i]->counters().seen();
  return seen;
}

/// Returns whether there is another round: nobody else gets what comes for a member of a fan-out
/// group until its handle is closed, so it reads what it can.
bool pcapv3_reader::drain_more() {
  constexpr std::uint64_t kRoundsNs = pcapv3::Break::kLongestDrainNs / 5;
  if (!ports_.ports[0]->fans_out() || seen() == drained_seen_ ||
      break_.left_ns() < pcapv3::Break::kLongestDrainNs - kRoundsNs) {
    return false;
  }
  release_all_spent();
  begin_drain();
  return true;
}

/// Ends a drain, and with it the read. `complete` means that everything that had come before the
/// break was delivered, so that the statistics can be frozen as of then; they do not include what
/// the kernel has counted since.
int pcapv3_reader::end_drain(bool complete) {
  release_all_spent();
  *break_flag_ = 0;
  clear_ends();
  break_.stop_drain();
  for (unsigned i = 0; i < ports_.count; ++i) ports_.ports[i]->freeze_stats(complete);
  if (!complete) {
    debug_.line("%s: the drain took too long: some packets are undelivered",
                is_lone() ? ports_.ports[0]->device() : "several ports");
  }
  return leave(PCAP_ERROR_BREAK);
}
