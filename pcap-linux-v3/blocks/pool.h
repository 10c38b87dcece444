// SPDX-License-Identifier: BSD-3-Clause
// BlockPool: the blocks of one ring, as the program acquires and releases them
// (<pcap/linux-v3.h>). Any thread can release a block at any time, also after its handle was
// closed: the pool keeps the ring's memory until the last one is released.
//
// The port decides which block is acquired, and when (port.h); the block walks its own packets
// (acquired_block.h).
//
// An outstanding block keeps its TP_STATUS_USER; its sequence number says that it must not be read
// once more (ring_position.h). Between the thread that releases a block and the one that acquires
// the block in the same place again, the block's status orders all other memory, the private area
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
  /// Makes the pool of `ring`, whose port's device is called `device`. Returns null if memory is
  /// short. The pool lives until it has been closed and no block is outstanding.
  static BlockPool* create(const Ring& ring, const char* device);
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  // By the thread that reads the port.

  /// Acquires block `index` of the ring, from `cursor` on. `program` is the filter of `plan`, if it
  /// has one; `info` has everything but the interface's name.
  pcap_v3_block* acquire(unsigned index, const PacketCursor& cursor, const Plan& plan,
                         Program* program, const pcap_v3_info& info);
  /// Acquires a copy of the packets at `cursor`, to its end, of a block that is still the kernel's.
  /// Returns null if memory is short.
  pcap_v3_block* acquire_copy(const tpacket_block_desc* from, const PacketCursor& cursor,
                              std::uint32_t headroom, const Plan& plan, Program* program,
                              const pcap_v3_info& info);
  /// Returns how many blocks are outstanding.
  unsigned outstanding() const { return references_.load(std::memory_order_relaxed) - 1; }
  /// Returns the most that were ever outstanding at once.
  unsigned max_outstanding() const { return max_outstanding_; }
  /// Adds to `counters` what was counted in blocks that were released since the last call.
  void collect(Counters& counters);
  /// Returns the number of packets in acquired blocks that collect() has not added yet.
  std::uint64_t uncollected() const { return uncollected_; }
  /// Must be called when the pool's ring has moved to `ring`.
  void keep_in(const Ring& ring) { ring_ = &ring; }
  /// Must be called when the port is closed or gets another ring: keeps `ring` as long as blocks
  /// are outstanding.
  void close(Ring&& ring);

  // By any thread.

  /// Releases the block to the kernel, which can fill it again. Nothing of it may be used any more.
  void release(pcap_v3_block& block);

 private:
  BlockPool() = default;
  ~BlockPool();
  void set_up(pcap_v3_block& block, const PacketCursor& cursor, const Plan& plan, Program* program,
              const pcap_v3_info& info);
  void unref();

  std::atomic<unsigned> references_{1};  // one of the port, and one of each outstanding block
  std::atomic<std::uint64_t> delivered_{0};
  std::atomic<std::uint64_t> filtered_{0};
  std::atomic<std::uint64_t> other_way_{0};
  std::atomic<std::uint64_t> corrupt_{0};
  std::atomic<std::uint64_t> unwalked_{0};
  unsigned max_outstanding_ = 0;
  std::uint64_t uncollected_ = 0;
  char device_[64] = "";
  const Ring* ring_ = nullptr;  // the port's, until close()
  Ring kept_;
  pcap_v3_block* blocks_ = nullptr;
  unsigned count_ = 0;
};

}  // namespace pcapv3
