// SPDX-License-Identifier: BSD-3-Clause
#include "interposed.h"

#include <dlfcn.h>
#include <errno.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace pcapv3::live::interposed {
namespace {

// The next in the order of search: the C library's, or a sanitizer's, which has to know of the
// call.
struct Originals {
  decltype(&::clock_gettime) clock_gettime = nullptr;
  decltype(&::epoll_ctl) epoll_ctl = nullptr;
  decltype(&::munmap) munmap = nullptr;
  decltype(&::socket) socket = nullptr;
};
Originals originals;

template <typename Function>
void find(Function& function, const char* name) {
  function = reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

int family_of(int fd) {
  int family = AF_UNSPEC;
  socklen_t length = sizeof(family);
  return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) == 0 ? family : AF_UNSPEC;
}

}  // namespace

void find_originals() {
  find(originals.clock_gettime, "clock_gettime");
  find(originals.epoll_ctl, "epoll_ctl");
  find(originals.munmap, "munmap");
  find(originals.socket, "socket");
}

}  // namespace pcapv3::live::interposed

namespace interposed = pcapv3::live::interposed;
using interposed::originals;

extern "C" int clock_gettime(clockid_t clock, timespec* now) noexcept {
  const int status = originals.clock_gettime != nullptr
                         ? originals.clock_gettime(clock, now)
                         : static_cast<int>(syscall(SYS_clock_gettime, clock, now));
  if (clock == CLOCK_REALTIME) now->tv_sec += interposed::clock_offset_s;
  return status;
}

extern "C" int munmap(void* at, std::size_t length) noexcept {
  if (length >= 2 << 20) ++interposed::large_unmaps;
  return originals.munmap != nullptr ? originals.munmap(at, length)
                                     : static_cast<int>(syscall(SYS_munmap, at, length));
}

extern "C" int epoll_ctl(int set, int operation, int fd, epoll_event* event) noexcept {
  std::atomic<int>& left = interposed::epoll_adds_until_full;
  if (operation == EPOLL_CTL_ADD && left >= 0 && interposed::family_of(fd) == AF_PACKET &&
      left-- == 0) {
    left = 0;
    errno = ENOSPC;
    return -1;
  }
  return originals.epoll_ctl != nullptr
             ? originals.epoll_ctl(set, operation, fd, event)
             : static_cast<int>(syscall(SYS_epoll_ctl, set, operation, fd, event));
}

extern "C" int socket(int family, int type, int protocol) noexcept {
  if (family == AF_NETLINK && interposed::netlink_is_refused) {
    errno = EPERM;
    return -1;
  }
  return originals.socket != nullptr
             ? originals.socket(family, type, protocol)
             : static_cast<int>(syscall(SYS_socket, family, type, protocol));
}
