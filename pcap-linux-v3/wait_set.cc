// SPDX-License-Identifier: BSD-3-Clause
#include "wait_set.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "setup/link_filter.h"

namespace pcapv3 {
namespace {

// What an event belongs to: a port, by its number, or one of these.
constexpr std::uint32_t kTimer = 1000;
constexpr std::uint32_t kBreak = 1001;
constexpr std::uint32_t kLinks = 1002;

bool add_to(int events, int descriptor, std::uint32_t what) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.u32 = what;
  return epoll_ctl(events, EPOLL_CTL_ADD, descriptor, &event) == 0;
}

/// Opens a socket that receives every change of an interface in this network namespace,
/// rtnetlink(7).
int open_links() {
  const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = RTMGRP_LINK;
  if (fd >= 0 && bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    close(fd);
    return -1;
  }
  return fd;
}

/// Discards the pending messages, to make room for more; it is enough to know that there were some.
void drain(int fd) {
  char bytes[8192];
  while (recv(fd, bytes, sizeof(bytes), 0) >= 0 || errno == ENOBUFS || errno == EINTR) {
  }
}

}  // namespace

WaitSet::~WaitSet() { close(); }

void WaitSet::close() {
  for (int* const fd : {&events_, &timer_, &break_, &links_}) {
    if (*fd >= 0) ::close(*fd);
    *fd = -1;
  }
}

bool WaitSet::open(const Options& options, ErrorText& error) {
  events_ = epoll_create1(options.descriptor ? 0 : EPOLL_CLOEXEC);
  break_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (options.descriptor) timer_ = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  if (options.links) links_ = open_links();
  const bool ok = events_ >= 0 && break_ >= 0 && add_to(events_, break_, kBreak) &&
                  (!options.descriptor || (timer_ >= 0 && add_to(events_, timer_, kTimer))) &&
                  (links_ < 0 || add_to(events_, links_, kLinks));
  if (ok) return true;
  error.set("can't make the descriptors to wait on: %s", std::strerror(errno));
  close();
  return false;
}

void WaitSet::watch(const Link* links, unsigned count) {
  if (links_ < 0) return;
  LinkFilter filter;
  for (unsigned i = 0; i < count; ++i) {
    ifreq own{};
    own.ifr_ifindex = links[i].index;
    // An interface that has the name only as an alternative one (ip-link(8): altname) does not have
    // it yet when it appears.
    other_names_ |= links[i].index > 0 && ioctl(links_, SIOCGIFNAME, &own) == 0 &&
                    std::strcmp(own.ifr_name, links[i].name) != 0;
    filter.add(links[i].name, links[i].index);
  }
  const sock_fprog program = filter.program();
  if (!other_names_ &&
      setsockopt(links_, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) == 0) {
    return;
  }
  // The old filter does not know the new index.
  const int none = 0;
  setsockopt(links_, SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof(none));
  // This is for when there was no room for both (net.core.optmem_max).
  if (!other_names_) setsockopt(links_, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
}

bool WaitSet::add(unsigned port, int socket) { return add_to(events_, socket, port); }

void WaitSet::remove(int socket) { epoll_ctl(events_, EPOLL_CTL_DEL, socket, nullptr); }

bool WaitSet::collect(std::uint64_t wait_ns, Events& events) {
  constexpr int kAtOnce = 16;
  constexpr std::uint64_t kNsPerMs = 1'000'000;
  constexpr std::uint64_t kLongestMs = 60'000;
  int wait_ms = wait_ns == kForEver
                    ? -1
                    : static_cast<int>(std::min((wait_ns + kNsPerMs - 1) / kNsPerMs, kLongestMs));
  epoll_event got[kAtOnce];
  int count;
  do {
    count = epoll_wait(events_, got, kAtOnce, wait_ms);
    if (count < 0) return errno == EINTR;
    events.some = events.some || count > 0;
    for (int i = 0; i < count; ++i) {
      const std::uint32_t what = got[i].data.u32;
      if (what == kTimer) {
        timer_state_ = Timer::kOff;
      } else if (what == kLinks) {
        drain(links_);
        events.links = true;
      } else if (what == kBreak) {
        // If it stayed readable, sleep() would not sleep.
        std::uint64_t breaks;
        (void)!read(break_, &breaks, sizeof(breaks));
      } else if ((got[i].events & ~std::uint32_t{EPOLLIN}) != 0) {
        events.troubled |= std::uint64_t{1} << what;
      }
    }
    wait_ms = 0;
  } while (count == kAtOnce);
  return true;
}

void WaitSet::wake_in(std::uint64_t ns) {
  itimerspec when{};  // all 0 stops the timer
  if (ns == kForEver) {
    if (timer_state_ == Timer::kOff) return;
  } else {
    ns = std::max<std::uint64_t>(ns, 1);
    when.it_value.tv_sec = static_cast<time_t>(ns / 1'000'000'000);
    when.it_value.tv_nsec = static_cast<long>(ns % 1'000'000'000);
  }
  timerfd_settime(timer_, 0, &when, nullptr);
  timer_state_ = ns == kForEver ? Timer::kOff : ns == 1 ? Timer::kNow : Timer::kSet;
}

void WaitSet::stay_awake() {
  if (timer_state_ != Timer::kNow) wake_in(0);
}

void WaitSet::sleep(int ms) const {
  pollfd event = {break_, POLLIN, 0};
  (void)poll(&event, 1, ms);
}

}  // namespace pcapv3
