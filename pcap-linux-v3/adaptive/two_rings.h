// SPDX-License-Identifier: BSD-3-Clause
// TwoRings: the feed of one port in immediate mode, which reads a ring of slots and the ring of
// blocks as one.
//
// Packets are nearly always in only one of the two; then its block is read directly, as if there
// were no other. When both have some, a merge of the two (merged.h) puts them in order.
// mode_switch.h decides when each ring is used, and pair.h how the two sockets share the packets.
//
// When the program asks for the port's socket, or for blocks, the ring of slots is given up: at
// once if nothing was read yet, and otherwise when it has been read to its end.
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

  /// Begins to make the ring of slots on `socket`, which this object owns from then on.
  void begin(int socket, const pcapv3_slots_request& request);
  /// Waits for that, and returns whether there is a ring of slots. If not, the debug log says why.
  bool has_made_frames();
  /// Reads both from now on, and waits for them by `wait`. `socket` is the port's own, and the
  /// port's ring must be made. Returns false, with a text in `error`, on failure.
  bool open(int socket, WaitSet& wait, ErrorText& error);
  /// Returns the socket of the ring of slots, or -1 if there is none, or none any more.
  int frames_socket() const { return frames_ != nullptr ? frames_->socket() : -1; }
  /// Passes the ring of slots, closed or nearly, to the caller.
  SlotRing* part_with_frames();
  Pair& pair() { return pair_; }
  const Pair& pair() const { return pair_; }
  Merged& merged() { return merged_; }

  // ---- Reading ----

  /// Must be called before each read. Returns false if the port must be read as a Single from now
  /// on, because the program has its socket and no packet ever came in a slot. The first read joins
  /// the two rings.
  bool begin_read();
  Ready ready(bool draining);
  int deliver(Delivery& delivery, int max, pcap_handler callback, u_char* user);
  void release_spent();
  /// Releases the block that is read directly, if it has been read to its end.
  void release_direct();
  const char* drop_corrupt();
  /// Returns the packets of the block that is read directly, or null if there are none.
  PacketCursor* open_packets() const {
    return direct_ != nullptr && direct_->cursor().has_packet() ? &direct_->cursor() : nullptr;
  }
  /// Returns whether all packets that were found have been delivered.
  bool is_drained() const { return open_packets() == nullptr && merged_.merge().done(); }
  /// Returns whether there may be packets that no event will report.
  bool has_more() const;
  /// Returns how long it takes, in nanoseconds of CLOCK_MONOTONIC, until time alone switches from
  /// one ring to the other; ~0: never.
  std::uint64_t left_ns(std::uint64_t now_ns) const;
  /// Stops reading packets in favour of blocks. Returns false if some have come in slots, or are
  /// held for their order.
  bool leave_packets();

  /// For a drain: limits what is delivered from slots to what they hold now, until clear_end().
  void set_end();
  void clear_end();

  /// Clears the pending error of the slots' socket, which else would be in every packet's event.
  void clear_error();

  // ---- By any thread ----

  /// Returns whether the program waits on the port's socket, because no packet ever came in a slot,
  /// or none will any more.
  bool is_alone() const { return pair_.is_alone() || (pair_.is_ending() && frames_ == nullptr); }
  /// Uses blocks only from now on; see module.h. `reads`: the caller is the thread that reads.
  void use_blocks_only(bool reads);

 private:
  /// The rings' numbers in the merge.
  static constexpr unsigned kBlocks = 0;
  static constexpr unsigned kFrames = 1;

  bool join(int socket);
  bool has_more(const RingPosition& position) const;
  bool find_direct(bool draining);
  void look();
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
  RingPosition* direct_ = nullptr;  // its block is read directly, without the merge
  DumpAhead dump_;
  WaitSet* wait_ = nullptr;
  int socket_ = -1;  // the port's

  ModeSwitch mode_{kernel_is_at_least(6, 18)};
  std::uint64_t packets_known_ = 0;  // packets in blocks that mode_ has counted
  std::uint64_t busy_since_ns_ = 0;
  std::uint64_t busy_since_block_ = 0;  // the blocks read by then
  bool bypassed_ = false;               // the kernel does not try the ring of slots
  bool settled_ = false;                // no more packets come in slots
  bool pressed_ = false;                // the ring of blocks was half full
  std::uint64_t joining_ns_ = 0;        // the time of the next try to join, by CLOCK_MONOTONIC
};

}  // namespace pcapv3
