#include "aggregate.h"

#include <errno.h>
#include <poll.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <utility>

#include "clock.h"
#include "compat/aggregate.h"
#include "compat/pcap_linux.h"
#include "drain.h"

namespace {

constexpr std::uint64_t kNsPerMs = 1'000'000;
constexpr std::uint32_t kWindowMs = 25;
/// How soon to look again whether a port that has another socket to get has been read.
constexpr std::uint64_t kUnreadNs = 5 * kNsPerMs;
/// The longest retire timeout of a port: its packets come within two of them, so that nothing has
/// to wait for much longer than half of the window.
constexpr std::uint32_t kMostRetireMs = 8;

/// How long it is until then, in nanoseconds of CLOCK_MONOTONIC.
std::uint64_t until(std::uint64_t ns) {
  const std::uint64_t now = pcapv3::monotonic_ns();
  return ns > now ? ns - now : 0;
}

std::uint64_t bit(unsigned index) { return std::uint64_t{1} << index; }

/// Its place tells threads apart. (Initial-exec: see compat/pcap_linux.c: activating_cooked.)
__thread char this_thread __attribute__((tls_model("initial-exec")));

}  // namespace

bool pcapv3_aggregate::open() {
  const char* const* environment = pcapv3::trusted_environment();
  if (!settings_.read(environment, program_invocation_short_name, error_) ||
      !debug_.open("PCAPV3_DEBUG", environment, error_) || !wait_.open(!lone_, error_)) {
    return false;
  }
  break_.allow_drain(settings_.drain);
  break_.set_event(wait_.break_event());
  if (!lone_ && settings_.drain && !grace_period_.open()) {
    debug_.line("a break will leave what is in the kernel's blocks: %s", std::strerror(errno));
  }
  if (lone_) merge_.set_one_interface();
  window_ns_ = (settings_.window_ms != 0 ? settings_.window_ms : kWindowMs) * kNsPerMs;
  merge_.set_window(window_ns_);
  return true;
}

std::uint32_t pcapv3_aggregate::most_retire_ms() const {
  return std::clamp<std::uint32_t>(static_cast<std::uint32_t>(window_ns_ / kNsPerMs / 3), 1,
                                   kMostRetireMs);
}

bool pcapv3_aggregate::hides_descriptor(int timeout_ms) {
  const bool hides = settings_.hides_descriptor;
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
  take_in(index, port, socket);
  return frames() == nullptr || add_frames();
}

bool pcapv3_aggregate::replace(unsigned count, pcapv3_port* const* ports, const int* sockets) {
  if (count_ == 0) {
    for (unsigned i = 0; i < count; ++i) {
      if (!add(i, *ports[i], sockets[i])) return false;
    }
    watch_links();
    return true;
  }
  // First what can fail.
  for (unsigned i = 0; i < count; ++i) {
    if (wait_.add(i, sockets[i])) continue;
    error_.set("can't wait for %s: %s", ports[i]->device(), std::strerror(errno));
    while (i-- > 0) wait_.remove(sockets[i]);
    return false;
  }
  for (unsigned i = 0; i < count; ++i) {
    wait_.remove(sockets_[i]);
    ports_[i]->leave();
    merge_.remove(i);
    // Can't fail: it has had the memory before.
    (void)merge_.add(i, ports[i]->source(), ports[i]->counters(), ports[i]->plan().judge);
    take_in(i, *ports[i], sockets[i]);
  }
  watch_links();
  return true;
}

/// What can't fail, of a port that is merged and waited for.
void pcapv3_aggregate::take_in(unsigned index, pcapv3_port& port, int socket) {
  ports_[index] = &port;
  sockets_[index] = socket;
  count_ = std::max(count_, index + 1);
  note_ring(port.ring().geometry());
  port.join(*this);
  follow_ports();
}

/// A port's ring, which decides how long others can be kept waiting.
void pcapv3_aggregate::note_ring(const pcapv3::Geometry& geometry) {
  if (settings_.window_ms == 0) {
    // A ring of few blocks has a longer timeout than was asked for (geometry.cc).
    window_ns_ =
        std::max(window_ns_, (2 * std::uint64_t{geometry.retire_ms} + kMostRetireMs) * kNsPerMs);
    merge_.set_window(window_ns_);
  }
  // A packet waits for its block, for a pause, and for its place: less than the window in all, as a
  // rule.
  const std::uint64_t retire_ns = std::min(geometry.retire_ms, kMostRetireMs) * kNsPerMs;
  pause_.add(geometry.ring_bytes(), geometry.block_count,
             std::min(retire_ns * 15 / 8, window_ns_ * 3 / 5));
}

