#include "port.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdio>
#include <cstring>
#include <utility>

#include "aggregate.h"
#include "clock.h"
#include "compat/pcap_linux.h"
#include "compat/savefile.h"
#include "confinement.h"
#include "drain.h"
#include "geometry.h"
#include "machine.h"

namespace {

constexpr std::uint64_t kNsPerMs = 1'000'000;
constexpr std::uint64_t kForever = ~std::uint64_t{0};
/// How often a drain looks whether the kernel has handed over a block that is lent whole.
constexpr std::uint64_t kLookNs = 5 * kNsPerMs;

/// The same filter for a block, which may be walked when the handle has another one or is closed.
bool run_program(void* owner, const std::uint8_t* bytes, std::uint32_t wire_length,
                 std::uint32_t captured_length, bool tagged, std::uint16_t tci) {
  return pcapv3_linux_run_filter(static_cast<pcapv3::Program*>(owner)->code(), bytes, wire_length,
                                 captured_length, tagged ? 1 : 0, tci) != 0;
}

bool run_filter(void* owner, const std::uint8_t* bytes, std::uint32_t wire_length,
                std::uint32_t captured_length, bool tagged, std::uint16_t tci) {
  return pcapv3_linux_filter(static_cast<pcap_t*>(owner), bytes, wire_length, captured_length,
                             tagged ? 1 : 0, tci) != 0;
}

pcapv3::LinkHeader link_header_of(const pcapv3_linux_view& view) {
  if (view.cooked == 0) return pcapv3::LinkHeader::kFrame;
  return view.link_type == DLT_LINUX_SLL2 ? pcapv3::LinkHeader::kSll2 : pcapv3::LinkHeader::kSll;
}

/// Where the kernel can cut packets off, so that the program still gets its snapshot length; 0 if
/// none is longer than that anyway.
std::uint32_t cut_for(const pcapv3_linux_view& view, std::uint64_t largest_packet) {
  const auto snapshot = static_cast<std::uint32_t>(view.snapshot);
  if (snapshot >= largest_packet) return 0;
  // An SLL header, the shorter one, takes its share of a cooked packet's snapshot length. Past the
  // place of a VLAN tag at least, because a packet that ends before it gets none (delivery.cc).
  constexpr std::uint32_t kSllBytes = 16;
  constexpr std::uint32_t kTagPlace = 14;
  const std::uint32_t header = view.cooked != 0 ? kSllBytes : 0;
  return std::max(snapshot > header ? snapshot - header : 0, kTagPlace);
}

}  // namespace

pcapv3_port::pcapv3_port(pcap_t* handle, pcapv3::Break& breaking, const char* device)
    : handle_(handle),
      break_flag_(pcapv3_linux_break_flag(handle)),
      delivery_(break_flag_, counters_),
      break_(breaking) {
  std::snprintf(device_, sizeof(device_), "%s", device);
  pcapv3::note_confinement();
}

pcapv3_port::~pcapv3_port() {
  tell_books();
  pcapv3::release_confinement();
  if (program_ != nullptr) program_->let_go();
  delete frames_;
  // Blocks that another process has taken never come back here: the ring does not wait for them.
  if (lender_ != nullptr && is_own()) lender_->close(std::move(ring_));
}

void pcapv3_port::tell_books() {
  if (!active_ || !stats_.on() || !is_own()) return;
  if (lender_ != nullptr) lender_->collect(counters_);
  // What has come for a member of a fan-out group in the meantime nobody else has got.
  if (books_closed_ && !fans_out()) counters_.received = closed_received_;
  char text[500];
  pcapv3::summarize(counters_, device_, merged_, has_frames_, text, sizeof(text));
  const pcapv3::Geometry& ring = ring_.geometry();
  stats_.line("%s, ring %u x %u KiB, retire timeout %u ms", text, ring.block_count,
              ring.block_bytes / 1024, ring.retire_ms);
}

bool pcapv3_port::open() {
  const char* const* environment = pcapv3::trusted_environment();
  if (!settings_.read(environment, program_invocation_short_name, error_) ||
      !debug_.open("PCAPV3_DEBUG", environment, error_) ||
      !stats_.open("PCAPV3_STATS", environment, error_)) {
    return false;
  }
  while (const char* entry = debug_.on() ? pcapv3::next_unknown(environment) : nullptr) {
    debug_.line("%s: %.200s: there is no such setting; see pcap-linux-v3(7)", device_, entry);
  }
  return true;
}

