// SPDX-License-Identifier: BSD-3-Clause
// The feed of several rings: their packets in time order, as far as the merge (merge.h) lets them
// go. The rings are those of the ports of a capture on several interfaces, or the two of one port
// (adaptive/two_rings.h).
//
// The merge owns the order; here is what is done with the blocks behind it.
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

  /// Takes in `position` as ring number `ring`, whose packets are `port`'s. False if memory is
  /// short: never for a ring that takes the place of one that was there.
  bool add(unsigned ring, pcapv3_port& port, RingPosition& position);
  void remove(unsigned ring);

  /// Looks for blocks, once what was read to the end has been released.
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
  /// Whether no block of any ring is open, so that blocks can be acquired in place of packets.
  bool is_closed() const;

 private:
  struct Ring {
    pcapv3_port* port = nullptr;
    RingPosition* position = nullptr;  // the port's own, or of its frames
  };

  Merge merge_;
  Ring rings_[Merge::kMaxPorts];
  unsigned count_ = 0;
};

}  // namespace pcapv3
