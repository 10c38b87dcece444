// SPDX-License-Identifier: BSD-3-Clause
// Several ports' packets as one stream in time order.
//
// The kernel hands over blocks port by port, each when it is full or its retire timeout has passed,
// so that what comes first is not what happened first. Two questions are answered here: which
// packet is next, and whether an older one can still come.
//
// Which is next. A run is a part of a block whose packets lie in time order. Nearly always that
// is the whole block; where several CPUs fill one ring, neighbours can be out of order by a little,
// and the block falls into more of them. All runs of all open blocks are in a heap, the one
// with the oldest packet on top. From there it is walked for as long as it is older than the next
// best, so that a block which lies wholly before all others costs what it costs on a single port.
// The scan for runs goes ahead of the walk only as far as neighbours can be out of order, so
// that what it brought into the cache is still there when it is walked. It would wait for memory at
// each packet; so the walk, which has other things to do, tells the cache what it will come to.
//
// What can still come. A port's watermark is the time before which no packet can come from it any
// more. The oldest of these, over all ports, is the merge's: packets go up to it. The watermark of
// a port whose blocks have all been opened is read from the header of the block that the kernel is
// filling (af_packet.c: prb_open_block, prb_fill_curr_block), which can be seen at any time:
//
//   - it counts no packets: the watermark is now;
//   - it does: the watermark is when the block was opened, and what is in it comes within two
//     retire timeouts. After a window of time nothing waits for it any longer: that is the
//     deadline.
//
// A stamp is a little older than the packet's place in the ring; kDisorderNs is taken off for that.
// What comes later still is passed on at once and counted as late.
//
// Stamps and the time are the system's clock, which can be set. Set forward, it makes nothing wait
// longer. When it is found to have been set back, what is held goes, and all is learned anew; and a
// packet from the future, further ahead than a window, is not waited for.
//
// Looking for the runs is also what checks a block, so that the walk after it need not.
//
// Owns the order, not the packets: blocks are released by the feed (merged.h). Memory is
// allocated when a port is added, and when a block has more runs than any before.
#pragma once

#include <algorithm>
#include <cstdint>

#include "block.h"
#include "counters.h"
#include "filter.h"
#include "ring_position.h"

namespace pcapv3 {

class Merge {
 public:
  static constexpr unsigned kMaxPorts = 64;
  /// How much older a packet's stamp can be than one that is before it in the ring, in nanoseconds.
  static constexpr std::uint64_t kDisorderNs = 1'000'000;

  Merge() = default;
  ~Merge();
  Merge(const Merge&) = delete;
  Merge& operator=(const Merge&) = delete;

  /// The longest that a packet waits for those of other ports, in nanoseconds.
  void set_window(std::uint64_t window_ns) { window_ns_ = window_ns; }
  /// All packets come by one interface: what is in one ring's place before what is in the other's
  /// has been stamped before it, as it would have been in a ring for both. What is seen to be still
  /// to come is waited for, because it always comes soon.
  void set_one_interface() { one_interface_ = true; }

  /// Takes in the port with the number `port`, below kMaxPorts. What is given with it must live as
  /// long as packets are taken: its filter, and the counters, which get its late packets. False if
  /// memory is short.
  bool add(unsigned port, RingPosition& position, Counters& counters, const UserlandFilter& filter);
  /// Takes a port out. Before the first look(), or after the last packet.
  void remove(unsigned port);

  /// Opens what blocks the kernel has handed over, a few of each port at most, and finds the
  /// watermark. `now_ns` is CLOCK_REALTIME, as it was before this call.
  void look(std::uint64_t now_ns);
  /// While it drains, the positions show no more than what they had when that began
  /// (ring_position.h: set_end): a port is complete when all of that is open, whatever the time is.
  void set_draining(bool draining) {
    draining_ = draining;
    for (Input& input : inputs_) input.watermark = 0;
    watermark_ = 0;
    commit_top();
    find_limit();
    find_top();
  }