// A forked process may read on by the same descriptors. So nothing is taken out of the set that
// they wait on: what this process closes goes from there when the last one has closed it.
void pcapv3_aggregate::remove(unsigned index) {
  if (ports_[index] == nullptr) return;
  merge_.remove(index);
  ports_[index]->leave();
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
  // First of all: a close by another thread waits for what the first read does, too.
  const bool nested = break_.begin_read();
  int status;
  if (!reads_here()) {
    status = ports_[0]->read(count, callback, user);
    break_.end_read(nested);
    return status;
  }
  lends_ = false;
  for (unsigned i = 0; i < count_; ++i) ports_[i]->begin_read();
  if (count != 1 || !has_direct() || break_.draining()) {
    status = read_rings(count <= 0 ? INT_MAX : count, 0, callback, user);
  } else {
    // What pcap_next_ex(3PCAP) finds most of the time: a packet in the midst of a block.
    status = ports_[0]->deliver_one(*direct_, callback, user);
    status = status == 1 && has_direct() && *break_flag_ == 0
                 ? stay(1)
                 : read_rings(1, status, callback, user);
  }
  break_.end_read(nested);
  return status;
}

/// Reads until `most` packets are delivered, `delivered` of them before.
int pcapv3_aggregate::read_rings(int most, int delivered, pcap_handler callback, u_char* user) {
  bool looked = false;     // at packets, if only to reject them
  bool collected = false;  // events
  give_up_ns_ = 0;
  if (break_.draining() && drains_whole_) {  // blocks were taken before
    clear_ends();
    begin_drain(false);
  }
  // A program that waits by select(2) may have done so for an event that brings nothing, such as a
  // block that was read already: its read must not wait on then. To be asked before that block is
  // given back, which takes the event away. One that does not wait in its reads would be told once
  // more of what this read finds.
  if (watched_ && !has_direct() && merge_.done()) {
    if (!collect(0, collected)) return PCAP_ERROR;
    collected |= nonblocking_;
  }
  for (;;) {
    if (*break_flag_ != 0) {
      // A break that is none of the callback's must not cost the caller what was delivered: it is
      // the next read's.
      if (delivered >= most && !break_.is_callbacks()) return stay(delivered);
      if (break_.draining()) clear_ends();
      *break_flag_ = 0;
      if (!break_.start_drain()) return PCAP_ERROR_BREAK;
      begin_drain(false);
    }
    // The last block is kept until the next read: pcap_next(3PCAP) hands out a pointer into it.
    // But the lone port's own socket calls itself readable while it is kept (af_packet.c:
    // packet_poll): where that is waited on, the packet was copied.
    if (delivered >= most) {
      if (is_alone() && direct_ != nullptr && direct_->cursor().done()) give_back_direct();
      return has_more() ? stay(delivered) : leave(delivered);
    }
    if (break_.draining() && break_.is_overdue()) return end_drain(false);
    if (direct_ != nullptr && direct_->cursor().done()) give_back_direct();
    if (direct_ == nullptr && merge_.done()) look();
    if (merge_.corrupt()) return corrupt_block();
    if (direct_ != nullptr || !merge_.done()) {
      const int left =
          break_.draining() ? std::min(most - delivered, break_.batch()) : most - delivered;
      if (direct_ != nullptr) {
        delivered += ports_[0]->deliver_from(*direct_, left, callback, user);
        if (direct_ != nullptr && direct_->cursor().corrupt()) return direct_error();
      } else {
        delivered += delivery_.run(merge_, left, callback, user);
      }
      looked = true;
      if (!look_after_ports()) return PCAP_ERROR;
      continue;
    }
    if (break_.draining()) {
      // All that is there up to the ends may go, so that nothing is left.
      if (drain_more(false)) continue;
      return end_drain(true);
    }
    if (delivered > 0 || (looked && !endless_)) return leave(delivered);
    if (!has_ports()) return PCAP_ERROR;
    if (collected && (nonblocking_ || timeout_ns_ == 0)) return leave(0);
    if (timeout_ns_ != 0 && give_up_ns_ == 0) give_up_ns_ = pcapv3::monotonic_ns() + timeout_ns_;
    bool some = false;
    if (pause()) continue;
    if (!collect(nonblocking_ ? 0 : until_next(), some)) return PCAP_ERROR;
    pause_.woke(pcapv3::monotonic_ns());
    if (give_up_ns_ != 0 && merge_.done() && *break_flag_ == 0 && until(give_up_ns_) == 0) {
      return leave(0);
    }
    collected = nonblocking_ || (some && !endless_);
  }
}