bool pcapv3_port::takes_immediate() const {
  switch (settings_.immediate) {
    case pcapv3::Settings::Immediate::kV2:
      return false;
    case pcapv3::Settings::Immediate::kV3:
      return true;
    case pcapv3::Settings::Immediate::kAdaptive:
      if (adapts()) return true;
      break;
  }
  // From 6.18 on the retire timer is an hrtimer; before, it counts in jiffies, and a packet can
  // wait 4 to 8 ms for it (af_packet.c: prb_setup_retire_blk_timer).
  return pcapv3::kernel_is_at_least(6, 18);
}

bool pcapv3_port::adapts() const {
  // CBPF fan-out is there from 4.3 on; a socket is in one group.
  return settings_.immediate == pcapv3::Settings::Immediate::kAdaptive && !fans_out() &&
         pcapv3::kernel_is_at_least(4, 3);
}

bool pcapv3_port::shut(int fd) {
  return pcapv3::shut(fd) || error_.set("can't attach a filter: %s", std::strerror(errno));
}

bool pcapv3_port::join_fanout(int fd, int index, bool loopback) {
  const sock_fprog none = {};
  if (!pcapv3::join_fanout(fd, settings_.fanout, index, loopback, device_, none, error_)) {
    return false;
  }
  debug_.line("%s: in fan-out group %s", device_, settings_.fanout.text);
  return true;
}

bool pcapv3_port::renew(int fd, int spare, int index, bool loopback) {
  sock_filter code[BPF_MAXINSNS] = {};
  sock_fprog filter = {BPF_MAXINSNS, code};
  pcapv3::Ring ring;
  if (!pcapv3::get_filter(fd, filter) || !pcapv3::copy_options(fd, spare) ||
      !ring.create(spare, first_ring_, flow_hash_)) {
    debug_.line("%s: no other socket in its place: %s", device_, std::strerror(errno));
    return false;
  }
  if (!pcapv3::join_fanout(spare, settings_.fanout, index, loopback, device_, filter, error_)) {
    debug_.line("%s", error());
    return false;
  }
  if (dup3(spare, fd, O_CLOEXEC) < 0) return false;
  ring_ = std::move(ring);  // which is the old one now: with it, the old socket goes
  if (lender_ != nullptr) {
    // What is done with blocks that are out is not told in the summary.
    lender_->collect(counters_);
    counters_.unwalked += lender_->uncollected();
    counters_.out = 0;
    lender_->close(std::move(ring));  // which stays while they are
    lender_ = nullptr;
  }
  source_.restart();
  lost_from_ = lost_to_ = 0;
  return true;
}

int pcapv3_port::make_ring(int fd, const pcapv3_wish& wish) {
  pcapv3::RingWish w;
  w.tool_bytes = wish.buffer_bytes;
  w.set_bytes = settings_.buffer;
  w.set_block = settings_.block;
  w.set_retire_ms = settings_.retire_ms;
  w.timeout_ms = wish.timeout_ms;
  w.immediate = wish.immediate != 0;
  flow_hash_ = wish.flow_hash != 0;
  w.most_retire_ms = wish.most_retire_ms;
  w.drain = settings_.drain;
  w.free_bytes = pcapv3::free_memory();
  w.largest_packet = largest_packet_ = pcapv3::largest_packet(wish.interface);
  w.page_bytes = static_cast<std::uint32_t>(getpagesize());

  pcapv3::Geometry wanted;
  if (!pcapv3::choose_geometry(w, wanted, error_)) {
    errno = EINVAL;
    return -1;
  }
  if (!ring_.create(fd, wanted, flow_hash_)) {
    const int reason = errno;
    error_.set("can't create a ring of %u blocks of %u KiB: %s%s", wanted.block_count,
               wanted.block_bytes / 1024, std::strerror(reason),
               reason == ENOMEM ? "; PCAPV3_BUFFER can ask for less" : "");
    errno = reason;
    return -1;
  }
  source_.set_headroom(wish.cooked != 0 ? pcapv3::kCookedHeadroom : pcapv3::kFrameHeadroom);
  const pcapv3::Geometry& got = first_ring_ = ring_.geometry();
  // With blocks that are no further apart than a pause, packets come within two pauses.
  pause_.add(got.ring_bytes(), got.block_count,
             std::min(got.retire_ms, pcapv3::kDrainRetireMs) * kNsPerMs * 3 / 10);
  debug_.line("%s: TPACKET_V3 ring, %u blocks of %u KiB%s, retire timeout %u ms%s", device_,
              got.block_count, got.block_bytes / 1024,
              got.block_count < wanted.block_count ? " (memory is short)" : "", got.retire_ms,
              wish.immediate != 0 ? ", immediate mode" : "");
  return 0;
}

