// SPDX-License-Identifier: BSD-3-Clause
// What a reader waits on that has more than one socket to wait for, or whose socket tells too much:
// the sockets of its ports, a timer, a break, and changes of the ports' interfaces; and the one
// descriptor that stands for all of these, for programs that wait by select(2), poll(2) or epoll(7)
// themselves.
//
// Everything in it is edge-triggered. A packet socket calls itself readable for as long as the last
// block that it handed over is not given back (af_packet.c: packet_poll), which blocks that are
// held for the sake of order, or by the program, would make it all the time.
//
// Leaves to others what an event leads to.
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
    bool descriptor = false;  ///< A program may wait by it, so that wake_in() has to work.
    bool links = false;       ///< It reports changes of interfaces, where the kernel does: a
                              ///< container may have no netlink.
  };
  /// Makes the descriptors. False, with a text, if they are unavailable.
  bool open(const Options& options, ErrorText& error);
  void close();
  bool is_open() const { return events_ >= 0; }
  /// Takes in the socket of port `port`, or tells why not by errno.
  bool add(unsigned port, int socket);
  /// Takes it out, of a handle that is read on with another one in its place. Else it is only
  /// closed: the set is a forked process's too.
  void remove(int socket);

  /// An interface that changes are to be told of: by its name, of which there may be none just now,
  /// and by its number, which is 0 then.
  struct Link {
    const char* name;
    int index;
  };
  bool has_links() const { return links_ >= 0; }
  /// Has changes of `links` alone told of; until then it is all interfaces' of this namespace.
  void watch(const Link* links, unsigned count);

  /// Readable when an event is there that collect() has not taken. Ours to close. As stock code's
  /// packet sockets, and the programs' to change, it stays open in a program that is executed.
  int descriptor() const { return events_; }

  /// What has happened since the last time.
  struct Events {
    bool some = false;           ///< There were any.
    std::uint64_t troubled = 0;  ///< Ports, by bit, whose sockets have an error.
    bool links = false;          ///< An interface has come, gone or changed. May be nobody's.
  };
  static constexpr std::uint64_t kForEver = ~std::uint64_t{0};
  /// Waits up to `wait_ns` nanoseconds, in steps of a millisecond, for an event, and takes all that
  /// are there. False, with errno, if that fails; a signal is no failure.
  bool collect(std::uint64_t wait_ns, Events& events);

  /// Makes an event `ns` nanoseconds from now, 0 for at once, kForEver for none, in place of one
  /// asked for before. For who waits on the descriptor: collect() needs none to end.
  void wake_in(std::uint64_t ns);
  /// As wake_in(0), at no cost if that was asked for already and the event was not taken yet.
  void stay_awake();

  /// Waits for a break only, at most `ms` milliseconds.
  void sleep(int ms) const;

  /// An eventfd(2): what is written to it is an event.
  int break_event() const { return break_; }

 private:
  int events_ = -1;
  int timer_ = -1;
  int break_ = -1;
  int links_ = -1;
  bool other_names_ = false;  // an interface was called by another name than its own
  enum class Timer { kOff, kSet, kNow } timer_state_ = Timer::kOff;
};

}  // namespace pcapv3