int pcapv3_aggregate::corrupt_block() {
  const auto [ring, ahead, cursor] = merge_.drop_corrupt();
  const bool framed = lone_ && ring == kFrames;
  pcapv3_port& port = *ports_[framed ? 0 : ring];
  const pcapv3::Source& source = framed ? frames()->source() : port.source();
  return corrupt(port.corrupt_block(cursor, source.index(ahead)));
}

int pcapv3_aggregate::corrupt(const char* text) {
  pcapv3_linux_error(handle_, text);
  return stay(PCAP_ERROR);
}

void pcapv3_aggregate::look() {
  give_back_spent();
  if (!lone_ || !look_at_two()) merge_.look(pcapv3::realtime_ns());
}

void pcapv3_aggregate::give_back_spent() {
  for (unsigned i = 0; i < count_; ++i) {
    for (; merge_.is_spent(i); merge_.gave_back(i)) ports_[i]->close_block();
  }
  if (frames() == nullptr) return;
  for (; merge_.is_spent(kFrames); merge_.gave_back(kFrames)) frames()->source().close();
}

// ---- A port with two rings ----

bool pcapv3_aggregate::add_frames() {
  pcapv3_port& port = *ports_[0];
  if (!merge_.add(kFrames, frames()->source(), port.counters(), port.plan().judge)) {
    return error_.set("no memory to merge two rings in");
  }
  if (!wait_.add(0, frames()->socket())) {
    return error_.set("can't wait for %s: %s", port.device(), std::strerror(errno));
  }
  // A ring that is full, as this one is now, calls itself readable.
  pcapv3::Wait::Events none;
  return wait_.collect(0, none);
}

void pcapv3_aggregate::drop_frames() {
  // What others wait on as well is not this process's to change.
  if (!ports_[0]->pair().is_others()) wait_.remove(frames()->socket());
  merge_.remove(kFrames);
  ports_[0]->drop_frames();
}

/// To be asked before each read: whether it is done here, and not by a lone port alone. The first
/// one joins its two rings.
bool pcapv3_aggregate::reads_here() {
  reader_.store(&this_thread, std::memory_order_relaxed);
  if (!lone_) return true;
  pcapv3::Pair& pair = ports_[0]->pair();
  const bool here = pair.reads_both();
  if (frames() == nullptr || pair.is_joined()) return here;
  if (pair.is_ending() || !ports_[0]->join_frames(sockets_[0])) drop_frames();
  if (!here && !pair.is_others()) wait_.remove(sockets_[0]);
  return here;
}

/// Whether it is this thread that has read last.
bool pcapv3_aggregate::is_reader() const {
  return reader_.load(std::memory_order_relaxed) == &this_thread;
}

void pcapv3_aggregate::settle() {
  if (!lone_) return;
  pcapv3_port& port = *ports_[0];
  // What is changed then is the others' who share the sockets, and that is one who has read.
  if (!port.pair().ask_to_end() || port.pair().is_others()) return;
  // The socket that the program waits on from now on tells nothing of frames.
  const bool wakes = !is_reader() || (frames() != nullptr && frames()->has_packets());
  port.pair().end(sockets_[0], port.ring(), wakes);
}

/// Takes frames in, and finds a block that can be read past the merge: the oldest of one ring, when
/// there is nothing in the other. False if the merge has to be asked.
bool pcapv3_aggregate::look_at_two() {
  pcapv3::Source& blocks = ports_[0]->source();
  // Before the frames: what is in the block came after all frames that are not there yet.
  const bool has_block = blocks.has(0);
  if (frames() != nullptr) {
    ports_[0]->take_frames(pcapv3::monotonic_ns());
    ports_[0]->relieve(sockets_[0]);
    if (ports_[0]->is_settled() && merge_.is_closed(kFrames) && !frames()->has_packets()) {
      drop_frames();
    }
  }
  if (break_.draining() || !merge_.is_closed(0)) return false;
  if (frames() != nullptr && !merge_.is_closed(kFrames)) return false;
  if (frames() == nullptr || !frames()->source().has(0)) {
    if (!has_block) return false;
    direct_ = &blocks;
  } else {
    if (has_block || blocks.has(0) || blocks.kernel_has_packets()) return false;
    direct_ = &frames()->source();
  }
  merge_.bypassed(direct_ == &blocks ? 0 : kFrames, direct_->header(0));
  return direct_->open();
}