void pcapv3_port::refresh() {
  pcapv3_linux_view view;
  pcapv3_linux_look(handle_, &view);
  if (!active_) {
    active_ = true;
    intake_ = pcapv3::Intake(view.socket);
    if (aggregate_ == nullptr) break_.allow_drain(settings_.drain);
    cut_at_ = cut_for(view, largest_packet_);
  }
  if (view.has_filter != 0) cut_at_ = 0;
  intake_.ignore_outgoing(view.direction == PCAP_D_IN ||
                          (view.interface > 0 && view.interface == view.loopback));
  nonblocking_ = view.nonblocking != 0;
  // Stock code makes another one when the handle begins to block again.
  if (std::exchange(break_event_, view.break_event) != view.break_event) block_wait_.close();

  pcapv3::Plan plan;
  plan.link_header = link_header_of(view);
  plan.vlan_offset = view.vlan_offset;
  plan.snapshot = static_cast<std::uint32_t>(view.snapshot);
  plan.nanoseconds = view.nanoseconds != 0;
  plan.direction = view.direction;
  plan.interface = view.interface;
  plan.loopback = view.loopback;
  if (view.filter_here != 0) {
    plan.judge.filter = run_filter;
    plan.judge.owner = handle_;
    plan.judge.is_whole = view.filter_is_whole != 0;
    if (view.filter_blocks != 0 && view.own_clock == 0) plan.judge.until = filter_set_;
  }
  if (program_ != nullptr) program_->let_go();
  program_ = nullptr;
  filtering_old_blocks_ = view.filter_blocks != 0;
  endless_ = view.endless != 0;
  plan_ = plan;
  delivery_.follow(plan);
  if (aggregate_ != nullptr) aggregate_->follow_ports();
}

void pcapv3_port::filter_set() {
  filter_set_ = pcapv3::stamp_of(pcapv3::realtime_ns());
  refresh();
}

void pcapv3_port::say_stock(const char* why) { debug_.line("%s: stock handle: %s", device_, why); }

void pcapv3_port::begin_read() {
  if (cut_at_ != 0) {
    // Not before the first read: a program that sets a filter has done so by now, and the packets
    // that had come before were judged by it whole.
    intake_.cut_at(cut_at_);
    cut_at_ = 0;
  }
  books_closed_ = false;
  read_in_ = pcapv3::process_generation();
}

void pcapv3_port::open_grace_period() {
  if (!settings_.drain || grace_period_.open()) return;
  debug_.line("%s: a break will leave what is in the kernel's block: %s", device_,
              std::strerror(errno));
}

int pcapv3_port::read(int count, pcap_handler callback, u_char* user) {
  begin_read();
  const bool nested = break_.begin_read();
  int status;
  if (count != 1 || !source_.cursor().has_packet() || break_.draining()) {
    status = read_blocks(count <= 0 ? INT_MAX : count, 0, callback, user);
  } else {
    // What pcap_next_ex(3PCAP) finds most of the time: a packet in the midst of a block.
    status = delivery_.run(source_.cursor(), 1, callback, user);
    if (status != 1 || !source_.cursor().has_packet() || *break_flag_ != 0) {
      status = read_blocks(1, status, callback, user);
    }
  }
  break_.end_read(nested);
  return status;
}

