// SPDX-License-Identifier: BSD-3-Clause
// A block that the program has acquired: the walk of its packets, what is known of it, and its
// private area. It carries all that it needs, such as the plan by which its packets are delivered,
// so that any thread can walk it, one at a time, also when the handle has changed or is closed.
//
// The pool (pool.h) decides who has the block, and what happens when it is released.
#pragma once

#include <pcap/pcap.h>

#include <csignal>
#include <cstdint>

#include "blocks/program.h"
#include "include/pcap/linux-v3.h"
#include "pcap-linux-v3/block.h"
#include "pcap-linux-v3/counters.h"
#include "pcap-linux-v3/delivery.h"

namespace pcapv3 {
class BlockPool;
}

/// Each block of a ring has one, for as long as its pool lasts; it is in use while that is
/// outstanding. A copy of a block that is still the kernel's has one of its own.
struct pcap_v3_block {
 public:
  pcap_v3_block() : delivery_(&kNever, counters_) {}
  pcap_v3_block(const pcap_v3_block&) = delete;
  pcap_v3_block& operator=(const pcap_v3_block&) = delete;

  const pcap_v3_info& info() const { return info_; }
  /// Calls `callback` for the next `count` packets, or for all that are left if it is 0 or less.
  /// Returns the number of calls, or PCAP_ERROR; the rest of a corrupt block is dropped.
  int dispatch(int count, pcap_handler callback, u_char* user);
  /// Returns 1 with the next packet, 0 at the end, or PCAP_ERROR.
  int next(const pcap_pkthdr** header, const u_char** bytes);
  /// Returns the header of the packet that was delivered last; null if there was none.
  const tpacket3_hdr* current() const { return got_ != nullptr ? got_ : cursor_.walked(); }
  /// Returns the private area, which the program can read and write; null if the ring has none.
  void* private_area() { return pcapv3::private_area(block_, private_bytes_); }
  pcapv3::BlockPool& pool() const { return *pool_; }

 private:
  friend class pcapv3::BlockPool;
  static void keep(u_char* user, const pcap_pkthdr* header, const u_char* bytes);
  int drop_rest();

  static const volatile std::sig_atomic_t kNever;
  pcapv3::BlockPool* pool_ = nullptr;
  tpacket_block_desc* block_ = nullptr;
  bool is_copy_ = false;  // block_ is memory of its own, and so is this
  std::uint32_t private_bytes_ = 0;
  pcapv3::TellingCursor cursor_;
  pcapv3::Counters counters_;
  pcapv3::Delivery delivery_;
  pcapv3::Program* program_ = nullptr;
  pcap_v3_info info_{};
  const tpacket3_hdr* got_ = nullptr;  // what next() returned; null in a dispatch()
  pcap_pkthdr header_{};               // likewise
  const u_char* bytes_ = nullptr;
};