/// Whether such a block is being read and has more.
bool pcapv3_aggregate::has_direct() const {
  return direct_ != nullptr && direct_->cursor().has_packet();
}

void pcapv3_aggregate::give_back_direct() {
  pcapv3::Source* const source = std::exchange(direct_, nullptr);
  if (source == &ports_[0]->source()) {
    ports_[0]->close_block();
  } else {
    source->close();
  }
}

int pcapv3_aggregate::direct_error() {
  const char* text = ports_[0]->corrupt_block(direct_->cursor(), direct_->index());
  give_back_direct();
  return corrupt(text);
}

// ---- Waiting ----

/// Takes the events that there are, and waits up to `wait_ns` for one; `some` tells whether there
/// were any. False, with the handle's error text, if it can't.
bool pcapv3_aggregate::collect(std::uint64_t wait_ns, bool& some) {
  pcapv3::Wait::Events events;
  // A break that came before is seen by its flag only.
  wait_ns = *break_flag_ != 0 ? 0 : std::min(wait_ns, until_look(true));
  break_.set_waiting(true);
  const bool ok = wait_.collect(wait_ns, events);
  break_.set_waiting(false);
  if (!ok) {
    error_.set("can't wait for packets: %s", std::strerror(errno));
    pcapv3_linux_error(handle_, error_.c_str());
    return false;
  }
  some = events.some;
  events.links |= !wait_.has_links() && (gone_ | down_) != 0;
  collected_ns_ = pcapv3::monotonic_ns();
  check_ports(events);
  return true;
}

/// The wait of a reader that is busy; see pause.h. Returns whether this was it. The events of the
/// blocks that it finds are left for the next wait.
bool pcapv3_aggregate::pause() {
  if (lone_ || nonblocking_) return false;
  std::uint64_t delivered = 0;
  std::uint64_t blocks = 0;
  for (unsigned i = 0; i < count_; ++i) {
    delivered += ports_[i]->counters().delivered;
    blocks += ports_[i]->counters().blocks;
  }
  std::uint64_t left_ns = pause_.due(pcapv3::monotonic_ns(), delivered, blocks);
  if (give_up_ns_ != 0) left_ns = std::min(left_ns, until(give_up_ns_));
  if (left_ns < kNsPerMs) return false;
  break_.set_waiting(true);
  if (*break_flag_ == 0) wait_.sleep(static_cast<int>(left_ns / kNsPerMs));
  break_.set_waiting(false);
  pause_.woke(pcapv3::monotonic_ns());
  return true;
}

/// A reader that never has to wait learns of events now and then.
bool pcapv3_aggregate::look_after_ports() {
  constexpr std::uint64_t kEveryNs = 100 * kNsPerMs;
  bool some;
  return pcapv3::monotonic_ns() - collected_ns_ < kEveryNs || collect(0, some);
}

/// The program has been given the descriptor: from now on it tells of packets that may go because
/// time has passed, which costs two system calls a read.
bool pcapv3_aggregate::watch_descriptor() {
  if (lone_ && !ports_[0]->pair().watch()) return false;
  if (watched_.exchange(true) || !has_read()) return true;
  if (maker_.is_other()) return true;  // the timer and all that is another process's, too
  // Events that have been taken already will not tell.
  if (!is_reader()) {
    break_.wake();
  } else if (has_more()) {
    wait_.stay_awake();
  }
  return true;
}

/// Ends a read after which nothing may go just now; what is held makes the descriptor readable when
/// it may.
int pcapv3_aggregate::leave(int status) {
  if (watched_) wait_.wake_in(std::min(until_next(), until_look(false)));
  return status;
}

/// Ends a read after which something may go.
int pcapv3_aggregate::stay(int status) {
  if (watched_) wait_.stay_awake();
  return status;
}

