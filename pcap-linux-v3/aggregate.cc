#include "aggregate.h"

#include <errno.h>
#include <poll.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "compat/aggregate.h"
#include "compat/pcap_linux.h"

namespace {

constexpr std::uint64_t kNsPerMs = 1'000'000;
constexpr std::uint32_t kWindowMs = 25;
/// How soon to look again whether a port that has another socket to get has been read.
constexpr std::uint64_t kUnreadNs = 5 * kNsPerMs;
/// The longest retire timeout of a port: its packets come within two of them, so that nothing has
/// to wait for much longer than half of the window.
constexpr std::uint32_t kMostRetireMs = 8;

std::uint64_t until(std::uint64_t ns) {
  const std::uint64_t now = pcapv3::realtime_ns();
  return ns > now ? ns - now : 0;
}

static_assert(pcapv3::Merge::kMostPorts == PCAPV3_MOST_PORTS);

std::uint64_t bit(unsigned index) { return std::uint64_t{1} << index; }

}  // namespace

bool pcapv3_aggregate::open() {
  if (!settings_.read(pcapv3::trusted_environment(), error_) ||
      !debug_.open("PCAPV3_DEBUG", settings_.debug, error_) || !wait_.open(error_)) {
    return false;
  }
  drain_.allow(settings_.drain);
  window_ns_ = (settings_.window_ms != 0 ? settings_.window_ms : kWindowMs) * kNsPerMs;
  merge_.set_window(window_ns_);
  return true;
}

std::uint32_t pcapv3_aggregate::most_retire_ms() const {
  return std::clamp<std::uint32_t>(static_cast<std::uint32_t>(window_ns_ / kNsPerMs / 3), 1,
                                   kMostRetireMs);
}

bool pcapv3_aggregate::hides_descriptor(int timeout_ms) {
  const bool hides = settings_.hides_descriptor_from(program_invocation_short_name);
  if (hides && timeout_ms > 0) timeout_ns_ = static_cast<std::uint64_t>(timeout_ms) * kNsPerMs;
  return hides;
}

bool pcapv3_aggregate::add(unsigned index, pcapv3_port& port, int socket) {
  if (!merge_.add(index, port.source(), port.counters(), port.plan().judge)) {
    return error_.set("no memory to merge the ports in");
  }
  if (!wait_.add(index, socket)) {
    merge_.remove(index);
    return error_.set("can't wait for %s: %s", port.device(), std::strerror(errno));
  }
  if (settings_.window_ms == 0) {
    // A ring of few blocks has a longer timeout than was asked for (geometry.cc).
    const std::uint64_t retire_ms = port.ring().geometry().retire_ms;
    window_ns_ = std::max(window_ns_, (2 * retire_ms + kMostRetireMs) * kNsPerMs);
    merge_.set_window(window_ns_);
  }
  ports_[index] = &port;
  sockets_[index] = socket;
  count_ = std::max(count_, index + 1);
  port.join(*this);
  follow_ports();
  return true;
}

void pcapv3_aggregate::remove(unsigned index) {
  if (ports_[index] == nullptr) return;
  wait_.remove(sockets_[index]);
  merge_.remove(index);
  ports_[index] = nullptr;
}

/// What the ports' plans have in common, which is all but the filter that each may run here, and
/// that two copies of each packet come on lo.
void pcapv3_aggregate::follow_ports() {
  pcapv3::Plan common;
  bool judged = false;
  bool loopback = false;
  for (unsigned i = 0; i < count_; ++i) {
    if (ports_[i] == nullptr) continue;
    common = ports_[i]->plan();
    judged |= common.judge.filter != nullptr;
    loopback |= common.interface == common.loopback;
  }
  if (!judged) {
    common.judge = pcapv3::Judge();
  } else if (common.judge.filter == nullptr) {
    // Only has to be some filter: the ports' own are asked.
    for (unsigned i = 0; i < count_; ++i) {
      if (ports_[i] != nullptr && ports_[i]->plan().judge.filter != nullptr) {
        common.judge = ports_[i]->plan().judge;
      }
    }
  }
  if (loopback) common.interface = 0;
  delivery_.follow(common);
}

