// SPDX-License-Identifier: BSD-3-Clause
// The feed of one port with one ring: its next block.
//
// A block is released as soon as it is read to its end, because the program may wait on the port's
// socket, which reports itself readable until then (af_packet.c: packet_poll).
#pragma once

#include "delivery.h"
#include "dump_ahead.h"
#include "feed.h"
#include "port.h"

namespace pcapv3 {

class Single {
 public:
  void set_port(pcapv3_port& port) { port_ = &port; }

  Ready ready() {
    // A block can be open and read to its end after a read in the callback, or one made while the
    // kernel was filling it.
    while (port_->position().open()) {
      if (port_->position().cursor().corrupt()) return Ready::kCorrupt;
      if (!port_->position().cursor().done()) return Ready::kPackets;
      port_->release_block();
    }
    return Ready::kNothing;
  }
  void release_spent() {
    if (port_->position().is_open() && port_->position().cursor().done()) port_->release_block();
  }
  int deliver(Delivery& delivery, int max, pcap_handler callback, u_char* user) {
    return dump_.deliver(delivery, port_->plan(), port_->position(), max, callback, user);
  }
  /// Returns the error's text.
  const char* drop_corrupt() {
    const char* const text =
        port_->count_corrupt(port_->position().cursor(), port_->position().index());
    port_->release_block();
    return text;
  }
  /// Returns the packets of the open block; null if there are none.
  PacketCursor* open_packets() const {
    PacketCursor& cursor = port_->position().cursor();
    return cursor.has_packet() ? &cursor : nullptr;
  }

 private:
  pcapv3_port* port_ = nullptr;
  DumpAhead dump_;
};

}  // namespace pcapv3
