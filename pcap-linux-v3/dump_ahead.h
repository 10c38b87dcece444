// SPDX-License-Identifier: BSD-3-Clause
// Delivers packets from a block to a callback that dumps them to a file, and announces to
// pcap_dump(3PCAP) for which packets no wait follows (dump_run.h), so that a savefile is written in
// large pieces.
//
// Whether a callback dumps is a guess from the block before: a callback that dumped each of that
// block's packets to one file is expected to continue.
#pragma once

#include <pcap/pcap.h>

#include "delivery.h"
#include "ring_position.h"

namespace pcapv3 {

class DumpAhead {
 public:
  /// Delivers up to `max` packets from the open block of `position` according to `plan`, which
  /// `delivery` must follow. Returns how many were delivered.
  int deliver(Delivery& delivery, const Plan& plan, RingPosition& position, int max,
              pcap_handler callback, u_char* user);

 private:
  bool dumps_all_ = false;  // the callback dumped each of many packets to one file
};

}  // namespace pcapv3
