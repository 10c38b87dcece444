// SPDX-License-Identifier: BSD-3-Clause
// The feed of several rings: their packets in time order, as far as the merge (merge.h) lets them
// go. The rings are those of a multi-interface capture's ports, or the two of one port
// (adaptive/two_rings.h).
//
// The merge owns the order; this feed handles the blocks behind it.
#pragma once

#include <cstdlib>

#include "delivery.h"
#include "feed.h"
#include "merge.h"
#include "port.h"

namespace pcapv3 {

class Merged {
 public:
  static void* operator new(std::size_t bytes) noexcept { return std::malloc(bytes); }
  static void operator delete(void* memory) { std::free(memory); }

  Merge& merge() { return merge_; }
  const Merge& merge() const { return merge_; }

  /// Adds `position` as ring number `ring`, whose packets are `port`'s. Returns false if memory is
  /// short, which never happens for a ring that takes the place of an earlier one.
  bool add(unsigned ring, pcapv3_port& port, RingPosition& position);
  void remove(unsigned ring);

  /// Releases what was read to the end, then looks for blocks.
  void look();
  Ready ready() {
    if (merge_.done()) look();
    return state();
  }
  Ready state() const {
    if (merge_.corrupt()) return Ready::kCorrupt;
    return merge_.done() ? Ready::kNothing : Ready::kPackets;
  }
  void release_spent();
  int deliver(Delivery& delivery, int max, pcap_handler callback, u_char* user) {
    return delivery.run(merge_, max, callback, user);
  }
  /// Returns the error's text.
  const char* drop_corrupt();
  /// Returns whether no block of any ring is open, so that blocks can be acquired instead of
  /// packets.
  bool is_closed() const;

 private:
  struct Ring {
    pcapv3_port* port = nullptr;
    RingPosition* position = nullptr;  // the port's own, or that of its frames
  };

  Merge merge_;
  Ring rings_[Merge::kMaxPorts];
  unsigned count_ = 0;
};

}  // namespace pcapv3
