// SPDX-License-Identifier: BSD-3-Clause
// Merges several ports' packets into one stream in time order.
//
// The kernel hands over blocks port by port, each when it is full or its retire timeout has passed,
// so what arrives first is not what happened first. The merge answers two questions: which packet
// is next, and whether an older one can still come.
//
// Which is next. A run is a part of a block whose packets lie in time order. Nearly always that is
// the whole block; where several CPUs fill one ring, neighbours can be slightly out of order, and
// the block splits into several runs. All runs of all open blocks are in a heap, with the oldest
// packet's run on top. The walk follows that run for as long as it is older than the next best, so
// that a block which lies wholly before all others costs what it costs on a single port. The scan
// for runs goes ahead of the walk only as far as neighbours can be out of order, so that what it
// brought into the cache is still there when it is walked. The scan would wait for memory at each
// packet, so the walk, which has other work to do, prefetches what the scan will come to.
//
// What can still come. A port's watermark is the time before which no packet can come from it any
// more. The oldest of these, over all ports, is the merge's watermark: packets up to it may go. For
// a port whose blocks have all been opened, the watermark is read from the header of the block that
// the kernel is filling (af_packet.c: prb_open_block, prb_fill_curr_block), which can be read at
// any time:
//
//   - it counts no packets: the watermark is now;
//   - it does: the watermark is when the block was opened, and what is in it comes within two
//     retire timeouts. After a window of time nothing waits for it any longer: that is the
//     deadline.
//
// A stamp is a little older than the packet's place in the ring; kDisorderNs is subtracted for
// that. A packet that comes later still is delivered at once and counted as late.
//
// Two rings of one interface, in immediate mode, are merged by more than times, because what comes
// first was also stamped first, whichever ring it came to. A ring's watermark is now if it was
// empty when all that is open had come; otherwise it is the newest stamp known of that ring. When a
// block was opened says nothing about it: a packet can be stamped, and wait in a CPU's backlog,
// long before the block that it comes to is opened (dev.c: netif_rx_internal, process_backlog). For
// the same reason a watermark holds for one look only.
//
// Stamps and the current time come from the system clock, which can be set. If it is set forward,
// nothing waits longer. When it is found to have been set back, the packets that are held are
// delivered and everything is learned anew. The merge does not wait for a packet from the future,
// which is one stamped more than a window ahead.
//
// The scan for runs also checks the block, so that the walk after it need not.
//
// The merge owns the order, not the packets: the feed releases the blocks (merged.h). Memory is
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
  /// How much older a packet's stamp can be than that of the packet before it in the ring, in
  /// nanoseconds.
  static constexpr std::uint64_t kDisorderNs = 1'000'000;

  Merge() = default;
  ~Merge();
  Merge(const Merge&) = delete;
  Merge& operator=(const Merge&) = delete;

  /// Sets the longest time that a packet waits for those of other ports, in nanoseconds.
  void set_window(std::uint64_t window_ns) { window_ns_ = window_ns; }
  /// All packets come from one interface: a packet that comes to one ring before another comes to
  /// the other ring was also stamped before it. The merge then waits for every packet that it sees
  /// is still to come, because it always comes soon.
  void set_one_interface() { one_interface_ = true; }

  /// Adds the port with the number `port`, which must be below kMaxPorts. The arguments must
  /// outlive the reading of its packets: its filter, and the counters, in which its late packets
  /// are counted. Returns false if memory is short.
  bool add(unsigned port, RingPosition& position, Counters& counters, const UserlandFilter& filter);
  /// Removes a port. Must be called before the first look(), or after the port's last packet.
  void remove(unsigned port);

  /// Opens the blocks that the kernel has handed over, a few of each port at most, and finds the
  /// watermark. `now_ns` must be CLOCK_REALTIME read before this call.
  void look(std::uint64_t now_ns) {
    for (unsigned port = 0; port < ports_; ++port) open(port);
    settle(now_ns);
  }
  /// The two parts of look(), for rings of one interface, which must be opened in the order that
  /// two_rings.cc explains.
  void open(unsigned port);
  void settle(std::uint64_t now_ns);
  /// While it drains, the positions show no more than they had when that began (ring_position.h:
  /// set_end): a port is complete when all of that is open, whatever the time is.
  void set_draining(bool draining) {
    draining_ = draining;
    for (Input& input : inputs_) input.watermark = 0;
    watermark_ = 0;
    commit_top();
    find_limit();
    find_top();
  }

  /// Returns whether nothing may go now.
  bool done() const { return !has_packet() && !corrupt_; }
  /// Returns whether a packet that may go is next; a LocalCursor walks past it.
  bool has_packet() const { return !front_.done(); }
  /// Returns whether what is next is corrupt: drop_corrupt() continues behind it.
  bool corrupt() const { return corrupt_; }

  /// A cursor, like those in block.h, over all packets that may go. It copies the merge's own place
  /// so that it can stay in registers: commit() must be called before anything else looks at the
  /// merge.
  class LocalCursor {
   public:
    explicit LocalCursor(Merge& merge) : merge_(merge) { take(); }

    bool has_packet() const { return !front_.done(); }
    /// The oldest packet. Only when has_packet().
    PacketView packet() const { return front_.packet(); }
    /// Its port's counters and filter.
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
    /// Returns whether the merge's place is still where commit() put it.
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

  /// Where the corrupt packet is, and in which port; the rest of its block is lost.
  struct Corruption {
    unsigned port;
    unsigned ahead;       ///< The block, as RingPosition counts from the oldest one.
    PacketCursor cursor;  ///< At the packet.
  };
  Corruption drop_corrupt();

  /// Returns whether the port's oldest block has been walked to its end and must be released.
  bool is_spent(unsigned port) const {
    return inputs_[port].open > 0 && inputs_[port].runs[0] == 0;
  }
  /// Must be called when that block has been released and the position has stepped on.
  void gave_back(unsigned port);

  /// Must be called when the reader has taken a block that is not open here: the number of the next
  /// is then unknown.
  void skipped(unsigned port) { inputs_[port].next_sequence = 0; }
  /// Must be called when the reader is about to read the next block directly, in its turn:
  /// everything before it has been delivered, and no block is open.
  void bypassed(unsigned port);

  /// Returns whether packets are held that may not go yet.
  bool holds() const { return size_ != 0; }
  /// Returns when the oldest of them may go at the latest, as far as time alone decides, in
  /// nanoseconds of CLOCK_REALTIME.
  std::uint64_t deadline_ns() const;
  /// Returns whether a port has nothing left, neither here nor in the block that the kernel is
  /// filling.
  bool is_empty(unsigned port) const { return is_closed(port) && inputs_[port].empty; }
  /// Returns whether a port has no block open.
  bool is_closed(unsigned port) const { return inputs_[port].open == 0; }

 private:
  static constexpr unsigned kOpenBlocks = 8;
  static constexpr unsigned kNoPart = ~0u;

  /// A port.
  struct Input {
    RingPosition* position = nullptr;
    Counters* counters = nullptr;
    const UserlandFilter* filter = nullptr;
    unsigned open = 0;                  ///< Blocks opened and not yet released.
    unsigned runs[kOpenBlocks] = {};    ///< Runs in each of them not walked to the end; what is not
                                        ///< scanned yet counts as one.
    Stamp newest[kOpenBlocks] = {};     ///< The newest stamp known in each of them.
    PacketCursor corrupt[kOpenBlocks];  ///< At the corrupt packet of each that has one.
    std::uint64_t next_sequence = 0;    ///< The kernel's number of the next block; 0: any.
    Stamp watermark = 0;
    Stamp gone = 0;           ///< The newest stamp known in blocks that are not open any more.
    unsigned given_back = 0;  ///< Blocks released ever: tells which block a run is in.
    bool empty = false;       ///< As of the last look.

    // The scan, which looks for runs some way ahead of the walk.
    unsigned scanned = 0;        ///< Open blocks that have been scanned to the end.
    PacketCursor scan;           ///< In the block after these, if there is one.
    unsigned growing = kNoPart;  ///< The run that ends where the scan is.
    Stamp last = 0;              ///< The stamp before the scan's place.
    Stamp reached = 0;           ///< The newest stamp that it has come across.
  };
  /// A run with its place: its block and its port.
  struct Part {
    Run packets;  ///< Empty: what is next in the block is corrupt.
    unsigned port = 0;
    unsigned block = 0;  ///< Counted as Input::given_back counts.
    unsigned next_free = 0;
  };
  /// A part's place in the heap.
  struct Head {
    Stamp stamp;          ///< Of its first packet.
    std::uint32_t order;  ///< Of arrival, for those with the same stamp.
    std::uint32_t part;
  };

  static bool before(const Head& a, const Head& b) {
    return a.stamp != b.stamp ? a.stamp < b.stamp
                              : static_cast<std::int32_t>(a.order - b.order) < 0;
  }
  /// Returns the disorder to allow for between packets of different ports.
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
  static Stamp newest(const Input& input);

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
  Stamp passed_ = 0;            // the newest stamp walked past
  Stamp limit_ = 0;             // no packet stamped later may go
  Stamp scanned_ = kEndOfTime;  // nothing that is not scanned yet is older

  // The state of the heap's top. The entry in the heap itself is as it was when it got there.
  Run front_;  // its packets; empty if they may not go
  Stamp stamp_ = 0;
  Stamp rival_ = 0;  // from when on it may no longer be the oldest, or may not go
  const std::uint8_t* ahead_ = nullptr;  // what the scan will come to when that much has been
                                         // walked
  Counters* counters_ = nullptr;
  const UserlandFilter* filter_ = nullptr;
  bool walking_ = false;
  bool corrupt_ = false;
};

}  // namespace pcapv3
