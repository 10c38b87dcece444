// SPDX-License-Identifier: BSD-3-Clause
// How a reader waits: for events or by the host, in place of that by sleeping, and for how long;
// and what it sees of its ports' interfaces when it does.

#include <errno.h>

#include <algorithm>
#include <cstring>

#include "clock.h"
#include "reader.h"

namespace {

constexpr std::uint64_t kNsPerMs = 1'000'000;
constexpr std::uint64_t kForever = pcapv3::WaitSet::kForEver;

}  // namespace

/// Called when there is nothing to deliver: waits until that may have changed. `collected` says
/// whether there have been events since the read began.
pcapv3_reader::Waited pcapv3_reader::wait(bool& collected) {
  if (!waits_by_set()) return coalesce() ? Waited::kLook : wait_by_host();
  if (!may_have_packets()) return Waited::kFailed;
  if (collected && (nonblocking_ || timeout_ns_ == 0)) return Waited::kOver;
  if (timeout_ns_ != 0 && give_up_ns_ == 0) give_up_ns_ = pcapv3::monotonic_ns() + timeout_ns_;
  if (coalesce()) return Waited::kLook;
  bool some = false;
  if (!collect(nonblocking_ ? 0 : until_next(), some)) return Waited::kFailed;
  coalescing_.woke(pcapv3::monotonic_ns());
  if (give_up_ns_ != 0 && is_drained() && *break_flag_ == 0 && pcapv3::ns_until(give_up_ns_) == 0) {
    return Waited::kOver;
  }
  collected = nonblocking_ || (some && !waits_forever());
  return Waited::kLook;
}

/// Waits as stock code does, because a process may have confined itself to that.
pcapv3_reader::Waited pcapv3_reader::wait_by_host() {
  break_.set_waiting(true);
  const int status = host_.wait(handle_);
  break_.set_waiting(false);
  coalescing_.woke(pcapv3::monotonic_ns());
  if (status == PCAP_ERROR_BREAK) {
    *break_flag_ = 1;  // the loop checks it
  } else if (status != 0) {
    return Waited::kFailed;
  }
  const bool over = *break_flag_ == 0 && !waits_forever() && !ports_.ports[0]->position().open();
  return over ? Waited::kOver : Waited::kLook;
}

/// Lets a busy reader sleep in place of a wait; see coalesce.h. Returns whether it slept. The
/// events of the blocks that came meanwhile are left for the next wait.
bool pcapv3_reader::coalesce() {
  if (kind_ == Kind::kTwoRings || nonblocking_) return false;
  std::uint64_t delivered = 0;
  std::uint64_t blocks = 0;
  for (unsigned i = 0; i < ports_.count; ++i) {
    delivered += ports_.ports[i]->counters().delivered;
    blocks += ports_.ports[i]->counters().blocks;
  }
  std::uint64_t left_ns = coalescing_.due(pcapv3::monotonic_ns(), delivered, blocks);
  if (give_up_ns_ != 0) left_ns = std::min(left_ns, pcapv3::ns_until(give_up_ns_));
  if (left_ns < kNsPerMs) return false;
  break_.set_waiting(true);
  const bool slept = *break_flag_ != 0 || sleep(static_cast<int>(left_ns / kNsPerMs));
  break_.set_waiting(false);
  coalescing_.woke(pcapv3::monotonic_ns());
  return slept;
}

/// Returns false if it found the event of a break that was already seen by its flag: the wait must
/// take that event.
bool pcapv3_reader::sleep(int ms) {
  if (wait_.is_open()) {
    wait_.sleep(ms);
    return true;
  }
  return host_.wait_for_break(handle_, ms) == 0 || *break_flag_ != 0;
}

