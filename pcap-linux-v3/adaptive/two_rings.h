// SPDX-License-Identifier: BSD-3-Clause
// The feed of one port in immediate mode: a ring of frames beside the ring of blocks, read as one.
//
// Packets are nearly always in one of the two only; then that one's block is read directly, as if
// there were no other. When both have some, a merge of the two (merged.h) brings them in order.
// When a ring is used is mode_switch.h's, how the two sockets share the packets is pair.h's.
//
// The program can take the port's socket for itself, or blocks: then the ring of frames is given
// up, at once if nothing was read yet, and otherwise when it has been read to its end.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "adaptive/mode_switch.h"
#include "adaptive/pair.h"
#include "adaptive/slot_ring.h"
#include "delivery.h"
#include "dump_ahead.h"
#include "feed.h"
#include "merged.h"
#include "port.h"
#include "setup/error.h"
#include "setup/host.h"
#include "wait_set.h"

namespace pcapv3 {

class TwoRings {
 public:
  explicit TwoRings(pcapv3_port& port) : port_(port) {}
  ~TwoRings() { drop_frames(); }
  TwoRings(const TwoRings&) = delete;
  TwoRings& operator=(const TwoRings&) = delete;

  static void* operator new(std::size_t bytes) noexcept { return std::malloc(bytes); }
  static void operator delete(void* memory) { std::free(memory); }

  // ---- Setting up ----

  /// Begins to make the ring of frames on `socket`, which is closed here from then on, for packets
  /// of interface `interface`.
  void begin(int socket, int ifindex, bool cooked);
  /// Whether that is made. False: there is none, and the debug log says why.
  bool has_made_frames();
  /// Reads both from now on, when the port's ring is made, and waits for them by `wait`, where
  /// `socket` is the port's own. False, with a text in `error`.
  bool open(int socket, WaitSet& wait, ErrorText& error);
  /// The socket of the ring of frames; -1: there is none, or no more.
  int frames_socket() const { return frames_ != nullptr ? frames_->socket() : -1; }
  /// Leaves it to the caller, closed or nearly.
  SlotRing* part_with_frames();
  Pair& pair() { return pair_; }
  const Pair& pair() const { return pair_; }
  Merged& merged() { return merged_; }

  // ---- Reading ----

  /// To be called before each read. False: the port is to be read as a Single, from now on, because
  /// the program has its socket and there was no frame ever. The first read joins the two rings.
  bool begin_read();
  Ready ready(bool draining);
  int deliver(Delivery& delivery, int max, pcap_handler callback, u_char* user);
  void release_spent();
  /// Releases a block that is read directly, if it is read to its end.
  void release_direct();
  const char* drop_corrupt();
  /// The packets of the block that is read directly; null if there are none.
  PacketCursor* open_packets() const {
    return direct_ != nullptr && direct_->cursor().has_packet() ? &direct_->cursor() : nullptr;
  }
  /// Whether nothing that was found is left to deliver.
  bool is_drained() const { return open_packets() == nullptr && merged_.merge().done(); }
  /// Whether there may be packets that no event will report.
  bool has_more() const;
  /// How long until time alone changes over from one ring to the other, in nanoseconds of
  /// CLOCK_MONOTONIC; ~0: never.
  std::uint64_t left_ns(std::uint64_t now_ns) const;
  /// Leaves off reading packets in favour of blocks. False if some have come as frames, or are held
  /// for their order.
  bool leave_packets();

  /// For a drain: what the frames are now is delivered, and nothing that comes later.
  void set_end();
  void clear_end();

  /// Takes the error that the frames' socket has, which else each packet's event would have.
  void clear_error();

  // ---- By any thread ----

  /// Whether the port's socket is what the program waits on: there was never a frame, or there are
  /// none any more.
  bool is_alone() const { return pair_.is_alone() || (pair_.is_ending() && frames_ == nullptr); }
  /// Has all packets come as blocks from now on; see module.h. `reads`: the thread is the reader.
  void use_blocks_only(bool reads);

 private:
  /// Numbers in the merge.
  static constexpr unsigned kBlocks = 0;
  static constexpr unsigned kFrames = 1;

  bool join(int socket);
  bool has_more(const RingPosition& position) const;
  bool find_direct(bool draining);
  void take_frames(std::uint64_t now_ns);
  void consider_blocks_only(std::uint64_t now_ns);
  void clear_pressure();
  void hold_old_filter();
  void drop_frames();
  void leave_frames();

  pcapv3_port& port_;
  SlotRing* frames_ = nullptr;
  Pair pair_;
  Merged merged_;
  RingPosition* direct_ = nullptr;  // whose block is read past the merge
  DumpAhead dump_;
  WaitSet* wait_ = nullptr;
  int socket_ = -1;  // the port's

  ModeSwitch mode_{kernel_is_at_least(6, 18)};
  std::uint64_t packets_known_ = 0;  // that came in blocks, and that mode_ has been told of
  std::uint64_t busy_since_ns_ = 0;  // and the blocks read by then
  std::uint64_t busy_since_block_ = 0;
  bool bypassed_ = false;         // the kernel does not ask the ring of frames
  bool settled_ = false;          // no more frames come
  bool pressed_ = false;          // the ring of blocks was half full
  std::uint64_t joining_ns_ = 0;  // when it is time to try, by CLOCK_MONOTONIC
};

}  // namespace pcapv3