/// Whether there may be packets that no event will tell of.
bool pcapv3_aggregate::has_more() const {
  if (break_.draining()) return true;  // to say that it is over, at least
  if (!lone_ || !merge_.done() || merge_.holds()) return true;
  return has_more(ports_[0]->source()) ||
         (frames() != nullptr && (has_more(frames()->source()) || frames()->has_frame()));
}

bool pcapv3_aggregate::has_more(const pcapv3::Source& source) const {
  if (direct_ != &source) return source.has(0);
  return !source.cursor().done() || source.has(1);
}

/// How long until time alone brings something about, in nanoseconds: packets that may go, the end
/// of a read, or the end of the last port, which nothing else may tell of any more.
std::uint64_t pcapv3_aggregate::until_next() const {
  std::uint64_t left_ns = pcapv3::Wait::kForEver;
  if (merge_.holds()) {
    const std::uint64_t ripe_ns = merge_.ripe_ns();  // as packets are stamped
    const std::uint64_t now_ns = pcapv3::realtime_ns();
    left_ns = ripe_ns > now_ns ? ripe_ns - now_ns : 0;
  } else if (gone_ == all()) {
    left_ns = until(gone_ns_ + window_ns_);
  }
  if (unread_ != 0) left_ns = std::min(left_ns, kUnreadNs);
  if (frames() != nullptr) {
    left_ns = std::min(left_ns, ports_[0]->until_frames(pcapv3::monotonic_ns()));
  }
  if (give_up_ns_ != 0) left_ns = std::min(left_ns, until(give_up_ns_));
  return left_ns;
}

// ---- The end ----

/// The sources that a drain sets ends to: every ring of blocks.
unsigned pcapv3_aggregate::sources(pcapv3::Source* (&sources)[kMostPorts]) {
  unsigned count = 0;
  for (unsigned i = 0; i < count_; ++i) {
    if (ports_[i] != nullptr) sources[count++] = &ports_[i]->source();
  }
  return count;
}

/// What the rings hold now is what is delivered before the read ends; see drain.h.
void pcapv3_aggregate::begin_drain(bool whole) {
  drained_seen_ = seen();
  drains_whole_ = whole;
  pcapv3::Source* all[kMostPorts];
  const unsigned count = sources(all);
  break_.set_waiting(true);  // nothing but a signal handler runs on this thread meanwhile
  pcapv3::set_ends(lone_ ? ports_[0]->grace_period() : grace_period_, all, count, whole);
  break_.set_waiting(false);
  if (frames() != nullptr) frames()->set_end();
  merge_.set_draining(true);
}

void pcapv3_aggregate::clear_ends() {
  pcapv3::Source* all[kMostPorts];
  const unsigned count = sources(all);
  for (unsigned i = 0; i < count; ++i) all[i]->clear_end();
  if (frames() != nullptr) frames()->clear_end();
  merge_.set_draining(false);
}

/// Packets that were read.
std::uint64_t pcapv3_aggregate::seen() const {
  std::uint64_t seen = 0;
  for (unsigned i = 0; i < count_; ++i) {
    if (ports_[i] != nullptr) seen += ports_[i]->counters().seen();
  }
  return seen;
}

/// See pcapv3_port::drain_more.
bool pcapv3_aggregate::drain_more(bool whole) {
  constexpr std::uint64_t kRoundsNs = pcapv3::Break::kLongestDrainNs / 5;
  if (!fans_out() || seen() == drained_seen_ ||
      break_.left_ns() < pcapv3::Break::kLongestDrainNs - kRoundsNs) {
    return false;
  }
  give_back_spent();
  begin_drain(whole);
  return true;
}

/// How long until the ports are to be looked at again whatever events tell, in nanoseconds. A
/// program that is not reading is woken seldom: stock code has it come by a time-out of its own
/// (pcap_get_required_select_timeout(3PCAP)).
std::uint64_t pcapv3_aggregate::until_look(bool reading) const {
  constexpr std::uint64_t kSeldomNs = 100 * kNsPerMs;
  if (troubled_) return reading ? kNsPerMs : kSeldomNs;
  if (unwatched_ != 0) return kUnreadNs;
  return !lone_ && !wait_.has_links() && (gone_ | down_) != 0 ? kSeldomNs : pcapv3::Wait::kForEver;
}

/// Ends a read that a break is to end; see pcapv3_port::end_drain.
int pcapv3_aggregate::end_drain(bool complete) {
  give_back_spent();
  clear_ends();
  *break_flag_ = 0;
  break_.stop_drain();
  for (unsigned i = 0; i < count_; ++i) ports_[i]->close_books(complete);
  if (!complete) debug_.line("the drain took too long: some packets are undelivered");
  return leave(PCAP_ERROR_BREAK);
}

