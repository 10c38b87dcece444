// SPDX-License-Identifier: BSD-3-Clause
// Blocks of one port that the program acquires: what a port needs for that beyond reading packets.
//
// It makes the pool of blocks when the first one is asked for, and keeps a copy of the handle's
// filter for them. Walking a block and releasing it are pool.h's.
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

  /// Has what acquiring needs made, if it was not yet. False, with a text in the port's error().
  bool prepare(pcapv3_port& port);
  /// Acquires the port's next block, if there is one: 1, 0, or PCAP_ERROR with a text in the port's
  /// error(). `place` is the port's in a list of several.
  int acquire(pcapv3_port& port, unsigned place, pcap_v3_block** block);

  /// Whether the program holds one.
  bool has_outstanding() const;
  /// Adds to `counters` what became of packets in blocks that were released.
  void collect(Counters& counters);
  /// Packets in blocks that were acquired and are not in the counters yet.
  std::uint64_t uncollected() const;

  /// The handle has another filter: blocks that are acquired from now on get that.
  void drop_filter();
  /// The port goes on with another ring, or is closed: `ring` stays for as long as blocks of it are
  /// outstanding. Does nothing, and leaves the ring, if none was ever acquired.
  void close(Ring&& ring);

 private:
  bool copy_filter(pcapv3_port& port, Plan& plan);

  BlockPool* pool_ = nullptr;   // once a block was asked for
  Program* program_ = nullptr;  // of the handle's filter; null: not copied yet
};

}  // namespace pcapv3
