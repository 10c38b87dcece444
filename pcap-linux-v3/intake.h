// What the kernel is told to keep out of a ring, because the reader would only throw it away:
// copies of outgoing packets, and the bytes of packets past the snapshot length.
//
// Where the kernel can't be told, the reader drops the same packets and cuts the same bytes
// (delivery.h); only room in the ring is lost.
#pragma once

#include <cstdint>

namespace pcapv3 {

class Intake {
 public:
  /// What `socket`, or both, take in.
  explicit Intake(int socket = -1, int second = -1) : socket_(socket), second_(second) {}

  void forget_second() { second_ = -1; }

  /// Keeps outgoing packets out of the ring, or lets them in again (PACKET_IGNORE_OUTGOING, Linux
  /// 4.20). For captures of incoming packets only, and for lo, which hands each packet sent back as
  /// one received.
  void ignore_outgoing(bool ignore);

  /// Has packets cut to `bytes` as they are stored, by a filter that accepts all of them. Only for
  /// a socket without a filter; pcap_setfilter(3PCAP), whose programs cut by themselves, replaces
  /// it.
  void cut_at(std::uint32_t bytes);

 private:
  int socket_;
  int second_;
  bool ignoring_ = false;
};

}  // namespace pcapv3
