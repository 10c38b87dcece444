// SPDX-License-Identifier: BSD-3-Clause
// PortBlocks: what a port needs, beyond reading packets, so that the program can acquire its
// blocks.
//
// It makes the pool of blocks when the first one is asked for, and keeps a copy of the handle's
// filter for them. How a block is walked and released is left to acquired_block.h and pool.h.
#pragma once

#include "delivery.h"
#include "ring.h"
#include "ring_position.h"

struct pcapv3_port;
struct pcap_v3_block;

namespace pcapv3 {

class BlockPool;
class Program;

class PortBlocks {
 public:
  PortBlocks() = default;
  PortBlocks(const PortBlocks&) = delete;
  PortBlocks& operator=(const PortBlocks&) = delete;

  /// Makes the pool if there is none yet. Returns false, with a text in the port's error(), if
  /// memory is short.
  bool prepare(pcapv3_port& port);
  /// Acquires the port's next block. Returns 1, or 0 if there is none, or PCAP_ERROR with a text in
  /// the port's error(). `place` is the port's place in a list of several.
  int acquire(pcapv3_port& port, unsigned place, pcap_v3_block** block);

  /// Returns whether the program holds any blocks.
  bool has_outstanding() const;
  /// Adds to `counters` what became of packets in blocks that were released.
  void collect(Counters& counters);
  /// Returns the number of packets in acquired blocks that are not in the counters yet.
  std::uint64_t uncollected() const;

  /// Must be called when the port has got another ring, and its own has moved to `old`: blocks of
  /// that one come first.
  void ring_replaced(const Ring& old);
  /// Returns whether the program holds blocks of that ring.
  bool holds_old() const;
  /// Must be called when that ring is no longer read: keeps it as long as blocks of it are
  /// outstanding. Does nothing, and leaves the ring, if none was ever acquired.
  void close_old(Ring&& old);
  /// Must be called when the handle gets another filter, which blocks acquired from then on use.
  void drop_filter();
  /// Must be called when the port is closed or its ring is thrown away: does the same for that.
  void close(Ring&& ring);

 private:
  bool copy_filter(pcapv3_port& port, Plan& plan);
  BlockPool*& pool_of(const RingPosition& position);
  unsigned outstanding() const;

  BlockPool* pool_ = nullptr;  // null: no block was asked for yet
  BlockPool* old_ = nullptr;   // of the ring before that; null: likewise
  unsigned max_outstanding_ = 0;
  Program* program_ = nullptr;  // the handle's filter; null: not copied yet
};

}  // namespace pcapv3