/// Reads until `most` packets are delivered, `delivered` of them before.
int pcapv3_port::read_blocks(int most, int delivered, pcap_handler callback, u_char* user) {
  bool looked = delivered != 0;                                // at packets, if only to reject them
  if (break_.draining() && drains_whole_) begin_drain(false);  // blocks were taken before
  for (;;) {
    // If it is not open, the callback has itself read to its end.
    if (source_.is_open()) {
      if (source_.cursor().corrupt()) {
        pcapv3_linux_error(handle_, corrupt_block(source_.cursor(), source_.index()));
        close_block();
        return PCAP_ERROR;
      }
      if (source_.cursor().done()) close_block();
    }
    if (*break_flag_ != 0) {
      // A break that is none of the callback's must not cost the caller what was delivered: it is
      // the next read's.
      if (delivered == most && !break_.is_callbacks()) return delivered;
      if (break_.draining()) source_.clear_end();
      *break_flag_ = 0;
      if (!break_.start_drain()) return PCAP_ERROR_BREAK;
      begin_drain(false);
    }
    if (delivered == most) return delivered;
    if (break_.draining() && break_.is_overdue()) return end_drain(false);
    if (source_.open()) {
      // All of it may have been read while the kernel was filling it.
      if (source_.cursor().done()) continue;
      looked = true;
      const int left = most - delivered;
      delivered += break_.draining() ? delivery_.run(source_.cursor(),
                                                     std::min(left, break_.batch()), callback, user)
                                     : deliver_block(left, callback, user);
      continue;
    }
    if (break_.draining()) {
      if (drain_more(false)) continue;
      return end_drain(true);
    }
    if (delivered > 0 || (looked && !endless_)) return delivered;
    if (pause()) continue;
    const int status = wait();
    pause_.woke(pcapv3::monotonic_ns());
    if (status == PCAP_ERROR_BREAK) {
      *break_flag_ = 1;  // which is this loop's to see
    } else if (status != 0) {
      return status;
    }
    if (*break_flag_ == 0 && !source_.open() && !endless_) return 0;
  }
}

/// The wait of a reader that is busy; see pause.h. Returns whether this was it.
bool pcapv3_port::pause() {
  if (nonblocking_ || has_lent()) return false;
  const std::uint64_t left_ns =
      pause_.due(pcapv3::monotonic_ns(), counters_.delivered, counters_.blocks);
  if (left_ns < kNsPerMs) return false;
  // By poll(2), which stock code waits by too: a process may allow itself nothing else.
  pollfd event = {break_event_, POLLIN, 0};
  break_.set_waiting(true);
  const int ready = *break_flag_ == 0 ? poll(&event, 1, static_cast<int>(left_ns / kNsPerMs)) : 0;
  break_.set_waiting(false);
  pause_.woke(pcapv3::monotonic_ns());
  // An old event, of a break that was seen by its flag, is for stock code to take.
  return ready <= 0 || *break_flag_ != 0;
}

int pcapv3_port::wait() {
  if (has_lent()) {
    // Not by poll(2), see block_wait.h.
    const int status = wait_past_lent(nonblocking_ ? 0 : kForever);
    return status > 0 ? 0 : status;
  }
  break_.set_waiting(true);
  const int status = pcapv3_linux_wait(handle_);
  break_.set_waiting(false);
  return status;
}

/// What the ring holds now is what is delivered before the read ends; see drain.h.
void pcapv3_port::begin_drain(bool whole) {
  drained_seen_ = counters_.seen();
  drains_whole_ = whole;
  source_.clear_end();
  pcapv3::Source* const source = &source_;
  break_.set_waiting(true);  // nothing but a signal handler runs on this thread meanwhile
  pcapv3::set_ends(grace_period_, &source, 1, whole);
  break_.set_waiting(false);
}

/// Whether there is another round: what comes for a member of a fan-out group until its handle is
/// closed is nobody else's, so that it takes in what it can.
bool pcapv3_port::drain_more(bool whole) {
  constexpr std::uint64_t kRoundsNs = pcapv3::Break::kLongestDrainNs / 5;
  if (!fans_out() || counters_.seen() == drained_seen_ ||
      break_.left_ns() < pcapv3::Break::kLongestDrainNs - kRoundsNs) {
    return false;
  }
  begin_drain(whole);
  return true;
}

/// Ends a drain, and with it the read. `complete`: all that had come before the break was handed
/// over, so that the books can be closed as of then; what the kernel counted since is not in them.
int pcapv3_port::end_drain(bool complete) {
  *break_flag_ = 0;
  source_.clear_end();
  break_.stop_drain();
  close_books(complete);
  if (!complete) {
    debug_.line("%s: the drain took too long: %llu packets are undelivered", device_,
                static_cast<unsigned long long>(counters_.undelivered()));
  }
  return PCAP_ERROR_BREAK;
}

