// SPDX-License-Identifier: BSD-3-Clause
// What the kernel is told to keep out of a ring, because the reader would only throw it away:
// copies of outgoing packets, and the bytes of packets past the snapshot length.
//
// Where the kernel can't be told, the reader drops the same packets and cuts the same bytes
// (delivery.h); only room in the ring is lost.
#pragma once

#include <cstdint>

namespace pcapv3 {

class SocketOptions {
 public:
  /// What `socket` takes in.
  explicit SocketOptions(int socket = -1) : socket_(socket) {}

  /// Keeps outgoing packets out of the ring, or lets them in again (PACKET_IGNORE_OUTGOING, Linux
  /// 4.20). For captures of incoming packets only, and for lo, which hands each packet sent back as
  /// one received. A program that has set the option by itself has it stay set.
  void ignore_outgoing(bool ignore);

  /// Has packets cut to `bytes` as they are stored, by a filter that accepts all of them. Only for
  /// a socket without a filter; pcap_setfilter(3PCAP), whose programs cut by themselves, replaces
  /// it.
  void truncate_at(std::uint32_t bytes);

 private:
  int socket_;
  bool ignoring_ = false;  // because it was told to here
};

}  // namespace pcapv3