// ---- Blocks, which come port by port ----

int pcapv3_aggregate::take(int timeout_ms, pcap_v3_block** block) {
  const bool nested = break_.begin_read();
  const int status =
      reads_here() ? take_blocks(timeout_ms, block) : ports_[0]->take(timeout_ms, block);
  break_.end_read(nested);
  return status;
}

int pcapv3_aggregate::take_blocks(int timeout_ms, pcap_v3_block** block) {
  if (!leave_merge()) return PCAP_ERROR;
  lends_ = true;
  give_up_ns_ = 0;
  for (unsigned i = 0; i < count_; ++i) {
    ports_[i]->begin_read();
    if (!ports_[i]->prepare_lending()) {
      pcapv3_linux_error(handle_, ports_[i]->error());
      return PCAP_ERROR;
    }
  }
  std::uint64_t until_ns = 0;
  if (!nonblocking_ && timeout_ms != 0) {
    until_ns = timeout_ms < 0
                   ? pcapv3::Wait::kForEver
                   : pcapv3::monotonic_ns() + static_cast<unsigned>(timeout_ms) * kNsPerMs;
  }
  return take_until(until_ns, block);
}

/// take(), without what is done once for each call.
int pcapv3_aggregate::take_until(std::uint64_t until_ns, pcap_v3_block** block) {
  bool over = false;
  if (break_.draining() && !drains_whole_) {  // packets were read before
    clear_ends();
    begin_drain(true);
  }
  for (;;) {
    if (*break_flag_ != 0) {
      if (break_.draining()) clear_ends();
      *break_flag_ = 0;
      if (!break_.start_drain()) return PCAP_ERROR_BREAK;
      begin_drain(true);
    }
    if (!look_after_ports()) return PCAP_ERROR;
    const int status = lend(block);
    if (status != 0) {
      // There may be another: a program that waits for the descriptor is to come back.
      return stay(status);
    }
    std::uint64_t wait_ns = until_ns == pcapv3::Wait::kForEver ? until_ns : until(until_ns);
    if (break_.draining()) {
      bool at_ends = true;
      for (unsigned i = 0; i < count_; ++i) at_ends = at_ends && ports_[i]->source().at_end();
      if (at_ends && !drain_more(true)) return end_drain(true);
      // A handle that does not block leaves the kernel's blocks where they are.
      if (nonblocking_ || break_.is_overdue()) return end_drain(false);
      wait_ns = std::min(break_.left_ns(), kUnreadNs);
    } else {
      if (over) return leave(0);
      if (!may_have_blocks()) return PCAP_ERROR;
      if (gone_ == all()) wait_ns = std::min(wait_ns, until(gone_ns_ + window_ns_));
      if (unread_ != 0) wait_ns = std::min(wait_ns, kUnreadNs);
    }
    bool some = false;
    if (!collect(wait_ns, some)) return PCAP_ERROR;
    over = until_ns != pcapv3::Wait::kForEver && until(until_ns) == 0;
  }
}

/// Lends a block of the next port that has one; see pcapv3_port::lend.
int pcapv3_aggregate::lend(pcap_v3_block** block) {
  for (unsigned n = 0; n < count_; ++n) {
    const unsigned i = next_to_lend_;
    next_to_lend_ = i + 1 < count_ ? i + 1 : 0;
    const int status = ports_[i]->lend(i, block);
    if (status < 0) pcapv3_linux_error(handle_, ports_[i]->error());
    if (status == 0) continue;
    merge_.skipped(i);
    return status;
  }
  return 0;
}

/// The merge has no place at which one could change over to blocks, but when it holds none.
bool pcapv3_aggregate::leave_merge() {
  give_back_spent();
  if (direct_ != nullptr && direct_->cursor().done()) give_back_direct();
  // The rest of a block can be taken; but only then is it nobody's.
  bool left = direct_ != nullptr && direct_ != &ports_[0]->source();
  for (unsigned i = 0; i < count_; ++i) left |= !merge_.is_closed(i);
  if (frames() != nullptr) left |= !merge_.is_closed(kFrames) || frames()->has_packets();
  if (!left) {
    direct_ = nullptr;
    return true;
  }
  pcapv3_linux_error(handle_,
                     "packets of several rings are being read in time order: blocks can't be taken "
                     "before all that have come were read");
  return false;
}