/// Delivers from the open block, and tells pcap_dump(3PCAP) for how long no wait follows
/// (compat/savefile.h), in a callback that has dumped each packet of the block before to one file.
int pcapv3_port::deliver_block(int most, pcap_handler callback, u_char* user) {
  constexpr int kMany = 64;
  pcapv3::PacketCursor& cursor = source_.cursor();
  const std::uint32_t left = cursor.left();
  const unsigned row = pcapv3_savefile_row;
  // Where some can be rejected, the last packet at hand may not be delivered. (On "any" one copy of
  // lo's packets is, but the other follows it.)
  const bool may_reject = plan_.judge.filter != nullptr || plan_.direction != PCAP_D_INOUT;
  int delivered = 0;
  if (dumps_all_ && !may_reject) {
    const std::uint32_t followed = left - (source_.has(1) ? 0 : 1);
    const auto* const block = reinterpret_cast<const u_char*>(ring_.block(source_.index()));
    pcapv3_savefile_run = {0, block, block + ring_.geometry().block_bytes};
    delivered = delivery_.run(cursor, std::min<int>(most - 1, static_cast<int>(followed)), callback,
                              user, &pcapv3_savefile_run.header);
    pcapv3_savefile_run.header = 0;
  }
  delivered += delivery_.run(cursor, most - delivered, callback, user);
  const auto count = static_cast<unsigned>(delivered);
  dumps_all_ =
      delivered >= kMany && pcapv3_savefile_row - row == count && left - cursor.left() == count;
  return delivered;
}

void pcapv3_port::close_books(bool complete) {
  pcapv3_linux_count(handle_);
  books_closed_ = complete;
  closed_received_ = counters_.seen();
  // What is lent, or has come back since it was asked last, is as good as seen.
  if (lender_ != nullptr) closed_received_ += lender_->uncollected();
}

bool pcapv3_port::closed_books(pcap_stat& stats) const {
  if (!books_closed_) return false;
  stats.ps_recv = static_cast<u_int>(closed_received_);
  stats.ps_drop = static_cast<u_int>(counters_.dropped);
  return true;
}

void pcapv3_port::close_block() {
  const std::uint32_t packets = source_.header(0).num_pkts;
  if (!source_.close()) return;
  block_packets_ += packets;
  leave_block();
}

void pcapv3_port::leave_block() {
  ++counters_.blocks;
  // Frames can be as old as the blocks that the kernel's filter is younger than.
  const bool has_frames = frames_ != nullptr && frames_->has_packets();
  if (filtering_old_blocks_ && !has_frames && pcapv3_linux_block_filtered(handle_) == 0) refresh();
}

const char* pcapv3_port::corrupt_block(const pcapv3::PacketCursor& cursor, unsigned block) {
  error_.set("corrupt block %u in the ring: the packet at byte %zu does not fit into it", block,
             cursor.offset());
  counters_.corrupt += cursor.left();
  return error_.c_str();
}

void pcapv3_port::before_count() {
  if (source_.block_count() != 0) filling_ = source_.filling();
}

void pcapv3_port::count(unsigned packets, unsigned drops, unsigned freezes) {
  if (drops != 0 && source_.block_count() != 0) {
    // The kernel has forgotten these drops: blocks that it closes from now on do not tell of them.
    // It may have closed one or more since before_count().
    // What was told before stays told until it has been read.
    if (lost_to_ < source_.header(0).seq_num) lost_from_ = filling_;
    lost_to_ = source_.filling();
  }
  counters_.received += packets;
  counters_.dropped += drops;
  counters_.freezes += freezes;
}

// ---- Immediate mode by two rings ----

void pcapv3_port::begin_frames(int frames, int interface, bool cooked) {
  constexpr std::uint64_t kBytes = 4 * pcapv3::kMiB;
  constexpr std::uint64_t kShare = 1024;  // of free memory, at most
  frames_ = new pcapv3::FrameRing(cooked ? pcapv3::kCookedHeadroom : pcapv3::kFrameHeadroom);
  if (frames_ == nullptr) {
    close(frames);
    return;
  }
  frames_->create(frames, pcapv3::largest_packet(interface),
                  std::min(kBytes, pcapv3::free_memory() / kShare));
}

