// SPDX-License-Identifier: BSD-3-Clause
// PortBlocks: what a port needs, beyond reading packets, so that the program can acquire its
// blocks.
//
// It makes the pool of blocks when the first one is asked for, and keeps a copy of the handle's
// filter for them. How a block is walked and released is left to acquired_block.h and pool.h.
#pragma once

#include "delivery.h"
#include "ring.h"

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

  /// Must be called when the blocks' ring has moved to `ring`.
  void keep_in(const Ring& ring);
  /// Must be called when the handle gets another filter, which blocks acquired from then on use.
  void drop_filter();
  /// Must be called when the port is closed or gets another ring: keeps `ring` as long as blocks of
  /// it are outstanding. Does nothing, and leaves the ring, if none was ever acquired.
  void close(Ring&& ring);

 private:
  bool copy_filter(pcapv3_port& port, Plan& plan);

  BlockPool* pool_ = nullptr;   // null: no block was asked for yet
  Program* program_ = nullptr;  // the handle's filter; null: not copied yet
};

}  // namespace pcapv3