int pcapv3_aggregate::read(int count, pcap_handler callback, u_char* user) {
  const int most = count <= 0 ? INT_MAX : count;
  int delivered = 0;
  bool looked = false;          // at packets, if only to reject them
  bool collected = false;       // events
  std::uint64_t waited_ms = 0;  // in the drain
  give_up_ns_ = 0;
  has_read_ = true;
  lends_ = false;

  for (unsigned i = 0; i < count_; ++i) ports_[i]->begin_read();
  drain_.begin_read(most > 1);
  set_cap();
  // A program that waits by select(2) may have done so for an event that brings nothing, such as a
  // block that was read already: its read must not wait on then. To be asked before that block is
  // given back, which takes the event away.
  if (watched_ && !nonblocking_ && merge_.done() && !collect(0, collected)) return PCAP_ERROR;
  for (;;) {
    if (*break_flag_ != 0) {
      *break_flag_ = 0;
      if (!drain_.start()) return PCAP_ERROR_BREAK;
      forced_ = false;
      set_cap();
    }
    if (merge_.done()) look();
    if (merge_.corrupt()) return corrupt_block();
    if (!merge_.done()) {
      delivered += delivery_.run(merge_, most - delivered, callback, user);
      looked = true;
      if (!look_after_ports()) return PCAP_ERROR;
      if (delivered < most) continue;
      // Its block is kept until the next read: pcap_next(3PCAP) hands out a pointer into it.
      if (watched_) wait_.stay_awake();
      return delivered;
    }
    if (drain_.active()) {
      const pcapv3::Stamp moment = pcapv3::stamp_of(drain_.break_ns());
      if (merge_.is_past(moment)) return drained(!forced_);
      constexpr int kLookMs = 2;
      if (nonblocking_ || waited_ms >= pcapv3::Drain::kLongestWaitMs) {
        // What other ports' open blocks hold is not to be had; what was held for their sake is.
        merge_.let_go(moment);
        forced_ = true;
      } else {
        poll(nullptr, 0, kLookMs);
        waited_ms += kLookMs;
      }
      continue;
    }
    if (delivered > 0 || (looked && !endless_)) return leave(delivered);
    if (!has_ports()) return PCAP_ERROR;
    if (collected && (nonblocking_ || timeout_ns_ == 0)) return leave(0);
    if (timeout_ns_ != 0 && give_up_ns_ == 0) give_up_ns_ = pcapv3::realtime_ns() + timeout_ns_;
    bool some = false;
    if (!collect(nonblocking_ ? 0 : until_next(), some)) return PCAP_ERROR;
    if (give_up_ns_ != 0 && merge_.done() && until(give_up_ns_) == 0) return leave(0);
    collected = nonblocking_ || (some && !endless_);
  }
}

void pcapv3_aggregate::set_cap() {
  merge_.set_cap(drain_.active() ? pcapv3::stamp_of(drain_.end_ns(fans_out()))
                                 : pcapv3::kEndOfTime);
}

int pcapv3_aggregate::corrupt_block() {
  const auto [index, ahead, cursor] = merge_.drop_corrupt();
  pcapv3_port& port = *ports_[index];
  pcap_linux_error(handle_, port.corrupt_block(cursor, port.source().index(ahead)));
  if (watched_) wait_.stay_awake();
  return PCAP_ERROR;
}

void pcapv3_aggregate::look() {
  for (unsigned i = 0; i < count_; ++i) {
    while (merge_.is_spent(i)) {
      ports_[i]->close_block();
      merge_.gave_back(i);
    }
  }
  merge_.look(pcapv3::realtime_ns());
}

/// Takes the events that there are, and waits up to `wait_ns` for one; `some` tells whether there
/// were any. False, with the handle's error text, if it can't.
bool pcapv3_aggregate::collect(std::uint64_t wait_ns, bool& some) {
  pcapv3::Wait::Events events;
  drain_.set_waiting(true);
  const bool ok = wait_.collect(wait_ns, events);
  drain_.set_waiting(false);
  if (!ok) {
    error_.set("can't wait for packets: %s", std::strerror(errno));
    pcap_linux_error(handle_, error_.c_str());
    return false;
  }
  some = events.some;
  collected_ns_ = pcapv3::realtime_ns();
  check_ports(events);
  return true;
}

/// A reader that never has to wait learns of events now and then.
bool pcapv3_aggregate::look_after_ports() {
  constexpr std::uint64_t kEveryNs = 100 * kNsPerMs;
  bool some;
  return pcapv3::realtime_ns() - collected_ns_ < kEveryNs || collect(0, some);
}

