// SPDX-License-Identifier: BSD-3-Clause
#include "fake_kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstring>
#include <utility>

#include "catch.h"

using pcapv3::test::FakeKernel;

// ---- The system calls, which the linker renames ----

// The names are the linker's, for --wrap.
// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming)
extern "C" {
int __real_socket(int, int, int);
int __real_close(int);
int __real_bind(int, const sockaddr*, socklen_t);
int __real_getsockname(int, sockaddr*, socklen_t*);
int __real_fcntl(int, int, ...);
int __real_dup3(int, int, int);
int __real_setsockopt(int, int, int, const void*, socklen_t);
int __real_getsockopt(int, int, int, void*, socklen_t*);
void* __real_mmap(void*, size_t, int, int, int, off_t);
int __real_munmap(void*, size_t);
int __real_stat(const char*, struct stat*);
int __real_pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
int __real_pthread_join(pthread_t, void**);
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
  return kernel != nullptr && kernel->owns(fd) ? kernel->bind(fd, address, length)
                                               : __real_bind(fd, address, length);
}

int __wrap_getsockname(int fd, sockaddr* address, socklen_t* length) {
  FakeKernel* const kernel = FakeKernel::current();
  return kernel != nullptr && kernel->owns(fd) ? kernel->get_address(fd, address, length)
                                               : __real_getsockname(fd, address, length);
}

int __wrap_fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  const long argument = va_arg(arguments, long);
  va_end(arguments);
  FakeKernel* const kernel = FakeKernel::current();
  const bool copies = kernel != nullptr && kernel->owns(fd) && command == F_DUPFD_CLOEXEC;
  if (copies && kernel->fails(FakeKernel::Call::kDup) != 0) return -1;
  const int result = __real_fcntl(fd, command, argument);
  if (copies && result >= 0) kernel->duplicate(fd, result);
  return result;
}

int __wrap_dup3(int fd, int to, int flags) {
  FakeKernel* const kernel = FakeKernel::current();
  const bool owns = kernel != nullptr && kernel->owns(fd);
  if (owns && kernel->fails(FakeKernel::Call::kDupTo) != 0) return -1;
  const int result = __real_dup3(fd, to, flags);
  if (owns && result >= 0) kernel->duplicate(fd, result);
  return result;
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
             ? kernel->map(fd, bytes)
             : __real_mmap(at, bytes, protection, flags, fd, offset);
}

int __wrap_munmap(void* at, size_t bytes) {
  if (FakeKernel* const kernel = FakeKernel::current()) kernel->unmap(at);
  return __real_munmap(at, bytes);
}

int __wrap_stat(const char* path, struct stat* result) {
  const int status = __real_stat(path, result);
  FakeKernel* const kernel = FakeKernel::current();
  if (kernel != nullptr && std::strcmp(path, "/proc/thread-self/ns/net") == 0) {
    result->st_ino = kernel->net_namespace;
  }
  return status;
}

int __wrap_pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*),
                          void* of) {
  FakeKernel* const kernel = FakeKernel::current();
  if (kernel == nullptr) return __real_pthread_create(thread, attributes, run, of);
  *thread = kernel->start_thread([run, of] { (void)run(of); });
  return 0;
}

