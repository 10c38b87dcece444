// One packet socket's TPACKET_V3 receive ring: asked for, mapped, unmapped. Knows whose turn a
// block is; what is in a block is block.h's.
//
// The socket stays its owner's. A mapping keeps the socket's memory alive, so that a ring may
// outlive the descriptor it was made with (packet_mmap takes a reference to the file).
#pragma once

#include <linux/if_packet.h>

#include <cstddef>
#include <utility>

#include "geometry.h"

namespace pcapv3 {

class Ring {
 public:
  Ring() = default;
  /// Takes over `mapping`, made by mmap(2): a ring that no socket fills.
  Ring(void* mapping, const Geometry& geometry)
      : geometry_(geometry), base_(static_cast<std::byte*>(mapping)) {}
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  /// Takes over `other`'s memory, and leaves its own to that.
  Ring& operator=(Ring&& other) noexcept {
    std::swap(geometry_, other.geometry_);
    std::swap(base_, other.base_);
    return *this;
  }

  /// Asks the kernel for a ring on socket `fd`, on which PACKET_VERSION is TPACKET_V3 and no ring
  /// is yet, and maps it. Where memory is short it takes a few blocks less until it fits, as stock
  /// libpcap does. False, with errno, if even the smallest can't be had; the socket is then without
  /// a ring. With `flow_hash` the kernel finds one for each packet.
  bool create(int fd, const Geometry& wanted, bool flow_hash = false);

  /// What was got; no blocks before create().
  const Geometry& geometry() const { return geometry_; }
  void* base() const { return base_; }

  tpacket_block_desc* block(unsigned index) const {
    return reinterpret_cast<tpacket_block_desc*>(base_ +
                                                 std::size_t{geometry_.block_bytes} * index);
  }
  /// Whether the kernel has handed over this block: from then on its content is the reader's to
  /// see.
  bool is_ours(unsigned index) const {
    return (__atomic_load_n(&block(index)->hdr.bh1.block_status, __ATOMIC_ACQUIRE) &
            TP_STATUS_USER) != 0;
  }
  /// Takes a block that the kernel has not come to, which does not come to it then.
  void keep(unsigned index) {
    __atomic_store_n(&block(index)->hdr.bh1.block_status, TP_STATUS_USER, __ATOMIC_RELEASE);
  }
  /// Gives a block back to the kernel. Nothing in it may be read any more.
  void give_back(unsigned index) { give_back(*block(index)); }
  static void give_back(tpacket_block_desc& block) {
    __atomic_store_n(&block.hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
  }

 private:
  Geometry geometry_;
  std::byte* base_ = nullptr;
};

}  // namespace pcapv3
