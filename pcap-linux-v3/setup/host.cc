// SPDX-License-Identifier: BSD-3-Clause
#include "setup/host.h"

#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>

namespace pcapv3 {
namespace {

/// The largest packet that the kernel builds where nobody has raised the limits:
/// GSO_LEGACY_MAX_SIZE of include/linux/netdevice.h.
constexpr std::uint64_t kOrdinaryOffload = 65536;
/// The longest link-layer header with tags that a packet socket may put in front of the payload
/// (include/linux/netdevice.h: MAX_HEADER).
constexpr std::uint64_t kLinkHeader = 256;

// Attributes that kernel headers older than 6.3 lack; the numbers are ABI (linux/if_link.h).
constexpr unsigned short kGroMaxSize = 58;
constexpr unsigned short kGsoIpv4MaxSize = 63;
constexpr unsigned short kGroIpv4MaxSize = 64;

class Socket {
 public:
  Socket() : fd_(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

std::uint64_t largest_of_link(nlmsghdr* message) {
  std::uint64_t largest = 0;
  auto* link = static_cast<ifinfomsg*>(NLMSG_DATA(message));
  int length = static_cast<int>(IFLA_PAYLOAD(message));
  for (rtattr* a = IFLA_RTA(link); RTA_OK(a, length); a = RTA_NEXT(a, length)) {
    const unsigned short type = a->rta_type & NLA_TYPE_MASK;
    if (type != IFLA_MTU && type != IFLA_GSO_MAX_SIZE && type != kGroMaxSize &&
        type != kGsoIpv4MaxSize && type != kGroIpv4MaxSize) {
      continue;
    }
    std::uint32_t value = 0;
    if (RTA_PAYLOAD(a) < sizeof(value)) continue;
    std::memcpy(&value, RTA_DATA(a), sizeof(value));
    largest = std::max<std::uint64_t>(largest, value);
  }
  return largest;
}

/// Asks for one link, or for all when `index` is 0, and returns the largest size that any of them
/// reports; 0 when the kernel reports none.
std::uint64_t largest_of_links(int index) {
  struct {
    nlmsghdr header;
    ifinfomsg link;
  } request{};
  request.header.nlmsg_len = sizeof(request);
  request.header.nlmsg_type = RTM_GETLINK;
  request.header.nlmsg_flags =
      static_cast<unsigned short>(NLM_F_REQUEST | (index > 0 ? 0 : NLM_F_DUMP));
  request.link.ifi_family = AF_UNSPEC;
  request.link.ifi_index = index;

  const Socket netlink;
  if (netlink.fd() < 0 || send(netlink.fd(), &request, sizeof(request), 0) < 0) return 0;
  std::uint64_t largest = 0;
  alignas(nlmsghdr) char answer[32 * 1024];
  for (;;) {
    const ssize_t got = recv(netlink.fd(), answer, sizeof(answer), 0);
    if (got <= 0) return largest;
    auto left = static_cast<unsigned>(got);
    for (auto* m = reinterpret_cast<nlmsghdr*>(answer); NLMSG_OK(m, left);
         m = NLMSG_NEXT(m, left)) {
      if (m->nlmsg_type == NLMSG_DONE || m->nlmsg_type == NLMSG_ERROR) return largest;
      if (m->nlmsg_type == RTM_NEWLINK) largest = std::max(largest, largest_of_link(m));
    }
    if (index > 0) return largest;
  }
}

}  // namespace

std::uint64_t free_memory() {
  unsigned long long kib = 0;
  if (std::FILE* file = std::fopen("/proc/meminfo", "re")) {
    char line[128];
    while (std::fgets(line, sizeof(line), file) != nullptr) {
      if (std::sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break;
    }
    std::fclose(file);
  }
  if (kib != 0) return std::uint64_t{kib} * 1024;
  // Without /proc, this is what is wholly free, without what could be reclaimed.
  struct sysinfo info {};
  return sysinfo(&info) == 0 ? std::uint64_t{info.freeram} * info.mem_unit : 0;
}

bool kernel_is_at_least(unsigned major, unsigned minor) {
  // The version is asked for once: not all callers may make system calls that stock libpcap does
  // not make.
  static std::atomic<unsigned> running{0};
  if (running.load(std::memory_order_relaxed) == 0) {
    utsname name{};
    unsigned running_major = 0;
    unsigned running_minor = 0;
    if (uname(&name) != 0 ||
        std::sscanf(name.release, "%u.%u", &running_major, &running_minor) != 2) {
      return false;
    }
    running.store(running_major << 16 | running_minor, std::memory_order_relaxed);
  }
  return running.load(std::memory_order_relaxed) >= (major << 16 | minor);
}

std::uint64_t largest_packet(int index) {
  return std::max(largest_of_links(std::max(index, 0)), kOrdinaryOffload) + kLinkHeader;
}

}  // namespace pcapv3
