// SPDX-License-Identifier: BSD-3-Clause
// A kernel for unit tests of the reading loop: packet sockets, their rings and fan-out groups, the
// two clocks, and the waits that the module calls. While one exists, this program's system calls
// come here (through the linker's --wrap, Makefile.am) as far as they concern its sockets, time or
// waiting; all others go to the real kernel.
//
// Time stands still, except that each look at a clock takes a little. It passes during a wait and
// in pass(): then the events requested by at() happen, and retire timers expire. So tests need
// neither privileges nor patience, and run the same way each time. For the same reason there is one
// thread: what the module does on a thread of its own is such an event, too.
#pragma once

#include <linux/filter.h>
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "tests/kernel_ring.h"

struct epoll_event;

namespace pcapv3::test {

class FakeKernel {
 public:
  static constexpr std::uint64_t kMs = 1'000'000;

  FakeKernel();
  ~FakeKernel();
  FakeKernel(const FakeKernel&) = delete;
  FakeKernel& operator=(const FakeKernel&) = delete;

  // ---- Time ----

  std::uint64_t now_ns() const { return now_ns_; }  ///< CLOCK_MONOTONIC.
  std::uint64_t realtime_ns() const { return now_ns_ + realtime_offset_ns_; }
  void set_clock_back(std::uint64_t ns) { realtime_offset_ns_ -= ns; }
  /// Has `event` happen `in_ns` from now.
  void at(std::uint64_t in_ns, std::function<void()> event);
  /// Does the same in a signal handler: `event` raises the signal, which interrupts a wait.
  void signal_at(std::uint64_t in_ns, std::function<void()> event);
  bool has_events() const { return !events_.empty(); }  ///< Whether an event is still to come.
  void pass(std::uint64_t ns);
  /// Waits until `is_ready` or `until_ns`. Returns false if a signal came first.
  bool wait(std::uint64_t until_ns, const std::function<bool()>& is_ready);
  /// Returns how often somebody has waited, whether or not in vain.
  unsigned waits() const { return waits_; }

  // ---- Packets ----

  /// Does what bind(2) does with ETH_P_ALL: packets of interface `ifindex` come to `socket` from
  /// now on.
  void bind(int socket, int ifindex);
  /// Has a packet with this number, of `bytes` in all, come by interface `ifindex`. Returns whether
  /// it was stored.
  bool receive(int ifindex, std::uint32_t number, std::size_t bytes = 60);
  /// Does the same on a slow CPU: the sockets count the packet now, and store it in the next grace
  /// period.
  void receive_slowly(int ifindex, std::uint32_t number);
  /// Has a packet come whose CPU is interrupted on its way from socket to socket (net/core/dev.c:
  /// __netif_receive_skb_core): the first `sockets` of those that are bound now get it now; the
  /// others, if they are still bound then, in the next grace period. A socket that is bound
  /// meanwhile comes before all others, and does not get it.
  void receive_in_parts(int ifindex, std::uint32_t number, std::size_t bytes, unsigned sockets);
  /// Returns whether the CPU of a packet that came in one of these two ways may still be busy with
  /// it: no other packet can come by that CPU.
  bool is_under_way(std::uint32_t number) const { return under_way_.count(number) != 0; }
  /// in_grace_period runs once in each wait for a grace period: what comes in it may be under way
  /// still when that ends. has_grace_periods says whether a second socket can request one.
  std::function<void()> in_grace_period;
  bool has_grace_periods = true;
  /// Runs once, in the look at a clock after `looks` others: what happens while the module runs.
  void in_look_at_clock(unsigned looks, std::function<void()> what) {
    looks_until_ = looks;
    in_look_ = std::move(what);
  }
  /// Runs before a socket joins a fan-out group.
  std::function<void()> before_join;
  unsigned grace_periods() const { return grace_periods_; }
  void wait_for_grace();
  /// Returns whether a socket has asked for time stamps (SO_TIMESTAMPNS), so that all sockets store
  /// the same one with a packet; otherwise each asks the clock.
  bool stamps_for_all() const;

  // ---- Sockets ----

  KernelRing& ring(int socket) { return *fds_.at(socket)->ring; }
  KernelFrames& frames(int socket) { return *fds_.at(socket)->frames; }
  bool has_ring(int socket) const { return fds_.at(socket)->ring != nullptr; }
  bool is_readable(int socket);
  /// Return how many descriptors of sockets, sockets, and mappings of their rings there are, and
  /// how many promiscuous memberships those sockets have.
  unsigned descriptors() const { return static_cast<unsigned>(fds_.size()); }
  unsigned sockets() const { return static_cast<unsigned>(sockets_.size()); }
  unsigned mappings() const { return static_cast<unsigned>(mappings_.size()); }
  unsigned memberships() const;
  /// Gives the socket an error, as when its interface goes down.
  void trouble(int socket);
  /// Has netlink report that an interface has come or gone.
  void change_links();
  /// Has no netlink for new sockets from now on.
  void remove_netlink() { has_netlink_ = false; }

  /// System calls that fail while `failure` returns an error number for them, and not 0.
  enum class Call { kMakeRing, kMap, kBind, kDup, kDupTo, kGrace, kGetFilter };
  std::function<int(Call)> failure;

