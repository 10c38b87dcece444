// SPDX-License-Identifier: BSD-3-Clause
#include "fake_kernel.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "catch.h"

using pcapv3::test::FakeKernel;

// ---- The system calls, which the linker renames ----

// The names are the linker's, for --wrap.
// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming)
extern "C" {
int __real_socket(int, int, int);
int __real_close(int);
int __real_bind(int, const sockaddr*, socklen_t);
int __real_setsockopt(int, int, int, const void*, socklen_t);
int __real_getsockopt(int, int, int, void*, socklen_t*);
void* __real_mmap(void*, size_t, int, int, int, off_t);
int __real_clock_gettime(clockid_t, timespec*);
int __real_epoll_ctl(int, int, int, epoll_event*);
int __real_epoll_wait(int, epoll_event*, int, int);
int __real_poll(pollfd*, nfds_t, int);
int __real_timerfd_settime(int, int, const itimerspec*, itimerspec*);

int __wrap_socket(int domain, int type, int protocol) {
  FakeKernel* const kernel = FakeKernel::current();
  if (kernel == nullptr || (domain != AF_PACKET && domain != AF_NETLINK)) {
    return __real_socket(domain, type, protocol);
  }
  return kernel->open_socket(domain, type);
}

int __wrap_close(int fd) {
  if (FakeKernel* const kernel = FakeKernel::current()) kernel->close_socket(fd);
  return __real_close(fd);
}

int __wrap_bind(int fd, const sockaddr* address, socklen_t length) {
  FakeKernel* const kernel = FakeKernel::current();
  return kernel != nullptr && kernel->owns(fd) ? 0 : __real_bind(fd, address, length);
}

int __wrap_setsockopt(int fd, int level, int name, const void* value, socklen_t length) {
  FakeKernel* const kernel = FakeKernel::current();
  return kernel != nullptr && kernel->owns(fd) ? kernel->set_option(fd, level, name, value, length)
                                               : __real_setsockopt(fd, level, name, value, length);
}

int __wrap_getsockopt(int fd, int level, int name, void* value, socklen_t* length) {
  FakeKernel* const kernel = FakeKernel::current();
  return kernel != nullptr && kernel->owns(fd) ? kernel->get_option(fd, level, name, value, length)
                                               : __real_getsockopt(fd, level, name, value, length);
}

void* __wrap_mmap(void* at, size_t bytes, int protection, int flags, int fd, off_t offset) {
  FakeKernel* const kernel = FakeKernel::current();
  return kernel != nullptr && kernel->owns(fd)
             ? kernel->map(fd)
             : __real_mmap(at, bytes, protection, flags, fd, offset);
}

int __wrap_clock_gettime(clockid_t clock, timespec* time) {
  FakeKernel* const kernel = FakeKernel::current();
  if (kernel == nullptr || (clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC)) {
    return __real_clock_gettime(clock, time);
  }
  kernel->look_at_clock();
  const std::uint64_t ns = clock == CLOCK_REALTIME ? kernel->realtime_ns() : kernel->now_ns();
  time->tv_sec = static_cast<time_t>(ns / 1'000'000'000);
  time->tv_nsec = static_cast<long>(ns % 1'000'000'000);
  return 0;
}

int __wrap_epoll_ctl(int epoll, int what, int fd, epoll_event* event) {
  FakeKernel* const kernel = FakeKernel::current();
  if (kernel != nullptr && what == EPOLL_CTL_ADD) kernel->watch(epoll, fd, event->data.u32);
  return __real_epoll_ctl(epoll, what, fd, event);
}

int __wrap_epoll_wait(int epoll, epoll_event* events, int max, int timeout_ms) {
  FakeKernel* const kernel = FakeKernel::current();
  return kernel != nullptr ? kernel->poll_events(epoll, events, max, timeout_ms)
                           : __real_epoll_wait(epoll, events, max, timeout_ms);
}

int __wrap_poll(pollfd* fds, nfds_t count, int timeout_ms) {
  FakeKernel* const kernel = FakeKernel::current();
  if (kernel == nullptr || count != 1) return __real_poll(fds, count, timeout_ms);
  return kernel->poll_one(fds->fd, timeout_ms, [&] { return __real_poll(fds, 1, 0) > 0; });
}

int __wrap_timerfd_settime(int fd, int flags, const itimerspec* when, itimerspec* before) {
  FakeKernel* const kernel = FakeKernel::current();
  if (kernel == nullptr) return __real_timerfd_settime(fd, flags, when, before);
  kernel->set_timer(fd, static_cast<std::uint64_t>(when->it_value.tv_sec) * 1'000'000'000 +
                            static_cast<std::uint64_t>(when->it_value.tv_nsec));
  return 0;
}
}
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)

namespace pcapv3::test {
namespace {

constexpr std::uint64_t kForever = ~std::uint64_t{0};
constexpr std::size_t kPacketBytes = 8;  // the number at the start, and once more at the end

/// Makes a timer readable now, or not at all.
void fire(int fd, bool fires) {
  itimerspec when{};
  when.it_value.tv_nsec = fires ? 1 : 0;
  __real_timerfd_settime(fd, 0, &when, nullptr);
  pollfd event = {fd, POLLIN, 0};
  if (fires) (void)__real_poll(&event, 1, 1000);
}

void wake(int fd) {
  const std::uint64_t one = 1;
  (void)!write(fd, &one, sizeof(one));
}

}  // namespace

std::uint32_t number_of(const std::uint8_t* bytes, std::size_t captured) {
  std::uint32_t first = 0;
  std::uint32_t last = 1;
  if (captured >= kPacketBytes) {
    std::memcpy(&first, bytes, sizeof(first));
    std::memcpy(&last, bytes + captured - sizeof(last), sizeof(last));
  }
  if (first != last) FAIL("a packet that nobody sent");
  return first;
}

FakeKernel::FakeKernel() { the_kernel = this; }
FakeKernel::~FakeKernel() { the_kernel = nullptr; }

// ---- Time ----

void FakeKernel::at(std::uint64_t in_ns, std::function<void()> event) {
  events_.emplace(now_ns_ + in_ns, std::move(event));
}

void FakeKernel::signal_at(std::uint64_t in_ns, std::function<void()> event) {
  at(in_ns, [this, event = std::move(event)] {
    event();
    interrupted_ = true;
  });
}

/// Goes to the next event, at `until_ns` at the latest. Returns false, at that time, if there is
/// none before.
bool FakeKernel::step(std::uint64_t until_ns) {
  std::uint64_t next_ns = events_.empty() ? kForever : events_.begin()->first;
  KernelRing* expires = nullptr;
  for (auto& [fd, socket] : sockets_) {
    if (socket.ring == nullptr) continue;
    if (socket.timer_starts != socket.ring->timer_starts()) {
      socket.timer_starts = socket.ring->timer_starts();
      socket.timer_ns = now_ns_ + socket.ring->geometry().retire_ms * kMs;
    }
    if (socket.timer_ns >= next_ns) continue;
    next_ns = socket.timer_ns;
    expires = socket.ring.get();
  }
  if (next_ns > until_ns) {
    now_ns_ = std::max(now_ns_, until_ns);
    return false;
  }
  now_ns_ = std::max(now_ns_, next_ns);
  if (expires != nullptr) {
    expires->expire(realtime_ns());
  } else {
    const std::function<void()> event = std::move(events_.begin()->second);
    events_.erase(events_.begin());
    event();
  }
  return true;
}

void FakeKernel::look_at_clock() {
  now_ns_ += 40;
  if (in_look_ == nullptr || looks_until_-- != 0) return;
  const std::function<void()> what = std::exchange(in_look_, nullptr);
  what();
}

void FakeKernel::pass(std::uint64_t ns) {
  const std::uint64_t until_ns = now_ns_ + ns;
  while (step(until_ns)) {
  }
  interrupted_ = false;
}

bool FakeKernel::wait(std::uint64_t until_ns, const std::function<bool()>& is_ready) {
  constexpr std::uint64_t kTooLongNs = 3600'000 * kMs;
  constexpr unsigned kTooOften = 1'000'000;
  if (++waits_ > kTooOften) FAIL("a reader that waits again and again");
  interrupted_ = false;
  const std::uint64_t start_ns = now_ns_;
  for (;;) {
    if (is_ready()) return true;
    if (std::exchange(interrupted_, false)) return false;
    // (Retire timers go on forever.)
    if (now_ns_ - start_ns > kTooLongNs) FAIL("a wait that nothing ends");
    if (!step(until_ns)) return true;
  }
}

void FakeKernel::set_timer(int fd, std::uint64_t in_ns) {
  const unsigned setting = ++timers_[fd];
  fire(fd, false);
  if (in_ns == 0) return;
  if (in_ns == 1) return fire(fd, true);
  at(in_ns, [this, fd, setting] {
    if (timers_[fd] == setting) fire(fd, true);
  });
}

int FakeKernel::poll_one(int fd, int timeout_ms, const std::function<bool()>& is_ready) {
  const auto found = sockets_.find(fd);
  if (found != sockets_.end()) {
    // af_packet.c: packet_rcv_try_clear_pressure.
    if (found->second.pressure && found->second.has_room(true)) found->second.pressure = false;
    return is_readable(fd) ? 1 : 0;
  }
  const std::uint64_t until_ns =
      timeout_ms < 0 ? kForever : now_ns_ + static_cast<std::uint64_t>(timeout_ms) * kMs;
  if (!wait(until_ns, is_ready)) {
    errno = EINTR;
    return -1;
  }
  return is_ready() ? 1 : 0;
}

void FakeKernel::watch(int epoll, int fd, std::uint32_t data) {
  const auto found = sockets_.find(fd);
  if (found != sockets_.end()) found->second.watchers[epoll] = data;
}

int FakeKernel::poll_events(int epoll, epoll_event* events, int max, int timeout_ms) {
  int count = 0;
  const auto look = [&] {
    count = __real_epoll_wait(epoll, events, max, 0);
    for (auto& [fd, socket] : sockets_) {
      if (!socket.troubled || socket.watchers.count(epoll) == 0 || count == max) continue;
      socket.troubled = false;
      events[count].events = EPOLLIN | EPOLLERR;
      events[count++].data.u32 = socket.watchers[epoll];
    }
    return count != 0;
  };
  if (timeout_ms == 0) return look(), count;
  const std::uint64_t until_ns =
      timeout_ms < 0 ? kForever : now_ns_ + static_cast<std::uint64_t>(timeout_ms) * kMs;
  if (wait(until_ns, look)) return count;
  errno = EINTR;
  return -1;
}

// ---- Packets ----

TestPacket FakeKernel::packet(std::uint32_t number, std::size_t bytes) const {
  const std::uint64_t stamp = realtime_ns();
  TestPacket packet{.bytes = Bytes(std::max(bytes, kPacketBytes)),
                    .sec = static_cast<std::uint32_t>(stamp / 1'000'000'000),
                    .nsec = static_cast<std::uint32_t>(stamp % 1'000'000'000)};
  std::memcpy(packet.bytes.data(), &number, sizeof(number));
  std::memcpy(packet.bytes.data() + packet.bytes.size() - sizeof(number), &number, sizeof(number));
  return packet;
}

bool FakeKernel::Socket::rejects_all() const {
  return filter.size() == 1 && filter[0].code == (BPF_RET | BPF_K) && filter[0].k == 0;
}

/// Does what af_packet.c: __packet_rcv_has_room does, for at least one packet, or for a `normal`
/// amount.
bool FakeKernel::Socket::has_room(bool normal) {
  if (ring != nullptr) return ring->is_free(normal ? ring->geometry().block_count / 4 : 0);
  return frames != nullptr && frames->is_free(normal ? frames->count() / 4 : 0);
}

bool FakeKernel::Socket::receive(const TestPacket& packet, std::uint64_t now_ns, bool slowly) {
  if (rejects_all()) return false;
  if (frames != nullptr) return frames->receive(packet);
  if (ring == nullptr) return false;
  return slowly ? ring->begin(packet, now_ns) : ring->receive(packet, now_ns);
}

void FakeKernel::bind(int socket, int ifindex) {
  sockets_.at(socket).ifindex = ifindex;
  order_.insert(order_.begin(), socket);  // net/core/dev.c: dev_add_pack
}

bool FakeKernel::receive(int ifindex, std::uint32_t number, std::size_t bytes) {
  return receive(ifindex, packet(number, bytes), false);
}

void FakeKernel::receive_slowly(int ifindex, std::uint32_t number) {
  (void)receive(ifindex, packet(number, kPacketBytes), true);
}

bool FakeKernel::receive(int ifindex, const TestPacket& packet, bool slowly) {
  bool stored = false;
  std::vector<std::uint32_t> groups;
  now_ns_ += 100;
  for (const int fd : order_) {
    const auto found = sockets_.find(fd);
    if (found == sockets_.end() || found->second.ifindex != ifindex) continue;
    Socket& socket = found->second;
    if (socket.group == 0) {
      stored |= socket.receive(packet, realtime_ns(), slowly);
    } else if (std::find(groups.begin(), groups.end(), socket.group) == groups.end()) {
      groups.push_back(socket.group);
      stored |= pass_on(socket.group, packet, slowly);
    }
  }
  return stored;
}

/// Does what af_packet.c: packet_rcv_fanout does, for a program's group with
/// PACKET_FANOUT_FLAG_ROLLOVER.
bool FakeKernel::pass_on(std::uint32_t group, const TestPacket& packet, bool slowly) {
  const std::vector<int>& members = groups_.at(group);
  const unsigned own = chosen_[group] % static_cast<unsigned>(members.size());
  Socket* to = &sockets_.at(members[own]);
  if (!to->has_room(false)) {
    to->pressure = true;
    for (const int fd : members) {
      Socket& other = sockets_.at(fd);
      if (&other == to || other.pressure) continue;
      other.pressure = !other.has_room(true);
      if (other.pressure) continue;
      to = &other;
      break;
    }
  }
  return to->receive(packet, realtime_ns(), slowly);
}

void FakeKernel::wait_for_grace() {
  ++grace_periods_;
  if (in_grace_) return;
  in_grace_ = true;
  if (in_grace_period) in_grace_period();
  for (auto& [fd, socket] : sockets_) {
    if (socket.ring != nullptr) socket.ring->finish();
  }
  now_ns_ += kMs / 2;
  in_grace_ = false;
}

// ---- Sockets ----

bool FakeKernel::is_readable(int fd) {
  const Socket& socket = sockets_.at(fd);
  return socket.ring != nullptr && socket.ring->is_readable();
}

void FakeKernel::trouble(int fd) { sockets_.at(fd).troubled = true; }

void FakeKernel::change_links() {
  if (links_ >= 0) wake(links_);
}

int FakeKernel::open_socket(int domain, int type) {
  const bool is_packet = domain == AF_PACKET;
  // Netlink sockets without SOCK_NONBLOCK ask for the interfaces' sizes, which are all ordinary
  // here.
  if (!is_packet && (!has_netlink_ || (type & SOCK_NONBLOCK) == 0)) {
    errno = EAFNOSUPPORT;
    return -1;
  }
  const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  sockets_[fd].is_packet = is_packet;
  if (!is_packet) links_ = fd;
  return fd;
}

void FakeKernel::close_socket(int fd) {
  if (sockets_.erase(fd) == 0) return;
  order_.erase(std::remove(order_.begin(), order_.end(), fd), order_.end());
  for (auto& [group, members] : groups_) {  // af_packet.c: __fanout_unlink
    const auto found = std::find(members.begin(), members.end(), fd);
    if (found == members.end()) continue;
    *found = members.back();
    members.pop_back();
  }
}

int FakeKernel::make_ring(int fd, Socket& socket, const void* value, unsigned length) {
  tpacket_req3 request{};
  std::memcpy(&request, value, std::min<std::size_t>(length, sizeof(request)));
  if (request.tp_block_nr == 0) {
    wait_for_grace();
    if (has_grace_periods) return 0;
    errno = EPERM;
    return -1;
  }
  if (socket.version == TPACKET_V3) {
    const Geometry geometry{request.tp_block_size, request.tp_block_nr, request.tp_retire_blk_tov,
                            request.tp_sizeof_priv};
    socket.ring = std::make_unique<KernelRing>(geometry, socket.headroom, realtime_ns());
    socket.ring->on_ready([fd] { wake(fd); });
  } else {
    socket.frames = std::make_unique<KernelFrames>(request.tp_frame_nr, request.tp_frame_size,
                                                   request.tp_block_size / request.tp_frame_size,
                                                   request.tp_block_size);
    socket.frames->on_ready([fd] { wake(fd); });
  }
  return 0;
}

int FakeKernel::set_option(int fd, int level, int name, const void* value, unsigned length) {
  Socket& socket = sockets_.at(fd);
  if (level == SOL_SOCKET && name == SO_ATTACH_FILTER) {
    const auto& program = *static_cast<const sock_fprog*>(value);
    socket.filter.assign(program.filter, program.filter + program.len);
    return 0;
  }
  if (level == SOL_SOCKET && name == SO_DETACH_FILTER) socket.filter.clear();
  if (level != SOL_PACKET) return 0;
  switch (name) {
    case PACKET_VERSION:
      socket.version = *static_cast<const int*>(value);
      break;
    case PACKET_RESERVE:
      socket.headroom = *static_cast<const unsigned*>(value);
      break;
    case PACKET_RX_RING:
      return make_ring(fd, socket, value, length);
    case PACKET_FANOUT:
      if (before_join) before_join();
      socket.group = *static_cast<const std::uint32_t*>(value);
      groups_[socket.group].push_back(fd);
      order_.erase(std::remove(order_.begin(), order_.end(), fd), order_.end());
      order_.insert(order_.begin(), fd);
      break;
    case PACKET_FANOUT_DATA:
      chosen_[socket.group] = static_cast<const sock_fprog*>(value)->filter[0].k;
      wait_for_grace();
      break;
    default:
      break;
  }
  return 0;
}

int FakeKernel::get_option(int fd, int level, int name, void* value, unsigned* length) {
  Socket& socket = sockets_.at(fd);
  if (level == SOL_SOCKET && name == SO_GET_FILTER) {
    std::copy(socket.filter.begin(), socket.filter.end(), static_cast<sock_filter*>(value));
    *length = static_cast<unsigned>(socket.filter.size());
    return 0;
  }
  tpacket_stats_v3 stats{};
  std::memset(value, 0, *length);
  if (level == SOL_PACKET && name == PACKET_STATISTICS) {
    const KernelCounts counts = socket.ring != nullptr     ? socket.ring->take_counts()
                                : socket.frames != nullptr ? socket.frames->take_counts()
                                                           : KernelCounts();
    stats = {counts.packets, counts.drops, counts.freezes};
    std::memcpy(value, &stats, std::min<std::size_t>(*length, sizeof(stats)));
  }
  if (level == SOL_PACKET && name == PACKET_FANOUT) {
    std::memcpy(value, &socket.group, sizeof(socket.group));
  }
  return 0;
}

void* FakeKernel::map(int fd) {
  const Socket& socket = sockets_.at(fd);
  return socket.ring != nullptr ? socket.ring->map() : socket.frames->map();
}

}  // namespace pcapv3::test