  /// Whether nothing may go now.
  bool done() const { return !has_packet() && !corrupt_; }
  /// Whether a packet is next that may go: walked past by a LocalCursor.
  bool has_packet() const { return !front_.done(); }
  /// What is next is corrupt: drop_corrupt() goes on behind it.
  bool corrupt() const { return corrupt_; }

  /// A cursor, as those in block.h, over all packets that may go. It is a copy of the merge's own
  /// place that can stay in registers: to be commit() before anybody else looks at the merge.
  class LocalCursor {
   public:
    explicit LocalCursor(Merge& merge) : merge_(merge) { take(); }

    bool has_packet() const { return !front_.done(); }
    /// The oldest packet. Only when has_packet().
    PacketView packet() const { return front_.packet(); }
    /// Of its port.
    Counters& counters() const { return *counters_; }
    const UserlandFilter& filter() const { return *filter_; }
    void next() {
      const Stamp walked = stamp_;
      ahead_ += front_.next();
      fetch_header(ahead_);
      if (!front_.done()) {
        stamp_ = front_.packet().stamp();
        if (stamp_ < rival_) [[likely]] {
          merge_.passed_ = walked;
          return;
        }
      }
      commit();
      merge_.change_top(walked);
      take();
    }
    void commit() const {
      merge_.front_ = front_;
      merge_.stamp_ = stamp_;
    }
    /// Whether the merge's place is still where it was put back.
    bool is_there() const { return merge_.front_.is_at(front_); }

   private:
    void take() {
      front_ = merge_.front_;
      stamp_ = merge_.stamp_;
      rival_ = merge_.rival_;
      ahead_ = merge_.ahead_;
      counters_ = merge_.counters_;
      filter_ = merge_.filter_;
    }

    Merge& merge_;
    Run front_;
    Stamp stamp_;
    Stamp rival_;
    const std::uint8_t* ahead_;
    Counters* counters_;
    const UserlandFilter* filter_;
  };

  /// Where the corrupt packet is, and of which port; what is left of its block is lost.
  struct Corruption {
    unsigned port;
    unsigned ahead;       ///< The block, as RingPosition counts from the oldest one.
    PacketCursor cursor;  ///< At the packet.
  };
  Corruption drop_corrupt();

  /// Whether the port's oldest block has been walked to its end, and is to be given back.
  bool is_spent(unsigned port) const {
    return inputs_[port].open > 0 && inputs_[port].runs[0] == 0;
  }
  /// It has been given back: the position has stepped on.
  void gave_back(unsigned port);

  /// Whoever reads has taken a block that is not open here: what is known of the next is no more.
  void skipped(unsigned port) { inputs_[port].next_sequence = 0; }
  /// Whoever reads is about to read the next block itself, in its turn: all before it is past, and
  /// nothing open.
  void bypassed(unsigned port, const tpacket_hdr_v1& header);

  /// Whether packets are held that may not go yet.
  bool holds() const { return size_ != 0; }
  /// When the oldest of them may go at the latest, as far as time alone decides; in nanoseconds of
  /// CLOCK_REALTIME.
  std::uint64_t deadline_ns() const;
  /// Whether a port has nothing left, neither here nor in the block that the kernel is filling.
  bool is_empty(unsigned port) const { return is_closed(port) && inputs_[port].empty; }
  /// Whether it has no block open.
  bool is_closed(unsigned port) const { return inputs_[port].open == 0; }

 private:
  static constexpr unsigned kOpenBlocks = 8;
  static constexpr unsigned kNoPart = ~0u;