/// The program has been given the descriptor: from now on it tells of packets that may go because
/// time has passed, which costs two system calls a read.
void pcapv3_aggregate::watch_descriptor() {
  if (watched_) return;
  watched_ = true;
  wait_.stay_awake();
}

/// Ends a read after which nothing may go just now; what is held makes the descriptor readable when
/// it may.
int pcapv3_aggregate::leave(int status) {
  if (watched_) wait_.wake_in(until_next());
  return status;
}

/// How long until time alone brings something about, in nanoseconds: packets that may go, the end
/// of a read, or the end of the last port, which nothing else may tell of any more.
std::uint64_t pcapv3_aggregate::until_next() const {
  std::uint64_t when = pcapv3::Wait::kForEver;
  if (merge_.holds()) {
    when = merge_.ripe_ns();
  } else if (gone_ == all()) {
    when = gone_ns_ + window_ns_;
  }
  if (unread_ != 0) when = std::min(when, pcapv3::realtime_ns() + kUnreadNs);
  if (give_up_ns_ != 0) when = std::min(when, give_up_ns_);
  return when == pcapv3::Wait::kForEver ? when : until(when);
}

/// Ends a read that a break is to end; see pcapv3_port::end_drain.
int pcapv3_aggregate::drained(bool complete) {
  *break_flag_ = 0;
  drain_.stop();
  for (unsigned i = 0; i < count_; ++i) ports_[i]->close_books(complete);
  return leave(PCAP_ERROR_BREAK);
}

// ---- Blocks, which come port by port ----

int pcapv3_aggregate::take(int timeout_ms, pcap_v3_block** block) {
  if (!leave_merge()) return PCAP_ERROR;
  has_read_ = true;
  lends_ = true;
  give_up_ns_ = 0;
  for (unsigned i = 0; i < count_; ++i) {
    ports_[i]->begin_read();
    if (!ports_[i]->prepare_lending()) {
      pcap_linux_error(handle_, ports_[i]->error());
      return PCAP_ERROR;
    }
  }
  const bool at_once = nonblocking_ || timeout_ms == 0;
  std::uint64_t until_ns = pcapv3::Wait::kForEver;
  if (timeout_ms > 0) {
    until_ns = pcapv3::monotonic_ns() + static_cast<unsigned>(timeout_ms) * kNsPerMs;
  }
  bool over = false;
  drain_.begin_read(true);
  for (;;) {
    if (*break_flag_ != 0) {
      *break_flag_ = 0;
      if (!drain_.start()) return PCAP_ERROR_BREAK;
    }
    if (!look_after_ports()) return PCAP_ERROR;
    const int status = lend(block);
    if (status != 0) {
      // There may be another: a program that waits for the descriptor is to come back.
      if (watched_) wait_.stay_awake();
      return status;
    }
    if (drain_.active()) {
      const std::uint64_t since_break = pcapv3::realtime_ns() - drain_.break_ns();
      bool rest = since_break < pcapv3::Drain::kSettleMs * kNsPerMs;
      for (unsigned i = 0; i < count_; ++i) {
        pcapv3::Source& source = ports_[i]->source();
        rest |= !source.open() && source.kernel_has_packets();
      }
      if (!rest) return drained(true);
      if (nonblocking_ || since_break >= pcapv3::Drain::kLongestWaitMs * kNsPerMs) {
        return drained(false);
      }
      poll(nullptr, 0, 2);
      continue;
    }
    if (over) return leave(0);
    if (!may_have_blocks()) return PCAP_ERROR;
    std::uint64_t wait_ns = until_ns;
    if (until_ns != pcapv3::Wait::kForEver) {
      const std::uint64_t now_ns = pcapv3::monotonic_ns();
      wait_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    }
    if (gone_ == all()) wait_ns = std::min(wait_ns, until(gone_ns_ + window_ns_));
    if (unread_ != 0) wait_ns = std::min(wait_ns, kUnreadNs);
    bool some = false;
    if (!collect(at_once ? 0 : wait_ns, some)) return PCAP_ERROR;
    over = at_once || pcapv3::monotonic_ns() >= until_ns;
  }
}