bool pcapv3_port::has_made_frames() {
  if (frames_ == nullptr) return false;
  // With fewer blocks they are all in somebody's hands too soon: the one being read, the one that
  // is filled, and one that makes the socket readable (pair.h).
  constexpr std::uint32_t kFewestBlocks = 4;
  if (ring_.geometry().block_count < kFewestBlocks) {
    debug_.line("%s: no ring of frames, as there are %u blocks only", device_,
                ring_.geometry().block_count);
  } else if (frames_->wait_until_made() && pcapv3::shut(frames_->socket())) {
    debug_.line("%s: TPACKET_V2 ring, %u frames of %u KiB", device_, frames_->frame_count(),
                frames_->frame_bytes() / 1024);
    has_frames_ = true;
    return true;
  } else {
    debug_.line("%s: no ring of frames: %s", device_, std::strerror(errno));
  }
  drop_frames();
  return false;
}

pcapv3::FrameRing* pcapv3_port::part_with_frames() {
  pcapv3::FrameRing* const frames = std::exchange(frames_, nullptr);
  if (frames != nullptr) frames->close();
  return frames;
}

bool pcapv3_port::join_frames(int socket) {
  constexpr std::uint64_t kAgainNs = 100 * kNsPerMs;
  const std::uint64_t now_ns = pcapv3::monotonic_ns();
  if (now_ns < joining_ns_) return true;
  begin_read();  // which may change the filter
  pcapv3::Pair::Counts counts;
  using Joining = pcapv3::Pair::Joining;
  const Joining joining =
      pcapv3::copy_stamps(socket, frames_->socket())
          ? pair_.join(socket, *frames_, source_,
                       plan_.interface > 0 && plan_.interface == plan_.loopback, counts)
          : Joining::kFailed;
  if (joining == Joining::kFailed) {
    debug_.line("%s: no packets by the ring of frames: %s", device_, std::strerror(errno));
    return false;
  }
  joining_ns_ = now_ns + kAgainNs;
  if (joining == Joining::kDone) pcapv3_linux_add_counts(handle_, counts.packets, counts.drops);
  return true;
}

void pcapv3_port::drop_frames() {
  if (frames_ == nullptr) return;
  if (frames_->used()) {
    pcapv3_linux_count(handle_);  // the last of its socket's
  } else {
    has_frames_ = merged_ = false;
  }
  pair_.stop_waking(ring_);
  // A signal handler that asks for statistics meanwhile finds it whole, or not at all.
  pcapv3::FrameRing* const frames = std::exchange(frames_, nullptr);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  delete frames;
}

void pcapv3_port::take_frames(std::uint64_t now_ns) {
  const unsigned came = frames_->take();
  counters_.frames += came;
  if (settled_ || !pair_.is_joined()) return;
  if (pair_.is_ending()) {
    if (!pair_.is_ended()) return;  // whoever has asked is about it
    settled_ = true;
    debug_.line("%s: no more packets by the ring of frames", device_);
    return;
  }
  const bool busy = pace_.busy();
  if (busy && source_.has(0)) return;  // it lags behind: the clock says nothing
  const bool full = came >= frames_->frame_count() - frames_->frame_count() / 4;
  const std::uint64_t packets = busy ? std::exchange(block_packets_, 0) : came;
  if (!pace_.count(packets, full, now_ns)) {
    if (busy && !bypassed_) consider_bypass(now_ns);
    return;
  }
  ++counters_.switches;
  block_packets_ = 0;
  if (pace_.busy()) {
    frames_->hold();
    busy_since_ns_ = now_ns;
    busy_since_block_ = counters_.blocks;
  } else {
    frames_->let_go();
    if (bypassed_) (void)pcapv3::choose_frames(frames_->socket());
    bypassed_ = false;
  }
}

