// SPDX-License-Identifier: BSD-3-Clause
// What tests share that do harm to links, and look for the library's sockets.
#pragma once

#include <sys/socket.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "ports.h"

namespace pcapv3::live {

inline int family_of(int fd) {
  int family = AF_UNSPEC;
  socklen_t length = sizeof(family);
  return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) == 0 ? family : AF_UNSPEC;
}

inline std::vector<int> sockets_of(int family) {
  std::vector<int> found;
  for (int fd = 0; fd < 100; ++fd) {
    if (family_of(fd) == family) found.push_back(fd);
  }
  return found;
}

/// The links as a test finds them, whatever the one before has left.
inline void restore_links() {
  const std::string space = "ip -n " + peer_name();
  const std::string commands =
      "{ for i in see1 see2 see2b; do ip link delete $i; done; for i in play1 "
      "play2 see0 see1; do " +
      space + " link delete $i; done; } 2>/dev/null";
  (void)!std::system(commands.c_str());
  make_port(1);
  make_port(2);
}

template <auto kRun>
void afresh() {
  restore_links();
  kRun();
}

}  // namespace pcapv3::live
