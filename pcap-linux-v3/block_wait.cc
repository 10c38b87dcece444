#include "block_wait.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cstdint>
#include <initializer_list>

namespace pcapv3 {

BlockWait::~BlockWait() { close(); }

void BlockWait::close() {
  if (events_ >= 0) ::close(events_);
  events_ = -1;
}

bool BlockWait::open(int socket, int break_event) {
  events_ = epoll_create1(EPOLL_CLOEXEC);
  if (events_ < 0) return false;
  for (const int descriptor : {socket, break_event}) {
    if (descriptor < 0) continue;
    epoll_event event{};
    event.events = EPOLLIN | EPOLLET;
    if (epoll_ctl(events_, EPOLL_CTL_ADD, descriptor, &event) == 0) continue;
    const int error = errno;
    close();
    errno = error;
    return false;
  }
  return true;
}

BlockWait::Outcome BlockWait::wait(int timeout_ms) {
  epoll_event events[2];
  const int count = epoll_wait(events_, events, 2, timeout_ms);
  if (count == 0) return Outcome::kTimeout;
  if (count < 0) return errno == EINTR ? Outcome::kSignal : Outcome::kError;
  for (int i = 0; i < count; ++i) {
    if ((events[i].events & ~std::uint32_t{EPOLLIN}) != 0) return Outcome::kTrouble;
  }
  return Outcome::kEvent;
}

}  // namespace pcapv3