/// To find the ring of frames full costs the kernel some 0.2 us a packet, and leaves a quarter of
/// the ring of blocks unused. When that goes on, it is told to ask it no more. Meanwhile nobody
/// reads: but for the first time, the kernel takes 8 to 20 ms for it at 250 Hz (af_packet.c:
/// __fanout_set_data_bpf waits for RCU to free the program before), and again to go back.
void pcapv3_port::consider_bypass(std::uint64_t now_ns) {
  constexpr std::uint64_t kAfterNs = 1000 * kNsPerMs;
  constexpr unsigned kMostRings = 20;  // filled in that time: one lasts for 50 ms at least
  if (now_ns - busy_since_ns_ < kAfterNs) return;
  bypassed_ = counters_.blocks - busy_since_block_ <= kMostRings * source_.block_count() &&
              pcapv3::choose_blocks(frames_->socket());
  busy_since_ns_ = now_ns;
  busy_since_block_ = counters_.blocks;
}

std::uint64_t pcapv3_port::until_frames(std::uint64_t now_ns) const {
  return frames_ != nullptr && !settled_ && pace_.busy() ? pace_.left_ns(now_ns) : kForever;
}

void pcapv3_port::relieve(int socket) {
  // The kernel has noted once that less than a quarter of the ring was free, and passes on nothing
  // from the ring of frames until poll(2) finds that there is more (af_packet.c:
  // fanout_demux_rollover, packet_rcv_try_clear_pressure).
  const bool half_full = source_.has(source_.block_count() / 2);
  if (!half_full && !pressed_) return;
  pressed_ = half_full;
  pollfd look = {socket, POLLIN, 0};
  (void)poll(&look, 1, 0);
}

/// Else each packet's event has it.
void pcapv3_port::clear_frames_error() {
  int error;
  socklen_t length = sizeof(error);
  if (frames_ != nullptr) {
    (void)getsockopt(frames_->socket(), SOL_SOCKET, SO_ERROR, &error, &length);
  }
}

int pcapv3_port::deliver_from(pcapv3::Source& source, int most, pcap_handler callback,
                              u_char* user) {
  return &source == &source_ ? deliver_block(most, callback, user)
                             : delivery_.run(source.cursor(), most, callback, user);
}

// ---- Lending blocks ----

bool pcapv3_port::prepare_lending() {
  if (lender_ == nullptr) lender_ = pcapv3::Lender::create(ring_, device_);
  return lender_ != nullptr || error_.set("no memory for blocks to be taken");
}

int pcapv3_port::take(int timeout_ms, pcap_v3_block** block) {
  if (!prepare_lending()) {
    pcapv3_linux_error(handle_, error());
    return PCAP_ERROR;
  }
  std::uint64_t until_ns = 0;
  if (!nonblocking_ && timeout_ms != 0) {
    until_ns = timeout_ms < 0
                   ? kForever
                   : pcapv3::monotonic_ns() + static_cast<std::uint64_t>(timeout_ms) * kNsPerMs;
  }
  begin_read();
  const bool nested = break_.begin_read();
  const int status = take_until(until_ns, block);
  break_.end_read(nested);
  return status;
}

/// take(), without what is done once for each call.
int pcapv3_port::take_until(std::uint64_t until_ns, pcap_v3_block** block) {
  if (break_.draining() && !drains_whole_) begin_drain(true);  // packets were read before
  for (;;) {
    if (*break_flag_ != 0) {
      if (break_.draining()) source_.clear_end();
      *break_flag_ = 0;
      if (!break_.start_drain()) return PCAP_ERROR_BREAK;
      begin_drain(true);
    }
    int status = lend(0, block);
    if (status < 0) pcapv3_linux_error(handle_, error());
    if (status != 0) return status;
    if (break_.draining()) {
      if (source_.at_end() && !drain_more(true)) return end_drain(true);
      // A handle that does not block leaves the kernel's block where it is.
      if (nonblocking_ || break_.is_overdue()) return end_drain(false);
      status = wait_past_lent(pcapv3::monotonic_ns() + std::min(break_.left_ns(), kLookNs));
    } else {
      status = wait_past_lent(until_ns);
    }
    if (status == PCAP_ERROR_BREAK) {
      *break_flag_ = 1;
      continue;
    }
    if (break_.draining() && status >= 0) continue;
    // One that came while the time ran out is not kept back.
    if (status == 0 && *break_flag_ == 0 && !source_.open()) return 0;
    if (status < 0) return status;
  }
}

