// SPDX-License-Identifier: BSD-3-Clause
#include "setup/socket_options.h"

#include <linux/filter.h>
#include <linux/if_packet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23  // kernel headers before 4.20 lack it
#endif

namespace pcapv3 {

void SocketOptions::ignore_outgoing(bool ignore) {
  if (ignore == ignoring_) return;
  int value = 0;
  socklen_t length = sizeof(value);
  if (ignore && (getsockopt(socket_, SOL_PACKET, PACKET_IGNORE_OUTGOING, &value, &length) != 0 ||
                 value != 0)) {
    return;
  }
  value = ignore ? 1 : 0;
  if (setsockopt(socket_, SOL_PACKET, PACKET_IGNORE_OUTGOING, &value, sizeof(value)) == 0) {
    ignoring_ = ignore;
  }
}

void SocketOptions::truncate_at(std::uint32_t bytes) {
  // A filter that the program itself has attached stays. (The call returns its length; a filter
  // that can't be read is an error.)
  socklen_t length = 0;
  if (getsockopt(socket_, SOL_SOCKET, SO_GET_FILTER, nullptr, &length) != 0 || length != 0) {
    return;
  }
  sock_filter accept = {BPF_RET | BPF_K, 0, 0, bytes};
  const sock_fprog program = {1, &accept};
  // If this fails, the reader truncates.
  (void)setsockopt(socket_, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
}

void copy_ignore_outgoing(int from, int to) {
  int value = 0;
  socklen_t length = sizeof(value);
  if (getsockopt(from, SOL_PACKET, PACKET_IGNORE_OUTGOING, &value, &length) != 0) return;
  (void)setsockopt(to, SOL_PACKET, PACKET_IGNORE_OUTGOING, &value, sizeof(value));
}

bool bind_to_nothing(int socket) {
  // No packet has this protocol, which is "internal only". A protocol of 0 would mean to keep the
  // present one.
  constexpr std::uint16_t kSnap = 0x0005;  // ETH_P_SNAP
  sockaddr_ll nowhere{};
  nowhere.sll_family = AF_PACKET;
  nowhere.sll_protocol = htons(kSnap);
  return bind(socket, reinterpret_cast<const sockaddr*>(&nowhere), sizeof(nowhere)) == 0;
}

}  // namespace pcapv3
