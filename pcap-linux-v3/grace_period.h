// SPDX-License-Identifier: BSD-3-Clause
// Provides an RCU grace period on request: after it, every packet that the kernel was putting into
// a ring at the time of the request is there, whole.
//
// This is what makes the block that the kernel is filling readable. The kernel counts a packet in
// the block before it copies it (af_packet.c: prb_fill_curr_block), and does both within one RCU
// read section (net/core/dev.c: __netif_receive_skb). So packets that were counted before a grace
// period are final after it.
//
// A further, unbound packet socket provides it: setting a ring of no blocks there makes the kernel
// wait (af_packet.c: packet_set_ring calls synchronize_net, whether or not there was a ring). That
// needs no privilege, and stock libpcap makes the same call when it closes a handle, so a program
// that allows itself only stock's system calls allows this one.
//
// The wait takes a fraction of a millisecond if grace periods are expedited, and otherwise some
// milliseconds, seldom more than twenty.
//
// A grace period is one of the whole kernel, so all handles of a process can share the socket
// (shared_sockets.h). A forked process uses its parent's: the call changes nothing there.
#pragma once

#include "shared_sockets.h"

namespace pcapv3 {

class GracePeriod {
 public:
  /// Opens the socket, which takes the privilege that capturing takes: must be called at
  /// activation, by a thread in the handle's network namespace. Returns false, with errno, if it is
  /// unavailable; wait() then returns false.
  bool open() { return sockets_.open(); }
  bool is_open() const { return sockets_.is_open(); }

  /// Waits for one grace period. Returns false if that is impossible.
  bool wait();

 private:
  SharedSockets sockets_;
};

}  // namespace pcapv3
