// SPDX-License-Identifier: BSD-3-Clause
#include "grace_period.h"

#include <linux/if_packet.h>
#include <sys/socket.h>
#include <unistd.h>

namespace pcapv3 {

GracePeriod::~GracePeriod() {
  if (socket_ >= 0) close(socket_);
}

bool GracePeriod::open() {
  // With protocol 0, no packet comes to it.
  if (socket_ < 0) socket_ = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  return socket_ >= 0;
}

bool GracePeriod::wait() {
  const tpacket_req none{};
  return socket_ >= 0 && setsockopt(socket_, SOL_PACKET, PACKET_RX_RING, &none, sizeof(none)) == 0;
}

}  // namespace pcapv3
