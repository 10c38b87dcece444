// SPDX-License-Identifier: BSD-3-Clause
// A kernel for unit tests of the reading loop: packet sockets, their rings and fan-out groups, the
// two clocks, and the waits that the module calls. While one exists, this program's system calls
// come here (through the linker's --wrap, Makefile.am) as far as they concern its sockets, time or
// waiting; all others go to the real kernel.
//
// Time stands still, except that each look at a clock takes a little. It passes during a wait and
// in pass(): then the events requested by at() happen, and retire timers expire. So tests need
// neither privileges nor patience, and run the same way each time.
#pragma once

#include <linux/filter.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
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

  /// Packets of interface `ifindex` come to `socket` from now on.
  void bind(int socket, int ifindex);
  /// Has a packet with this number, of `bytes` in all, come by interface `ifindex`. Returns whether
  /// it was stored.
  bool receive(int ifindex, std::uint32_t number, std::size_t bytes = 60);
  /// Does the same on a slow CPU: the sockets count the packet now, and store it in the next grace
  /// period.
  void receive_slowly(int ifindex, std::uint32_t number);
  /// in_grace_period runs once in each wait for a grace period; has_grace_periods says whether a
  /// second socket can request one.
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

  // ---- Sockets ----

  KernelRing& ring(int socket) { return *sockets_.at(socket).ring; }
  KernelFrames& frames(int socket) { return *sockets_.at(socket).frames; }
  bool is_readable(int socket);
  /// Gives the socket an error, as when its interface goes down.
  void trouble(int socket);
  /// Has netlink report that an interface has come or gone.
  void change_links();
  /// Has no netlink for new sockets from now on.
  void remove_netlink() { has_netlink_ = false; }

  // ---- System calls ----

  static FakeKernel* current() { return the_kernel; }
  bool owns(int fd) const { return sockets_.count(fd) != 0; }
  int open_socket(int domain, int type);
  void close_socket(int fd);
  int set_option(int fd, int level, int name, const void* value, unsigned length);
  int get_option(int fd, int level, int name, void* value, unsigned* length);
  void* map(int fd);
  void look_at_clock();
  void watch(int epoll, int fd, std::uint32_t data);
  int poll_events(int epoll, ::epoll_event* events, int max, int timeout_ms);
  int poll_one(int fd, int timeout_ms, const std::function<bool()>& is_ready);
  void set_timer(int fd, std::uint64_t in_ns);

 private:
  struct Socket {
    int version = 0;
    std::uint32_t headroom = 0;
    int ifindex = 0;
    bool is_packet = false;
    bool pressure = false;
    std::vector<sock_filter> filter;
    std::uint32_t group = 0;
    std::unique_ptr<KernelRing> ring;
    unsigned timer_starts = 0;  // as last seen, and when the timer expires
    std::uint64_t timer_ns = 0;
    std::unique_ptr<KernelFrames> frames;
    std::map<int, std::uint32_t> watchers;  // epoll descriptors, each with the data of its events
    bool troubled = false;

    bool rejects_all() const;
    bool has_room(bool normal);
    bool receive(const TestPacket& packet, std::uint64_t now_ns, bool slowly);
  };

  bool step(std::uint64_t until_ns);
  bool receive(int ifindex, const TestPacket& packet, bool slowly);
  bool pass_on(std::uint32_t group, const TestPacket& packet, bool slowly);
  void wait_for_grace();
  int make_ring(int fd, Socket& socket, const void* value, unsigned length);
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
  std::map<int, Socket> sockets_;
  std::vector<int> order_;  // the sockets in the order in which they get packets: the last to be
                            // bound or to join is first
  std::map<std::uint32_t, std::vector<int>> groups_;
  std::map<std::uint32_t, unsigned> chosen_;  // the member that each group's program chooses
  std::map<int, unsigned> timers_;            // how often each timer was set
};

/// Returns the number of a packet that FakeKernel::receive() made; fails the test if it is no such
/// packet.
std::uint32_t number_of(const std::uint8_t* bytes, std::size_t captured);

}  // namespace pcapv3::test
