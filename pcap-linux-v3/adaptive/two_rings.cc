// SPDX-License-Identifier: BSD-3-Clause
#include "adaptive/two_rings.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "clock.h"
#include "setup/fanout.h"

namespace pcapv3 {
namespace {

constexpr std::uint64_t kNsPerMs = 1'000'000;

void look_at(int socket) {
  pollfd look = {socket, POLLIN, 0};
  (void)poll(&look, 1, 0);
}

}  // namespace

// ---- Setting up ----

void TwoRings::begin(int socket, const pcapv3_slots_request& request) {
  frames_ = new SlotRing(request.cooked != 0 ? kCookedHeadroom : kFrameHeadroom);
  if (frames_ == nullptr) {
    close(socket);
    return;
  }
  // The kernel truncates what does not fit, as it does in stock's slots.
  std::uint64_t packet = largest_packet(request.ifindex);
  if (request.max_frame != 0) packet = std::min<std::uint64_t>(packet, request.max_frame);
  packet = std::min<std::uint64_t>(packet, request.snapshot);
  // It has as many slots as stock libpcap's ring, up to the size of our rings without a request,
  // besides the blocks; and if the buffer was not chosen, enough for what comes while a reader is
  // woken.
  constexpr std::uint64_t kFewSlots = 64;
  constexpr std::uint64_t kFewBytes = 4 * kMiB;
  constexpr std::uint64_t kShare = 1024;  // of free memory, at most
  const std::uint64_t free_bytes = free_memory();
  std::uint64_t bytes = std::min<std::uint64_t>(
      request.buffer_bytes, std::clamp(free_bytes / 64, kStockRingBytes, kDefaultRingBytes));
  if (request.buffer_bytes == kStockRingBytes) {
    bytes = std::max(bytes, std::min({kFewSlots * packet, kFewBytes, free_bytes / kShare}));
  }
  frames_->create(socket, packet, bytes);
}

bool TwoRings::has_made_frames() {
  if (frames_ == nullptr) return false;
  // Fewer blocks would all be in use too soon: one is being read, one is being filled, and one
  // makes the socket readable (pair.h).
  constexpr std::uint32_t kMinBlocks = 4;
  const std::uint32_t blocks = port_.ring().geometry().block_count;
  if (blocks < kMinBlocks) {
    port_.debug().line("%s: no ring of frames, as there are %u blocks only", port_.device(),
                       blocks);
  } else if (frames_->wait_until_made() && attach_drop_all(frames_->socket())) {
    port_.debug().line("%s: TPACKET_V2 ring, %u frames of %u KiB", port_.device(),
                       frames_->frame_count(), frames_->frame_bytes() / 1024);
    port_.summarize_frames(true);
    return true;
  } else {
    port_.debug().line("%s: no ring of frames: %s", port_.device(), std::strerror(errno));
  }
  drop_frames();
  return false;
}

bool TwoRings::open(int socket, WaitSet& wait, ErrorText& error) {
  merged_.merge().set_one_interface();
  if (!merged_.add(kBlocks, port_, port_.position()) ||
      !merged_.add(kFrames, port_, frames_->position())) {
    return error.set("no memory to merge two rings in");
  }
  if (!wait.add(0, socket) || !wait.add(0, frames_->socket())) {
    return error.set("can't wait for %s: %s", port_.device(), std::strerror(errno));
  }
  // Where the gate takes all slots, the socket is reported as readable, as if they were full.
  WaitSet::Events none;
  if (!wait.collect(0, none)) return false;
  wait_ = &wait;
  socket_ = socket;
  port_.summarize_late(true);
  return true;
}

SlotRing* TwoRings::part_with_frames() {
  SlotRing* const frames = std::exchange(frames_, nullptr);
  if (frames != nullptr) frames->close();
  return frames;
}

void TwoRings::drop_frames() {
  if (frames_ == nullptr) return;
  if (frames_->used()) {
    port_.host().count(port_.handle());  // adds its socket's last counts
  } else {
    port_.summarize_frames(false);
    port_.summarize_late(false);
  }
  port_.hold_old_filter(false);
  pair_.stop_waking(port_.ring());
  // A signal handler that asks for statistics meanwhile finds the ring whole, or not at all.
  SlotRing* const frames = std::exchange(frames_, nullptr);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  delete frames;
}

/// Gives up the slots, which the reader has read to their end, or never will.
void TwoRings::leave_frames() {
  // A forked process must not change the wait set, which the other process waits on, too.
  if (!pair_.is_others()) wait_->remove(frames_->socket());
  merged_.remove(kFrames);
  drop_frames();
}

// ---- Joining and giving up ----

bool TwoRings::begin_read() {
  const bool both = pair_.reads_both();
  if (frames_ == nullptr || pair_.is_joined()) return both;
  if (pair_.is_ending() || !join(socket_)) leave_frames();
  if (!both && !pair_.is_others()) wait_->remove(socket_);
  return both;
}

/// Joins the ring of slots and the ring of `socket`, if it is time to try. Returns false if that is
/// impossible.
bool TwoRings::join(int socket) {
  constexpr std::uint64_t kAgainNs = 100 * kNsPerMs;
  const std::uint64_t now_ns = monotonic_ns();
  if (now_ns < joining_ns_) return true;
  port_.begin_read();  // this may change the filter
  Pair::Counts counts;
  const Plan& plan = port_.plan();
  const Pair::Joining joining =
      copy_stamps(socket, frames_->socket())
          ? pair_.join(socket, *frames_, port_.position(),
                       plan.ifindex > 0 && plan.ifindex == plan.lo_ifindex, counts)
          : Pair::Joining::kFailed;
  if (joining == Pair::Joining::kFailed) {
    port_.debug().line("%s: no packets by the ring of frames: %s", port_.device(),
                       std::strerror(errno));
    return false;
  }
  joining_ns_ = now_ns + kAgainNs;
  if (joining == Pair::Joining::kDone) {
    port_.host().add_counts(port_.handle(), counts.packets, counts.drops);
  }
  return true;
}

void TwoRings::use_blocks_only(bool reads) {
  // In a forked process, end() would change the sockets that another process shares and has read.
  if (!pair_.ask_to_end() || pair_.is_others()) return;
  // The socket that the program waits on from now on does not report packets in slots.
  const bool wakes = !reads || (frames_ != nullptr && frames_->has_packets());
  pair_.end(socket_, port_.ring(), wakes);
}

// ---- Reading ----

Ready TwoRings::ready(bool draining) {
  for (;;) {
    release_direct();
    if (direct_ == nullptr && merged_.merge().done()) {
      release_spent();
      if (!find_direct(draining)) look();
    }
    if (direct_ == nullptr) return merged_.state();
    if (direct_->cursor().corrupt()) return Ready::kCorrupt;
    // The whole block may have been read while the kernel was filling it.
    if (!direct_->cursor().done()) return Ready::kPackets;
  }
}

/// Takes packets from slots, and finds a block that can be read without the merge: the oldest of
/// one ring, when the other has nothing. Returns false if the merge is needed.
bool TwoRings::find_direct(bool draining) {
  RingPosition& blocks = port_.position();
  const Merge& merge = merged_.merge();
  // This must be asked before the slots are: a packet that comes in a slot afterwards is newer than
  // those in the block.
  const bool has_block = blocks.has(0);
  if (frames_ != nullptr) {
    take_frames(monotonic_ns());
    clear_pressure();
    if (settled_ && merge.is_closed(kFrames) && !frames_->has_packets()) leave_frames();
  }
  if (draining || !merge.is_closed(kBlocks)) return false;
  if (frames_ != nullptr && !merge.is_closed(kFrames)) return false;
  if (frames_ == nullptr || !frames_->position().has(0)) {
    if (!has_block) return false;
    direct_ = &blocks;
  } else {
    if (has_block || blocks.has(0) || blocks.kernel_has_packets()) return false;
    direct_ = &frames_->position();
  }
  merged_.merge().bypassed(direct_ == &blocks ? kBlocks : kFrames);
  return direct_->open();
}

/// Has the merge open what has come to both rings. Whatever is open has all that came before it in
/// one of three places when this returns: it is open, too, or it is counted by a block that is not,
/// or tell_of_rest() has told of it (slot_ring.cc). Therefore the slots are looked at after blocks
/// were opened; and what comes to a block after that is newer than what has come in slots.
void TwoRings::look() {
  Merge& merge = merged_.merge();
  merge.open(kBlocks);
  if (frames_ != nullptr) {
    take_frames(monotonic_ns());
    merge.open(kFrames);
  }
  merge.settle(realtime_ns());
}

int TwoRings::deliver(Delivery& delivery, int max, pcap_handler callback, u_char* user) {
  if (direct_ == nullptr) return merged_.deliver(delivery, max, callback, user);
  if (direct_ != &port_.position()) return delivery.run(direct_->cursor(), max, callback, user);
  return dump_.deliver(delivery, port_.plan(), *direct_, max, callback, user);
}

void TwoRings::release_spent() {
  hold_old_filter();
  merged_.release_spent();
}

void TwoRings::release_direct() {
  if (direct_ == nullptr || !direct_->cursor().done()) return;
  hold_old_filter();
  RingPosition* const position = std::exchange(direct_, nullptr);
  if (position == &port_.position()) {
    port_.release_block();
  } else {
    position->close();
  }
}

const char* TwoRings::drop_corrupt() {
  if (direct_ == nullptr) return merged_.drop_corrupt();
  const char* const text = port_.count_corrupt(direct_->cursor(), direct_->index());
  direct_->cursor() = PacketCursor();
  release_direct();
  return text;
}

/// Holds the old filter for packets in slots, which can be older than the kernel's new filter, as
/// those in blocks can.
void TwoRings::hold_old_filter() {
  port_.hold_old_filter(frames_ != nullptr && frames_->has_packets());
}

bool TwoRings::has_more() const {
  if (!merged_.merge().done() || merged_.merge().holds()) return true;
  return has_more(port_.position()) ||
         (frames_ != nullptr && (has_more(frames_->position()) || frames_->has_frame()));
}

bool TwoRings::has_more(const RingPosition& position) const {
  if (direct_ != &position) return position.has(0);
  return !position.cursor().done() || position.has(1);
}

bool TwoRings::leave_packets() {
  release_spent();
  release_direct();
  const SlotRing* const frames = frames_;
  // This must be asked before whether it has packets: once it is true, no more come.
  const bool frames_ended = frames != nullptr && pair_.is_ended();
  // The rest of a block can be acquired, but only if the merge has no part in that block.
  const bool left = (direct_ != nullptr && direct_ != &port_.position()) || !merged_.is_closed() ||
                    (frames != nullptr && frames->has_packets());
  if (left) return false;
  direct_ = nullptr;
  // This also releases the block that was kept to make the socket readable (pair.h), which the
  // kernel can't pass.
  if (frames_ended) leave_frames();
  return true;
}

void TwoRings::set_end() {
  if (frames_ != nullptr) frames_->set_end();
  merged_.merge().set_draining(true);
}

void TwoRings::clear_end() {
  if (frames_ != nullptr) frames_->clear_end();
  merged_.merge().set_draining(false);
}

void TwoRings::clear_error() {
  int error;
  socklen_t length = sizeof(error);
  if (frames_ != nullptr) {
    (void)getsockopt(frames_->socket(), SOL_SOCKET, SO_ERROR, &error, &length);
  }
}

// ---- Switching modes ----

void TwoRings::take_frames(std::uint64_t now_ns) {
  const unsigned came = frames_->take();
  Counters& counters = port_.counters();
  counters.frames += came;
  if (settled_ || !pair_.is_joined()) return;
  if (pair_.is_ending()) {
    if (!pair_.is_ended()) return;  // the thread that requested it is still at it
    settled_ = true;
    port_.debug().line("%s: no more packets by the ring of frames", port_.device());
    return;
  }
  const bool busy = mode_.busy();
  if (busy && port_.position().has(0)) return;  // the reader lags behind: the clock says nothing
  const std::uint64_t many =
      came / std::min<std::uint64_t>(ModeSwitch::kMany,
                                     frames_->frame_count() - frames_->frame_count() / 4);
  std::uint64_t packets = came;
  if (busy) {
    // (Many packets may be left in slots from before.)
    packets += port_.packets_in_blocks() - std::exchange(packets_known_, port_.packets_in_blocks());
  }
  if (!mode_.count(packets, many, now_ns)) {
    if (busy && !bypassed_) consider_blocks_only(now_ns);
    return;
  }
  ++counters.switches;
  packets_known_ = port_.packets_in_blocks();
  if (mode_.busy()) {
    frames_->close_gate();
    busy_since_ns_ = now_ns;
    busy_since_block_ = counters.blocks;
  } else {
    frames_->open_gate();
    if (bypassed_) (void)choose_frames(frames_->socket());
    bypassed_ = false;
  }
}

/// Finding the ring of slots full costs the kernel some 0.2 us a packet, and leaves a quarter of
/// the ring of blocks unused. When this goes on, the kernel is told to try that ring no more.
/// Nothing is read meanwhile: except the first time, the call takes the kernel 8 to 20 ms at 250 Hz
/// (af_packet.c: __fanout_set_data_bpf waits for RCU to free the previous program), and so does the
/// way back.
void TwoRings::consider_blocks_only(std::uint64_t now_ns) {
  constexpr std::uint64_t kAfterNs = 1000 * kNsPerMs;
  constexpr std::uint64_t kMaxRings = 20;  // rings filled in that time: one lasts 50 ms at least
  if (now_ns - busy_since_ns_ < kAfterNs) return;
  const std::uint64_t blocks = port_.counters().blocks;
  bypassed_ = blocks - busy_since_block_ <= kMaxRings * port_.position().block_count() &&
              choose_blocks(frames_->socket());
  // From here on the kernel tries the slots when the blocks are full.
  if (bypassed_) {
    frames_->open_gate();
    look_at(frames_->socket());
  }
  busy_since_ns_ = now_ns;
  busy_since_block_ = blocks;
}

std::uint64_t TwoRings::left_ns(std::uint64_t now_ns) const {
  const bool returns = frames_ != nullptr && !settled_ && mode_.busy();
  return returns ? mode_.left_ns(now_ns) : ~std::uint64_t{0};
}

/// Clears the kernel's pressure flag when there is room for blocks again. The kernel sets it when
/// less than a quarter of the ring is free, and then passes on nothing from the ring of slots until
/// poll(2) finds that there is more (af_packet.c: fanout_demux_rollover,
/// packet_rcv_try_clear_pressure).
void TwoRings::clear_pressure() {
  const bool half_full = port_.position().has(port_.position().block_count() / 2);
  if (!half_full && !pressed_) return;
  pressed_ = half_full;
  look_at(socket_);
  if (bypassed_) look_at(frames_->socket());
}

}  // namespace pcapv3
