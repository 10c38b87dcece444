// SPDX-License-Identifier: BSD-3-Clause
#include "grace_period.h"

#include <linux/if_packet.h>
#include <sys/socket.h>

namespace pcapv3 {

bool GracePeriod::wait() {
  const tpacket_req none{};
  const int socket = sockets_.grace_socket();
  return socket >= 0 && setsockopt(socket, SOL_PACKET, PACKET_RX_RING, &none, sizeof(none)) == 0;
}

}  // namespace pcapv3