  /// A port.
  struct Input {
    RingPosition* position = nullptr;
    Counters* counters = nullptr;
    const UserlandFilter* filter = nullptr;
    unsigned open = 0;                  ///< Blocks opened and not yet given back.
    unsigned runs[kOpenBlocks] = {};    ///< Not walked to the end, in each of them; what is not
                                        ///< scanned yet is one.
    Stamp newest[kOpenBlocks] = {};     ///< The youngest stamp that is known, in each of them.
    PacketCursor corrupt[kOpenBlocks];  ///< At the corrupt packet of those that have one.
    std::uint64_t next_sequence = 0;    ///< The kernel's number of the next block; 0: any.
    Stamp watermark = 0;
    unsigned given_back = 0;  ///< Blocks, ever: tells which run is of which.
    bool empty = false;       ///< As of the last look.

    // The scan, which looks for runs some way ahead of the walk.
    unsigned scanned = 0;        ///< Open blocks that have been scanned to the end.
    PacketCursor scan;           ///< In the one after these, if there is one.
    unsigned growing = kNoPart;  ///< The run that ends where the scan is.
    Stamp last = 0;              ///< The stamp before the scan's place.
    Stamp reached = 0;           ///< The youngest that it has come across.
  };
  /// A run with its place: of which block of which port.
  struct Part {
    Run packets;  ///< None: what is next in the block is corrupt.
    unsigned port = 0;
    unsigned block = 0;  ///< Counted as Input::given_back counts.
    unsigned next_free = 0;
  };
  /// A part's place in the heap.
  struct Head {
    Stamp stamp;          ///< Of its first packet.
    std::uint32_t order;  ///< Of coming, for those of the same stamp.
    std::uint32_t part;
  };

  static bool before(const Head& a, const Head& b) {
    return a.stamp != b.stamp ? a.stamp < b.stamp
                              : static_cast<std::int32_t>(a.order - b.order) < 0;
  }
  /// Of packets of different ports.
  std::uint64_t disorder_ns() const { return one_interface_ ? 0 : kDisorderNs; }
  Stamp oldest() const { return walking_ ? stamp_ : heap_[0].stamp; }
  bool reserve(unsigned parts) { return parts <= capacity_ || reserve_more(parts); }
  bool reserve_more(unsigned parts);
  void push(unsigned port, unsigned block, Run packets, Stamp stamp);
  void sift_up(unsigned at);
  void sift_down();
  void change_top(Stamp walked);
  void commit_top();
  void pop_top();
  void find_top();
  void find_limit();
  void open_block(Input& input);
  void scan();
  bool scan(unsigned port);
  void scan_run(unsigned port);
  void find_watermark(Input& input, std::uint64_t now_ns);

  std::uint64_t window_ns_ = 25'000'000;
  bool one_interface_ = false;
  Input inputs_[kMaxPorts];
  unsigned ports_ = 0;  // one more than the highest port's number
  Head* heap_ = nullptr;
  Part* parts_ = nullptr;
  unsigned size_ = 0;      // heads in the heap
  unsigned capacity_ = 0;  // of both arrays
  unsigned free_ = 0;      // the first unused part; capacity_: none
  std::uint32_t order_ = 0;
  Stamp watermark_ = 0;  // over all ports
  bool draining_ = false;
  Stamp now_ = 0;               // as of the last look
  Stamp horizon_ = 0;           // a window after that: packets stamped later are from the future
  Stamp passed_ = 0;            // the youngest walked past
  Stamp limit_ = 0;             // no packet stamped later may go
  Stamp scanned_ = kEndOfTime;  // what is not scanned yet is not older

  // What the heap's top comes to. What is in the heap itself is only as it was when it came there.
  Run front_;  // its packets; none if they may not go
  Stamp stamp_ = 0;
  Stamp rival_ = 0;  // from when on it may not be the oldest any more, or may not go
  const std::uint8_t* ahead_ = nullptr;  // what the scan will come to when as much was walked
  Counters* counters_ = nullptr;
  const UserlandFilter* filter_ = nullptr;
  bool walking_ = false;
  bool corrupt_ = false;
};

}  // namespace pcapv3
