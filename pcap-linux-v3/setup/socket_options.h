// SPDX-License-Identifier: BSD-3-Clause
// SocketOptions: makes the kernel keep out of a ring what the reader would only discard, which is
// copies of outgoing packets, and the bytes of packets past the snapshot length.
//
// Where the kernel can't do that, the reader drops the same packets and truncates the same bytes
// (delivery.h); only room in the ring is lost.
#pragma once

#include <cstdint>

namespace pcapv3 {

class SocketOptions {
 public:
  explicit SocketOptions(int socket = -1) : socket_(socket) {}

  /// Keeps outgoing packets out of the ring, or lets them in again (PACKET_IGNORE_OUTGOING, Linux
  /// 4.20). It is for captures of incoming packets only, and for lo, which hands back each packet
  /// sent as one received. If the program has set the option itself, it stays set.
  void ignore_outgoing(bool ignore);

  /// Truncates packets to `bytes` as they are stored, by a filter that accepts all of them. Does
  /// nothing on a socket that has a filter. pcap_setfilter(3PCAP), whose programs truncate by
  /// themselves, replaces this filter.
  void truncate_at(std::uint32_t bytes);

 private:
  int socket_;
  bool ignoring_ = false;  // set here, not by the program
};

/// Copies PACKET_IGNORE_OUTGOING, where the kernel has it.
void copy_ignore_outgoing(int from, int to);

/// Has no packet come to the socket any more, and waits until none is under way to it. Returns
/// false, with errno, on failure; a socket in a fan-out group can't be bound again.
bool bind_to_nothing(int socket);

}  // namespace pcapv3