int __wrap_pthread_join(pthread_t thread, void** result) {
  FakeKernel* const kernel = FakeKernel::current();
  if (kernel != nullptr && kernel->join_thread(thread)) return 0;
  return __real_pthread_join(thread, result);
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

FakeKernel::Socket::~Socket() {
  if (event >= 0) __real_close(event);
}

int FakeKernel::fails(Call call) const {
  const int reason = failure ? failure(call) : 0;
  if (reason != 0) errno = reason;
  return reason;
}

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
  for (const std::unique_ptr<Socket>& each : sockets_) {
    Socket& socket = *each;
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
  const auto found = fds_.find(fd);
  if (found != fds_.end()) {
    // af_packet.c: packet_rcv_try_clear_pressure.
    Socket& socket = *found->second;
    if (socket.pressure && socket.has_much_room()) socket.pressure = false;
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
  const auto found = fds_.find(fd);
  if (found != fds_.end()) found->second->watchers[epoll] = data;
}

int FakeKernel::poll_events(int epoll, epoll_event* events, int max, int timeout_ms) {
  int count = 0;
  const auto look = [&] {
    count = __real_epoll_wait(epoll, events, max, 0);
    for (const std::unique_ptr<Socket>& each : sockets_) {
      Socket& socket = *each;
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
                    .nsec = static_cast<std::uint32_t>(stamp % 1'000'000'000),
                    .status = stamps_for_all() ? TP_STATUS_TS_SOFTWARE : 0u};
  std::memcpy(packet.bytes.data(), &number, sizeof(number));
  std::memcpy(packet.bytes.data() + packet.bytes.size() - sizeof(number), &number, sizeof(number));
  return packet;
}

/// Runs the filter, which may be made of loading the packet's number, its remainder, jumps if that
/// is equal, and results.
bool FakeKernel::Socket::accepts(const TestPacket& packet) const {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < filter.size(); ++i) {
    const sock_filter& step = filter[i];
    switch (step.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        std::memcpy(&value, packet.bytes.data() + step.k, sizeof(value));
        break;
      case BPF_ALU | BPF_MOD | BPF_K:
        value %= step.k;
        break;
      case BPF_JMP | BPF_JEQ | BPF_K:
        i += value == step.k ? step.jt : step.jf;
        break;
      case BPF_RET | BPF_K:
        return step.k != 0;
      default:
        FAIL("an instruction that this kernel does not know");
    }
  }
  return true;
}

/// A socket's counts outlive its ring.
KernelCounts FakeKernel::Socket::take_counts() {
  KernelCounts sum = std::exchange(counts, KernelCounts());
  const KernelCounts now = ring != nullptr     ? ring->take_counts()
                           : frames != nullptr ? frames->take_counts()
                                               : KernelCounts();
  sum.packets += now.packets;
  sum.drops += now.drops;
  sum.freezes += now.freezes;
  return sum;
}

/// Whether a group gives this member a packet that is its own, of a flow that is not huge
/// (af_packet.c: fanout_demux_rollover).
bool FakeKernel::Socket::has_room() const {
  if (ring != nullptr) return ring->is_free(ring->geometry().block_count / 4) || ring->is_free(0);
  return frames != nullptr && frames->has_room();
}

/// The same for a packet that has found no room with its own member.
bool FakeKernel::Socket::has_much_room() const {
  if (ring != nullptr) return ring->is_free(ring->geometry().block_count / 4);
  return frames != nullptr && frames->has_room(true);
}

bool FakeKernel::Socket::receive(const TestPacket& packet, std::uint64_t now_ns, bool slowly) {
  if (!accepts(packet)) return false;
  if (frames != nullptr) return frames->receive(packet);
  if (ring == nullptr) return false;
  return slowly ? ring->begin(packet, now_ns) : ring->receive(packet, now_ns);
}

bool FakeKernel::receive(int ifindex, std::uint32_t number, std::size_t bytes) {
  return receive(ifindex, packet(number, bytes), false);
}

void FakeKernel::receive_slowly(int ifindex, std::uint32_t number) {
  under_way_.insert(number);
  (void)receive(ifindex, packet(number, kPacketBytes), true);
}

void FakeKernel::receive_in_parts(int ifindex, std::uint32_t number, std::size_t bytes,
                                  unsigned sockets) {
  Part part{number, packet(number, bytes), {}};
  now_ns_ += 100;
  for (Socket* const socket : order_) {
    if (socket->ifindex != ifindex) continue;
    if (socket->group != 0) FAIL("a packet in parts for a fan-out group");
    if (sockets == 0) {
      part.rest.push_back(socket);
    } else {
      (void)store(*socket, part.packet, false);
      --sockets;
    }
  }
  under_way_.insert(number);
  parts_.push_back(std::move(part));
}

bool FakeKernel::receive(int ifindex, const TestPacket& packet, bool slowly) {
  bool stored = false;
  std::vector<std::uint32_t> groups;
  now_ns_ += 100;
  for (Socket* const socket : order_) {
    if (socket->ifindex != ifindex) continue;
    if (socket->group == 0) {
      stored |= store(*socket, packet, slowly);
    } else if (std::find(groups.begin(), groups.end(), socket->group) == groups.end()) {
      groups.push_back(socket->group);
      stored |= pass_on(socket->group, packet, slowly);
    }
  }
  return stored;
}

/// Stores the packet with its stamp, if it has one for all sockets, or else with one of its own, as
/// af_packet.c: tpacket_rcv does.
bool FakeKernel::store(Socket& socket, const TestPacket& packet, bool slowly) {
  if ((packet.status & TP_STATUS_TS_SOFTWARE) != 0) {
    return socket.receive(packet, realtime_ns(), slowly);
  }
  constexpr std::uint64_t kApartNs = 7;
  TestPacket stamped = packet;
  stamped.sec = static_cast<std::uint32_t>(realtime_ns() / 1'000'000'000);
  stamped.nsec = static_cast<std::uint32_t>(realtime_ns() % 1'000'000'000);
  now_ns_ += kApartNs;
  return socket.receive(stamped, realtime_ns(), slowly);
}

bool FakeKernel::stamps_for_all() const {
  return std::any_of(sockets_.begin(), sockets_.end(), [](const auto& s) { return s->stamps; });
}

/// Does what af_packet.c: packet_rcv_fanout does, for a program's group with
/// PACKET_FANOUT_FLAG_ROLLOVER.
bool FakeKernel::pass_on(std::uint32_t group, const TestPacket& packet, bool slowly) {
  const std::vector<Socket*>& members = groups_.at(group);
  const unsigned own = chosen_[group] % static_cast<unsigned>(members.size());
  Socket* to = members[own];
  if (!to->has_room()) {
    to->pressure = true;
    for (Socket* const other : members) {
      if (other == to || other->pressure) continue;
      other->pressure = !other->has_much_room();
      if (other->pressure) continue;
      to = other;
      break;
    }
  }
  return store(*to, packet, slowly);
}

void FakeKernel::wait_for_grace() {
  ++grace_periods_;
  if (in_grace_) return;
  in_grace_ = true;
  // Only what began before it is over when it ends.
  for (const std::unique_ptr<Socket>& socket : sockets_) {
    if (socket->ring != nullptr) socket->ring->finish();
  }
  under_way_.clear();
  const std::size_t parts = parts_.size();
  for (const Part& part : parts_) under_way_.insert(part.number);
  if (in_grace_period) in_grace_period();
  for (std::size_t i = 0; i < parts; ++i) {
    for (Socket* const socket : parts_[i].rest) (void)store(*socket, parts_[i].packet, false);
    under_way_.erase(parts_[i].number);
  }
  parts_.erase(parts_.begin(), parts_.begin() + static_cast<std::ptrdiff_t>(parts));
  now_ns_ += kMs / 2;
  in_grace_ = false;
}

// ---- Sockets ----

bool FakeKernel::is_readable(int fd) {
  const Socket& socket = *fds_.at(fd);
  return socket.ring != nullptr && socket.ring->is_readable();
}

unsigned FakeKernel::memberships() const {
  unsigned sum = 0;
  for (const std::unique_ptr<Socket>& socket : sockets_) sum += socket->memberships;
  return sum;
}

void FakeKernel::trouble(int fd) { fds_.at(fd)->troubled = true; }

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
  sockets_.push_back(std::make_unique<Socket>());
  Socket& socket = *sockets_.back();
  socket.event = __real_fcntl(fd, F_DUPFD_CLOEXEC, 3);
  socket.is_packet = is_packet;
  socket.fds = 1;
  fds_[fd] = &socket;
  if (!is_packet) links_ = fd;
  return fd;
}

void FakeKernel::duplicate(int fd, int copy) {
  Socket& socket = *fds_.at(fd);
  ++socket.fds;
  close_socket(copy);
  fds_[copy] = &socket;
}

void FakeKernel::close_socket(int fd) {
  const auto found = fds_.find(fd);
  if (found == fds_.end()) return;
  Socket& socket = *found->second;
  fds_.erase(found);
  --socket.fds;
  release(socket);
}

/// Frees a socket of which nothing is left.
void FakeKernel::release(Socket& socket) {
  if (socket.fds != 0 || socket.mappings != 0) return;
  unhook(socket);
  for (auto& [group, members] : groups_) {  // af_packet.c: __fanout_unlink
    const auto found = std::find(members.begin(), members.end(), &socket);
    if (found == members.end()) continue;
    *found = members.back();
    members.pop_back();
  }
  const auto found = std::find_if(sockets_.begin(), sockets_.end(),
                                  [&](const auto& each) { return each.get() == &socket; });
  // Freeing it unmaps its ring, which comes back here.
  const std::unique_ptr<Socket> freed = std::move(*found);
  sockets_.erase(found);
}

bool FakeKernel::is_in_order(const Socket& socket) const {
  return std::find(order_.begin(), order_.end(), &socket) != order_.end();
}

/// net/core/dev.c: dev_add_pack.
void FakeKernel::hook(Socket& socket) { order_.insert(order_.begin(), &socket); }

/// net/core/dev.c: dev_remove_pack. Whoever is on the way to the socket does not find it.
void FakeKernel::unhook(Socket& socket) {
  order_.erase(std::remove(order_.begin(), order_.end(), &socket), order_.end());
  for (Part& part : parts_) {
    part.rest.erase(std::remove(part.rest.begin(), part.rest.end(), &socket), part.rest.end());
  }
}

void FakeKernel::bind(int socket, int ifindex) {
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = ifindex;
  (void)bind(socket, &address, sizeof(address));
}

/// af_packet.c: packet_do_bind. With ETH_P_ALL, a socket gets everything; with another protocol,
/// nothing, as no packet here has one.
int FakeKernel::bind(int fd, const void* value, unsigned length) {
  Socket& socket = *fds_.at(fd);
  if (!socket.is_packet) return 0;
  sockaddr_ll address{};
  if (length < sizeof(address) || socket.group != 0) {
    errno = EINVAL;
    return -1;
  }
  if (fails(Call::kBind) != 0) return -1;
  std::memcpy(&address, value, sizeof(address));
  if (address.sll_protocol != 0) socket.protocol = address.sll_protocol;
  const bool was_in_order = is_in_order(socket);
  if (was_in_order) {
    unhook(socket);
    wait_for_grace();
  }
  socket.ifindex = address.sll_ifindex;
  if (socket.protocol == htons(ETH_P_ALL)) hook(socket);
  return 0;
}

int FakeKernel::get_address(int fd, void* value, unsigned* length) const {
  const Socket& socket = *fds_.at(fd);
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = socket.protocol;
  address.sll_ifindex = socket.ifindex;
  address.sll_halen = 6;
  std::memcpy(value, &address, std::min<std::size_t>(*length, sizeof(address)));
  *length = sizeof(address);
  return 0;
}

/// af_packet.c: packet_set_ring.
int FakeKernel::make_ring(Socket& socket, const void* value, unsigned length) {
  tpacket_req3 request{};
  if (length < (socket.version == TPACKET_V3 ? sizeof(tpacket_req3) : sizeof(tpacket_req))) {
    errno = EINVAL;
    return -1;
  }
  std::memcpy(&request, value, std::min<std::size_t>(length, sizeof(request)));
  const bool had_ring = socket.ring != nullptr || socket.frames != nullptr;
  if (socket.mappings != 0 || (request.tp_block_nr != 0 && had_ring)) {
    errno = EBUSY;
    return -1;
  }
  if (request.tp_block_nr != 0 && fails(Call::kMakeRing) != 0) return -1;
  if (request.tp_block_nr == 0 && !had_ring) {
    if (fails(Call::kGrace) != 0) return -1;
    if (!has_grace_periods) {
      errno = EPERM;
      return -1;
    }
  }
  const bool was_in_order = is_in_order(socket);
  if (was_in_order) unhook(socket);
  wait_for_grace();
  if (was_in_order) hook(socket);
  if (request.tp_block_nr == 0) {
    socket.counts = socket.take_counts();
    socket.ring = nullptr;
    socket.frames = nullptr;
  } else if (socket.version == TPACKET_V3) {
    const Geometry geometry{request.tp_block_size, request.tp_block_nr, request.tp_retire_blk_tov,
                            request.tp_sizeof_priv};
    socket.ring = std::make_unique<KernelRing>(geometry, socket.headroom, realtime_ns());
    socket.ring->on_ready([&socket] { wake(socket.event); });
  } else {
    socket.frames = std::make_unique<KernelFrames>(request.tp_frame_nr, request.tp_frame_size,
                                                   request.tp_block_size / request.tp_frame_size,
                                                   request.tp_block_size);
    socket.frames->on_ready([&socket] { wake(socket.event); });
  }
  return 0;
}

int FakeKernel::set_option(int fd, int level, int name, const void* value, unsigned length) {
  Socket& socket = *fds_.at(fd);
  if (level == SOL_SOCKET && name == SO_ATTACH_FILTER) {
    const auto& program = *static_cast<const sock_fprog*>(value);
    socket.filter.assign(program.filter, program.filter + program.len);
    return 0;
  }
  if (level == SOL_SOCKET && name == SO_DETACH_FILTER) {
    if (socket.filter.empty() && socket.is_packet) {
      errno = ENOENT;
      return -1;
    }
    socket.filter.clear();
  }
  if (level == SOL_SOCKET && name == SO_TIMESTAMPNS) {
    socket.stamps = *static_cast<const int*>(value) != 0;
  }
  if (level != SOL_PACKET) return 0;
  switch (name) {
    case PACKET_VERSION:
    case PACKET_RESERVE:
      if (socket.ring != nullptr || socket.frames != nullptr) {
        errno = EBUSY;
        return -1;
      }
      if (name == PACKET_VERSION) {
        socket.version = *static_cast<const int*>(value);
      } else {
        socket.headroom = *static_cast<const unsigned*>(value);
      }
      break;
    case PACKET_RX_RING:
      return make_ring(socket, value, length);
    case PACKET_FANOUT:
      if (before_join) before_join();
      socket.group = *static_cast<const std::uint32_t*>(value);
      groups_[socket.group].push_back(&socket);
      unhook(socket);
      hook(socket);
      break;
    case PACKET_FANOUT_DATA:
      chosen_[socket.group] = static_cast<const sock_fprog*>(value)->filter[0].k;
      wait_for_grace();
      break;
    case PACKET_ADD_MEMBERSHIP:
      ++socket.memberships;
      break;
    case PACKET_DROP_MEMBERSHIP:
      if (socket.memberships == 0) {
        errno = EADDRNOTAVAIL;
        return -1;
      }
      --socket.memberships;
      break;
    default:
      if (length == sizeof(int)) std::memcpy(&socket.options[name], value, sizeof(int));
      break;
  }
  return 0;
}

int FakeKernel::get_option(int fd, int level, int name, void* value, unsigned* length) {
  Socket& socket = *fds_.at(fd);
  if (level == SOL_SOCKET && name == SO_GET_FILTER) {  // net/core/filter.c: sk_get_filter
    if (fails(Call::kGetFilter) != 0) return -1;
    if (*length != 0 && *length < socket.filter.size()) {
      errno = EINVAL;
      return -1;
    }
    if (*length != 0) {
      std::copy(socket.filter.begin(), socket.filter.end(), static_cast<sock_filter*>(value));
    }
    *length = static_cast<unsigned>(socket.filter.size());
    return 0;
  }
  std::memset(value, 0, *length);
  if (level != SOL_PACKET) return 0;
  const auto give = [&](const auto& result) {
    std::memcpy(value, &result, std::min<std::size_t>(*length, sizeof(result)));
    return 0;
  };
  switch (name) {
    case PACKET_STATISTICS: {
      const KernelCounts counts = socket.take_counts();
      return give(tpacket_stats_v3{counts.packets, counts.drops, counts.freezes});
    }
    case PACKET_FANOUT:
      return give(socket.group);
    case PACKET_VERSION:
      return give(socket.version);
    case PACKET_RESERVE:
      return give(socket.headroom);
    default:
      return give(socket.options[name]);
  }
}

void* FakeKernel::map(int fd, std::size_t bytes) {
  Socket& socket = *fds_.at(fd);
  if (fails(Call::kMap) != 0) return MAP_FAILED;
  if (socket.ring != nullptr && bytes != socket.ring->geometry().ring_bytes()) {
    errno = EINVAL;
    return MAP_FAILED;
  }
  void* const at = socket.ring != nullptr ? socket.ring->map() : socket.frames->map();
  ++socket.mappings;
  mappings_[at] = &socket;
  return at;
}

void FakeKernel::unmap(void* at) {
  const auto found = mappings_.find(at);
  if (found == mappings_.end()) return;
  Socket& socket = *found->second;
  mappings_.erase(found);
  --socket.mappings;
  release(socket);
}

// ---- Threads ----

unsigned long FakeKernel::start_thread(std::function<void()> work) {
  const unsigned long thread = ++threads_;
  running_[thread] = std::move(work);
  if (thread_ns == 0) {
    (void)join_thread(thread);
  } else {
    at(thread_ns, [this, thread] { (void)join_thread(thread); });
  }
  return thread;
}

bool FakeKernel::join_thread(unsigned long thread) {
  if (thread == 0 || thread > threads_) return false;
  const auto found = running_.find(thread);
  if (found == running_.end()) return true;  // it is done
  const std::function<void()> work = std::move(found->second);
  running_.erase(found);
  work();
  return true;
}

}  // namespace pcapv3::test