int pcapv3_port::lend(unsigned place, pcap_v3_block** block) {
  while (source_.open()) {
    const pcapv3::PacketCursor& cursor = source_.cursor();
    if (cursor.corrupt()) {
      corrupt_block(cursor, source_.index());
      close_block();
      return PCAP_ERROR;
    }
    if (cursor.done()) {  // packets were read to its end
      close_block();
      continue;
    }
    pcapv3::Plan plan = plan_;
    if (!prepare_lending() || !filter_program(plan)) return PCAP_ERROR;
    const tpacket_hdr_v1& header = source_.header(0);
    const bool losing = (header.block_status & TP_STATUS_LOSING) != 0;
    const std::uint64_t sequence = header.seq_num;
    pcap_v3_info info{};
    info.first.tv_sec = cursor.packet().header().tp_sec;
    info.first.tv_nsec = cursor.packet().header().tp_nsec;
    info.last.tv_sec = header.ts_last_pkt.ts_sec;
    info.last.tv_nsec = header.ts_last_pkt.ts_nsec;
    info.sequence = sequence;
    info.packets = cursor.left();
    info.lost = losing || (sequence >= lost_from_ && sequence <= lost_to_) ? 1 : 0;
    info.port = place;
    info.interface_index = plan.interface > 0 ? plan.interface : 0;
    *block = lender_->lend(source_.index(), cursor, plan, program_, info);
    source_.lend();
    leave_block();
    troubled_ = false;
    // The kernel says so until it is asked for its counts.
    if (losing) pcapv3_linux_count(handle_);
    return 1;
  }
  return 0;
}

/// Has a plan's filter run on a copy of the handle's. False, with a text in error().
bool pcapv3_port::filter_program(pcapv3::Plan& plan) {
  if (plan.judge.filter == nullptr) return true;
  if (program_ == nullptr) {
    unsigned count = 0;
    const bpf_insn* code = pcapv3_linux_filter_code(handle_, &count);
    program_ = pcapv3::Program::copy(code, count);
    if (program_ == nullptr) return error_.set("no memory for a block's filter");
  }
  plan.judge.filter = run_program;
  plan.judge.owner = program_;
  return true;
}

/// Waits for a block behind those that are lent, until `until_ns` of CLOCK_MONOTONIC: 1 when it is
/// worth to look; 0 when the time is over; or a status, with the handle's error text.
int pcapv3_port::wait_past_lent(std::uint64_t until_ns) {
  if (until_ns == 0) return check();
  if (!block_wait_.is_open()) {
    pcapv3_linux_view view;
    pcapv3_linux_look(handle_, &view);
    if (!block_wait_.open(view.socket, view.break_event)) {
      error_.set("can't make the descriptor to wait on: %s", std::strerror(errno));
      pcapv3_linux_error(handle_, error());
      return PCAP_ERROR;
    }
  }
  // An interface that went down may go away, of which no event tells.
  constexpr std::uint64_t kTroubledNs = 10 * kNsPerMs;
  for (;;) {
    const std::uint64_t now = pcapv3::monotonic_ns();
    if (until_ns <= now) return 0;
    std::uint64_t wait_ns = until_ns - now;
    if (troubled_) wait_ns = std::min(wait_ns, kTroubledNs);
    int wait_ms = -1;
    if (until_ns != kForever || troubled_) {
      wait_ms =
          static_cast<int>(std::min<std::uint64_t>((wait_ns + kNsPerMs - 1) / kNsPerMs, INT_MAX));
    }
    break_.set_waiting(true);
    const pcapv3::BlockWait::Outcome outcome = block_wait_.wait(wait_ms);
    break_.set_waiting(false);
    if (outcome == pcapv3::BlockWait::Outcome::kError) {
      error_.set("can't wait for a block: %s", std::strerror(errno));
      pcapv3_linux_error(handle_, error());
      return PCAP_ERROR;
    }
    if (outcome == pcapv3::BlockWait::Outcome::kTrouble) troubled_ = true;
    if (*break_flag_ != 0 || outcome == pcapv3::BlockWait::Outcome::kEvent) return 1;
    if (troubled_) {
      const int status = check();
      if (status != 0) return status;
    }
  }
}

/// Looks whether the interface is there: 0, or a status as pcapv3_linux_wait() has it.
int pcapv3_port::check() { return pcapv3_linux_check(handle_); }
