// SPDX-License-Identifier: BSD-3-Clause
// The wait set of a reader that has more than one socket to wait for, or whose socket reports too
// much. It holds the sockets of its ports, a timer, a break, and changes of the ports' interfaces.
// One descriptor stands for all of these, for programs that themselves wait by select(2), poll(2)
// or epoll(7).
//
// Everything in the set is edge-triggered. A packet socket reports itself readable for as long as
// the last block that it handed over is not released (af_packet.c: packet_poll); blocks that are
// held for the sake of order, or by the program, would keep it readable all the time.
//
// What an event leads to is left to others.
#pragma once

#include <cstdint>

#include "setup/error.h"

namespace pcapv3 {

class WaitSet {
 public:
  WaitSet() = default;
  ~WaitSet();
  WaitSet(const WaitSet&) = delete;
  WaitSet& operator=(const WaitSet&) = delete;

  /// What the set is for, besides sockets and breaks.
  struct Options {
    bool descriptor = false;  ///< A program may wait on it, so wake_in() has to work.
    bool links = false;       ///< It reports changes of interfaces, if the kernel does: a container
                              ///< may have no netlink.
  };
  /// Makes the descriptors. Returns false, with a text, if they are unavailable.
  bool open(const Options& options, ErrorText& error);
  void close();
  bool is_open() const { return events_ >= 0; }
  /// Adds the socket of port `port`. Returns false, with errno, if that fails.
  bool add(unsigned port, int socket);
  /// Removes it, for a handle that continues with another socket in its place. Otherwise the socket
  /// is only closed, because a forked process may share the set.
  void remove(int socket);

  /// An interface whose changes must be reported: its name, which no interface may have just now,
  /// and its index, which is 0 then.
  struct Link {
    const char* name;
    int index;
  };
  bool has_links() const { return links_ >= 0; }
  /// Has changes of `links` alone reported; until then those of all interfaces of this namespace
  /// are.
  void watch(const Link* links, unsigned count);

  /// Readable when there is an event that collect() has not taken. The set closes it. As stock
  /// code's packet sockets do, it stays open in a program that is executed, which the program may
  /// change.
  int descriptor() const { return events_; }

  /// What has happened since the last time.
  struct Events {
    bool some = false;           ///< There were any.
    std::uint64_t troubled = 0;  ///< Ports, by bit, whose sockets have an error.
    bool links = false;          ///< An interface has come, gone or changed; it may be no port's.
  };
  static constexpr std::uint64_t kForEver = ~std::uint64_t{0};
  /// Waits up to `wait_ns` nanoseconds, in steps of a millisecond, for an event, and takes all that
  /// are there. Returns false, with errno, if that fails; a signal is no failure.
  bool collect(std::uint64_t wait_ns, Events& events);

  /// Makes an event `ns` nanoseconds from now (0: at once, kForEver: never), in place of one
  /// requested before. For programs that wait on the descriptor: collect() does not need one to
  /// end.
  void wake_in(std::uint64_t ns);
  /// Does the same as wake_in(0), at no cost if that was already requested and the event has not
  /// yet been taken.
  void stay_awake();

  /// Waits for a break only, for at most `ms` milliseconds.
  void sleep(int ms) const;

  /// Returns an eventfd(2): writing to it makes an event.
  int break_event() const { return break_; }

 private:
  int events_ = -1;
  int timer_ = -1;
  int break_ = -1;
  int links_ = -1;
  bool other_names_ = false;  // an interface was named by an alternative name
  enum class Timer { kOff, kSet, kNow } timer_state_ = Timer::kOff;
};

}  // namespace pcapv3