  // ---- Threads and namespaces ----

  /// How long the module's threads take from their start; 0: they are done before anything else
  /// happens. A thread that is waited for is done then.
  std::uint64_t thread_ns = 0;
  /// The network namespace that the calling thread is in.
  ino_t net_namespace = 1;

  // ---- System calls ----

  static FakeKernel* current() { return the_kernel; }
  bool owns(int fd) const { return fds_.count(fd) != 0; }
  int open_socket(int domain, int type);
  void close_socket(int fd);
  /// Makes `copy`, which is one of the real kernel's, a descriptor of the same socket.
  void duplicate(int fd, int copy);
  int fails(Call call) const;
  int bind(int fd, const void* address, unsigned length);
  int get_address(int fd, void* address, unsigned* length) const;
  int set_option(int fd, int level, int name, const void* value, unsigned length);
  int get_option(int fd, int level, int name, void* value, unsigned* length);
  void* map(int fd, std::size_t bytes);
  void unmap(void* at);
  void look_at_clock();
  void watch(int epoll, int fd, std::uint32_t data);
  int poll_events(int epoll, ::epoll_event* events, int max, int timeout_ms);
  int poll_one(int fd, int timeout_ms, const std::function<bool()>& is_ready);
  void set_timer(int fd, std::uint64_t in_ns);
  unsigned long start_thread(std::function<void()> work);
  /// Returns false if it is a real one.
  bool join_thread(unsigned long thread);

 private:
  struct Socket {
    Socket() = default;
    ~Socket();
    Socket(const Socket&) = delete;
    Socket& operator=(const Socket&) = delete;

    int event = -1;         // what its descriptors are copies of, to wake those who wait for it
    unsigned fds = 0;       // descriptors of it
    unsigned mappings = 0;  // of its ring: each keeps it, too
    int version = 0;
    std::uint32_t headroom = 0;
    std::uint16_t protocol = 0;  // in the network's byte order
    int ifindex = 0;
    bool is_packet = false;
    bool pressure = false;
    bool stamps = false;
    unsigned memberships = 0;
    std::map<int, int> options;  // others, which only have to be kept
    std::vector<sock_filter> filter;
    KernelCounts counts;  // of rings that it no longer has
    std::uint32_t group = 0;
    std::unique_ptr<KernelRing> ring;
    unsigned timer_starts = 0;  // as last seen, and when the timer expires
    std::uint64_t timer_ns = 0;
    std::unique_ptr<KernelFrames> frames;
    std::map<int, std::uint32_t> watchers;  // epoll descriptors, each with the data of its events
    bool troubled = false;

    bool accepts(const TestPacket& packet) const;
    KernelCounts take_counts();
    bool has_room() const;
    bool has_much_room() const;
    bool receive(const TestPacket& packet, std::uint64_t now_ns, bool slowly);
  };
  /// A packet whose CPU was interrupted.
  struct Part {
    std::uint32_t number;
    TestPacket packet;
    std::vector<Socket*> rest;
  };

  bool step(std::uint64_t until_ns);
  bool receive(int ifindex, const TestPacket& packet, bool slowly);
  bool store(Socket& socket, const TestPacket& packet, bool slowly);
  bool pass_on(std::uint32_t group, const TestPacket& packet, bool slowly);
  bool is_in_order(const Socket& socket) const;
  void hook(Socket& socket);
  void unhook(Socket& socket);
  void release(Socket& socket);
  int make_ring(Socket& socket, const void* value, unsigned length);
  TestPacket packet(std::uint32_t number, std::size_t bytes) const;

  static inline FakeKernel* the_kernel = nullptr;
  std::uint64_t now_ns_ = 1'000'000 * kMs;
  unsigned looks_until_ = 0;
  std::function<void()> in_look_;
  std::uint64_t realtime_offset_ns_ = 1'700'000'000'000 * kMs;
  std::multimap<std::uint64_t, std::function<void()>> events_;
  bool interrupted_ = false;
  unsigned waits_ = 0;
  unsigned grace_periods_ = 0;
  bool in_grace_ = false;
  bool has_netlink_ = true;
  int links_ = -1;
  std::vector<std::unique_ptr<Socket>> sockets_;
  std::map<int, Socket*> fds_;
  std::map<void*, Socket*> mappings_;
  std::vector<Socket*> order_;  // the sockets in the order in which they get packets: the last to
                                // be bound or to join is first
  std::map<std::uint32_t, std::vector<Socket*>> groups_;
  std::map<std::uint32_t, unsigned> chosen_;  // the member that each group's program chooses
  std::vector<Part> parts_;
  std::set<std::uint32_t> under_way_;
  std::map<int, unsigned> timers_;  // how often each timer was set
  unsigned long threads_ = 0;       // ever started
  std::map<unsigned long, std::function<void()>> running_;
};

/// Returns the number of a packet that FakeKernel::receive() made; fails the test if it is no such
/// packet.
std::uint32_t number_of(const std::uint8_t* bytes, std::size_t captured);

}  // namespace pcapv3::test