/// False, with the handle's error text, when no port can bring a block any more; see has_ports().
bool pcapv3_aggregate::may_have_blocks() {
  if (lone_) return check_lone();
  if (gone_ != all()) return true;
  if (until(gone_ns_ + window_ns_) != 0) {
    for (unsigned i = 0; i < count_; ++i) {
      if (ports_[i]->source().kernel_has_packets()) return true;
    }
  }
  pcapv3_linux_error(handle_, PCAP_LINUX_GONE);
  return false;
}

// ---- Ports that come and go ----

/// Looks after the ports as far as events tell of them. A port whose interface is gone stays, with
/// its socket and what is in its ring.
void pcapv3_aggregate::check_ports(const pcapv3::Wait::Events& events) {
  if (lone_) {
    troubled_ |= events.troubled != 0;
    return;
  }
  for (unsigned i = 0; i < count_; ++i) {
    const bool troubled = (events.troubled & bit(i)) != 0;
    if (troubled && !wait_.has_links()) down_ |= bit(i);
    if ((unwatched_ & bit(i)) != 0 && wait_.add(i, sockets_[i])) unwatched_ &= ~bit(i);
    if (!events.links && !troubled && (unread_ & bit(i)) == 0) continue;
    if ((gone_ & bit(i)) == 0) {
      if (pcapv3_aggregate_is_gone(handle_, i) != 0) {
        debug_.line("%s: the interface is gone", ports_[i]->device());
        gone_ |= bit(i);
        gone_ns_ = pcapv3::monotonic_ns();
      } else if (troubled) {
        debug_.line("%s: the interface went down", ports_[i]->device());
      }
    }
    // Not in a drain, which shows less than there is: another ring would take the rest's place.
    if ((gone_ & bit(i)) != 0 && !break_.draining() && bind_again(i)) {
      debug_.line("%s: the interface is back", ports_[i]->device());
      gone_ &= ~bit(i);
      down_ &= ~bit(i);
      watch_links();
    }
  }
}

/// As stock code does once its descriptor has had an error: an interface that went down may be
/// going away, of which no event of its socket tells (af_packet.c: packet_notifier). False, with
/// the handle's error text, when the lone port's interface is gone.
bool pcapv3_aggregate::check_lone() {
  if (!troubled_) return true;
  ports_[0]->clear_frames_error();
  const int status = pcapv3_linux_check(handle_);
  troubled_ = status == PCAP_ERROR || pcapv3_linux_is_down(handle_) != 0;
  if (status == PCAP_ERROR_BREAK) *break_flag_ = 1;  // which is this loop's to see
  return status != PCAP_ERROR;
}

void pcapv3_aggregate::watch_links() {
  pcapv3::Wait::Link links[kMostPorts];
  for (unsigned i = 0; i < count_; ++i) {
    links[i] = {ports_[i]->device(), ports_[i]->plan().interface};
  }
  wait_.watch(links, count_);
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
  if (!fans_out()) return pcapv3_aggregate_bind_again(handle_, index) == 0;
  // It gets another socket, with another ring: when what is in the old one has been read.
  unread_ |= bit(index);
  if (!is_read(index)) return false;
  unread_ &= ~bit(index);
  wait_.remove(sockets_[index]);
  const bool is_back = pcapv3_aggregate_bind_again(handle_, index) == 0;
  if (is_back) {
    pcapv3_port& port = *ports_[index];
    merge_.remove(index);
    // Can't fail: it has had the memory before.
    (void)merge_.add(index, port.source(), port.counters(), port.plan().judge);
    note_ring(port.ring().geometry());
  }
  if (!wait_.add(index, sockets_[index])) unwatched_ |= bit(index);
  return is_back;
}

/// False, with the handle's error text, when all are gone and nothing of theirs is left. A block
/// that the kernel was filling is handed over within a window, or never.
bool pcapv3_aggregate::has_ports() {
  if (lone_) return check_lone();
  if (gone_ != all()) return true;
  const bool overdue = until(gone_ns_ + window_ns_) == 0;
  for (unsigned i = 0; i < count_; ++i) {
    if (!merge_.is_empty(i) && !(overdue && merge_.is_closed(i))) return true;
  }
  pcapv3_linux_error(handle_, PCAP_LINUX_GONE);
  return false;
}