/// Takes the pending events, or waits up to `wait_ns` for one; `some` returns whether there were
/// any. Returns false, with the handle's error text, if that fails.
bool pcapv3_reader::collect(std::uint64_t wait_ns, bool& some) {
  pcapv3::WaitSet::Events events;
  // A break that came before shows only in its flag.
  wait_ns = *break_flag_ != 0 ? 0 : std::min(wait_ns, until_look(true));
  break_.set_waiting(true);
  const bool ok = wait_.collect(wait_ns, events);
  break_.set_waiting(false);
  if (!ok) {
    error_.set("can't wait for packets: %s", std::strerror(errno));
    host_.error(handle_, error_.c_str());
    return false;
  }
  some = events.some;
  collected_ns_ = pcapv3::monotonic_ns();
  if (is_lone()) {
    troubled_ |= events.troubled != 0;
  } else if (hotplug_.check(events, {break_.draining(), acquires_})) {
    for (unsigned i = 0; i < ports_.count; ++i) note_ring(ports_.ports[i]->ring().geometry());
  }
  return true;
}

/// Has a reader that never has to wait collect events from time to time. Returns false if that
/// fails.
bool pcapv3_reader::look_after_ports() {
  constexpr std::uint64_t kEveryNs = 100 * kNsPerMs;
  bool some;
  return pcapv3::monotonic_ns() - collected_ns_ < kEveryNs || collect(0, some);
}

/// Returns false, with the handle's error text, when no port can bring another packet.
bool pcapv3_reader::may_have_packets() {
  if (is_lone()) return check_lone();
  if (hotplug_.may_have_packets()) return true;
  host_.error(handle_, PCAPV3_INTERFACE_GONE);
  return false;
}

bool pcapv3_reader::may_have_blocks() {
  if (is_lone()) return check_lone();
  if (hotplug_.may_have_blocks()) return true;
  host_.error(handle_, PCAPV3_INTERFACE_GONE);
  return false;
}

/// Checks the interface, as stock code does once its descriptor has had an error: an interface that
/// went down may be going away, which no event of its socket reports (af_packet.c:
/// packet_notifier). Returns false, with the handle's error text, when the lone port's interface is
/// gone.
bool pcapv3_reader::check_lone() {
  if (!troubled_) return true;
  if (kind_ == Kind::kTwoRings) two_->clear_error();
  const int status = host_.check(handle_);
  troubled_ = status == PCAP_ERROR || host_.is_down(handle_) != 0;
  if (status == PCAP_ERROR_BREAK) *break_flag_ = 1;  // the loop checks it
  return status != PCAP_ERROR;
}

/// Returns how long it is until something happens by time alone, in nanoseconds: packets may go, a
/// read ends, or the last port is over, which perhaps nothing else will report.
std::uint64_t pcapv3_reader::until_next() {
  std::uint64_t left_ns = kForever;
  const pcapv3::Merge* const merge = this->merge();
  if (merge != nullptr && merge->holds()) {
    const std::uint64_t deadline_ns = merge->deadline_ns();  // by the clock that stamps packets
    const std::uint64_t now_ns = pcapv3::realtime_ns();
    left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
  } else if (!is_lone() && hotplug_.is_all_gone()) {
    left_ns = pcapv3::ns_until(hotplug_.over_ns());
  }
  if (kind_ == Kind::kTwoRings) {
    left_ns = std::min(left_ns, two_->left_ns(pcapv3::monotonic_ns()));
  }
  if (give_up_ns_ != 0) left_ns = std::min(left_ns, pcapv3::ns_until(give_up_ns_));
  return left_ns;
}

/// Returns how long it is, in nanoseconds, until the ports must be looked at again whatever the
/// events say. A program that is not reading is woken seldom: stock code has it come back by a
/// time-out of its own (pcap_get_required_select_timeout(3PCAP)).
std::uint64_t pcapv3_reader::until_look(bool reading) const {
  constexpr std::uint64_t kSeldomNs = 100 * kNsPerMs;
  if (is_lone()) return !troubled_ ? kForever : reading ? kNsPerMs : kSeldomNs;
  const std::uint64_t left_ns = hotplug_.left_ns();
  return hotplug_.is_blind() ? std::min(left_ns, kSeldomNs) : left_ns;
}