/// Lends a block of the next port that has one; see pcapv3_port::lend.
int pcapv3_aggregate::lend(pcap_v3_block** block) {
  const pcapv3::Stamp until =
      drain_.active() ? pcapv3::stamp_of(drain_.end_ns(fans_out())) : pcapv3::kEndOfTime;
  for (unsigned n = 0; n < count_; ++n) {
    const unsigned i = next_to_lend_;
    next_to_lend_ = i + 1 < count_ ? i + 1 : 0;
    const int status = ports_[i]->lend(until, i, block);
    if (status < 0) pcap_linux_error(handle_, ports_[i]->error());
    if (status == 0) continue;
    merge_.skipped(i);
    return status;
  }
  return 0;
}

/// The merge has no place at which one could change over to blocks, but when it holds none.
bool pcapv3_aggregate::leave_merge() {
  for (unsigned i = 0; i < count_; ++i) {
    while (merge_.is_spent(i)) {
      ports_[i]->close_block();
      merge_.gave_back(i);
    }
    if (merge_.is_closed(i)) continue;
    pcap_linux_error(handle_,
                     "packets of several ports are being read in time order: blocks can't be taken "
                     "before all that have come were read");
    return false;
  }
  return true;
}

/// False, with the handle's error text, when no port can bring a block any more; see has_ports().
bool pcapv3_aggregate::may_have_blocks() {
  if (gone_ != all()) return true;
  if (until(gone_ns_ + window_ns_) != 0) {
    for (unsigned i = 0; i < count_; ++i) {
      if (ports_[i]->source().kernel_has_packets()) return true;
    }
  }
  pcap_linux_error(handle_, PCAP_LINUX_GONE);
  return false;
}

// ---- Ports that come and go ----

/// Looks after the ports as far as events tell of them. A port whose interface is gone stays, with
/// its socket and what is in its ring.
void pcapv3_aggregate::check_ports(const pcapv3::Wait::Events& events) {
  for (unsigned i = 0; i < count_; ++i) {
    const bool troubled = (events.troubled & bit(i)) != 0;
    if (!events.links && !troubled && (unread_ & bit(i)) == 0) continue;
    if ((gone_ & bit(i)) == 0) {
      if (pcap_aggregate_is_gone(handle_, i) != 0) {
        debug_.line("%s: the interface is gone", ports_[i]->device());
        gone_ |= bit(i);
        gone_ns_ = pcapv3::realtime_ns();
      } else if (troubled) {
        debug_.line("%s: the interface went down", ports_[i]->device());
      }
    }
    if ((gone_ & bit(i)) != 0 && bind_again(i)) {
      debug_.line("%s: the interface is back", ports_[i]->device());
      gone_ &= ~bit(i);
    }
  }
}

/// Whether nothing is left in the ring of a port that is gone; see has_ports().
bool pcapv3_aggregate::is_read(unsigned index) {
  const bool overdue = until(gone_ns_ + window_ns_) == 0;
  if (lends_) {  // the merge has no block open, and is to open none
    pcapv3::Source& source = ports_[index]->source();
    return !source.open() && (overdue || !source.kernel_has_packets());
  }
  if (!merge_.done()) return false;
  merge_.look(pcapv3::realtime_ns());
  return merge_.is_empty(index) || (overdue && merge_.is_closed(index));
}

bool pcapv3_aggregate::bind_again(unsigned index) {
  if (!fans_out()) return pcap_aggregate_bind_again(handle_, index) == 0;
  // It gets another socket, with another ring: when what is in the old one has been read.
  unread_ |= bit(index);
  if (!is_read(index)) return false;
  unread_ &= ~bit(index);
  wait_.remove(sockets_[index]);
  const bool is_back = pcap_aggregate_bind_again(handle_, index) == 0;
  if (is_back) {
    pcapv3_port& port = *ports_[index];
    merge_.remove(index);
    // Can't fail: it has had the memory before.
    (void)merge_.add(index, port.source(), port.counters(), port.plan().judge);
  }
  (void)wait_.add(index, sockets_[index]);
  return is_back;
}

/// False, with the handle's error text, when all are gone and nothing of theirs is left. A block
/// that the kernel was filling is handed over within a window, or never.
bool pcapv3_aggregate::has_ports() {
  if (gone_ != all()) return true;
  const bool overdue = until(gone_ns_ + window_ns_) == 0;
  for (unsigned i = 0; i < count_; ++i) {
    if (!merge_.is_empty(i) && !(overdue && merge_.is_closed(i))) return true;
  }
  pcap_linux_error(handle_, PCAP_LINUX_GONE);
  return false;
}
