// SPDX-License-Identifier: BSD-3-Clause
// The blocks of one ring, as the program acquires and releases them (<pcap/linux-v3.h>). A block
// can be released by any thread and at any time, also after its handle was closed: the pool keeps
// the ring's memory until the last one is released.
//
// Which block is acquired, and when, is the port's (port.h); the walk of one is the block's own
// (acquired_block.h).
//
// The slot of an outstanding block keeps its TP_STATUS_USER; its number says that it must not be
// read once more (ring_position.h). Between the thread that releases a block and the one that
// acquires the same slot again, the block's status orders all other memory, the private area
// included: it is stored with release here and loaded with acquire there (ring.h), by way of the
// kernel.
#pragma once

#include <atomic>
#include <cstdint>

#include "blocks/acquired_block.h"
#include "pcap-linux-v3/ring.h"

namespace pcapv3 {

class BlockPool {
 public:
  /// Makes the pool of `ring`, whose port's device has this name. Null if memory is short. It lives
  /// until it was closed and no block is outstanding.
  static BlockPool* create(const Ring& ring, const char* device);
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  // By the thread that reads the port.

  /// Acquires the block in slot `index`, from `cursor` on. `program` is what `plan` filters by, if
  /// it does; `info` has everything but the interface's name.
  pcap_v3_block* acquire(unsigned index, const PacketCursor& cursor, const Plan& plan,
                         Program* program, const pcap_v3_info& info);
  /// Returns how many blocks are outstanding, and the most that ever were.
  unsigned outstanding() const { return references_.load(std::memory_order_relaxed) - 1; }
  unsigned max_outstanding() const { return max_outstanding_; }
  /// Adds to `counters` what was counted in blocks that were released since the last call.
  void collect(Counters& counters);
  /// Returns the number of packets in acquired blocks that collect() has not added yet.
  std::uint64_t uncollected() const { return uncollected_; }
  /// The port is gone: keeps its ring for as long as blocks are outstanding.
  void close(Ring&& ring);

  // By any thread.

  /// Lets the kernel fill the block again. Nothing of it may be used any more.
  void release(pcap_v3_block& block);

 private:
  BlockPool() = default;
  ~BlockPool();
  void unref();

  std::atomic<unsigned> references_{1};  // the port's, and one of each outstanding block
  std::atomic<std::uint64_t> delivered_{0};
  std::atomic<std::uint64_t> filtered_{0};
  std::atomic<std::uint64_t> other_way_{0};
  std::atomic<std::uint64_t> corrupt_{0};
  std::atomic<std::uint64_t> unwalked_{0};
  unsigned max_outstanding_ = 0;
  std::uint64_t uncollected_ = 0;
  char device_[64] = "";
  const Ring* ring_ = nullptr;  // the port's, until that is gone
  Ring kept_;
  pcap_v3_block* blocks_ = nullptr;
  unsigned count_ = 0;
};

}  // namespace pcapv3
