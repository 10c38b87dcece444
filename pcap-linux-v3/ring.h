// SPDX-License-Identifier: BSD-3-Clause
// One packet socket's TPACKET_V3 receive ring: requests it, maps it, unmaps it. It knows who owns a
// block; what is in a block is left to block.h.
//
// The socket belongs to whoever opened it. A mapping keeps the socket's memory alive, so a ring may
// outlive the descriptor it was made with (packet_mmap takes a reference to the file).
#pragma once

#include <linux/if_packet.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "setup/geometry.h"

namespace pcapv3 {

/// Returns a block's status, which another thread may just be changing, as by Ring::keep_one().
inline std::uint32_t status_of(const tpacket_hdr_v1& block) {
  return __atomic_load_n(&block.block_status, __ATOMIC_RELAXED);
}

class Ring {
 public:
  Ring() = default;
  /// Takes over `mapping`, made by mmap(2), as a ring that no socket fills.
  Ring(void* mapping, const Geometry& geometry)
      : geometry_(geometry), base_(static_cast<std::byte*>(mapping)) {}
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  /// Takes over the memory of `other`, which gets this ring's own.
  Ring& operator=(Ring&& other) noexcept {
    swap(other);
    return *this;
  }
  void swap(Ring& other) noexcept {
    std::swap(geometry_, other.geometry_);
    std::swap(base_, other.base_);
  }

  /// Requests a ring from the kernel on socket `fd`, on which PACKET_VERSION must be TPACKET_V3
  /// with no ring yet, and maps it. If memory is short, it tries a few blocks fewer until the ring
  /// fits, as stock libpcap does. Returns false, with errno, if even the smallest ring is
  /// unavailable; the socket is then without a ring. With `flow_hash` the kernel computes a flow
  /// hash for each packet.
  bool create(int fd, const Geometry& wanted, bool flow_hash = false);

  /// Returns the shape that the kernel granted; no blocks before create().
  const Geometry& geometry() const { return geometry_; }
  void* base() const { return base_; }

  tpacket_block_desc* block(unsigned index) const {
    return reinterpret_cast<tpacket_block_desc*>(base_ +
                                                 std::size_t{geometry_.block_bytes} * index);
  }
  /// Returns whether the kernel has handed over this block: from then on the reader may read its
  /// content.
  bool is_ours(unsigned index) const {
    return (__atomic_load_n(&block(index)->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & kKept) ==
           TP_STATUS_USER;
  }
  /// Takes the block before the one that the kernel is filling, which must be free, so that the
  /// socket reports itself readable (af_packet.c: packet_poll) and the kernel does not come to that
  /// block. It has nothing to read. Returns its index; -1 if the socket reports itself readable
  /// anyway. Any thread may call it.
  int keep_one() const;
  /// Returns that block to the kernel.
  void let_go(unsigned index) const { (void)change(index, kKept, TP_STATUS_KERNEL); }
  /// Releases a block to the kernel. Nothing in it may be read any more.
  void give_back(unsigned index) { give_back(*block(index)); }
  static void give_back(tpacket_block_desc& block) {
    __atomic_store_n(&block.hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
  }

 private:
  /// The status of a block that was kept: not the kernel's, which takes any status but 0 for the
  /// reader's (prb_lookup_block), nor that of a block it has handed over.
  static constexpr std::uint32_t kKept = TP_STATUS_USER | 1u << 16;

  bool change(unsigned index, std::uint32_t from, std::uint32_t to) const {
    return __atomic_compare_exchange_n(&block(index)->hdr.bh1.block_status, &from, to, false,
                                       __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
  }
  std::uint64_t number(unsigned index) const {
    return __atomic_load_n(&block(index)->hdr.bh1.seq_num, __ATOMIC_ACQUIRE);
  }

  Geometry geometry_;
  std::byte* base_ = nullptr;
};

}  // namespace pcapv3
