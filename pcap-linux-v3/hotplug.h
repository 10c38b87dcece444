// SPDX-License-Identifier: BSD-3-Clause
// Looks after ports whose interfaces go and come back, in a multi-interface capture.
//
// A port whose interface is gone stays, with its socket and what is in its ring, while the others
// continue. It is bound to an interface of the same name once there is one again. A socket in a
// fan-out group can't be bound again: its port gets another socket, with another ring, once the old
// ring has been read. The host does the binding (host_ops.h).
#pragma once

#include <cstdint>

#include "host_ops.h"
#include "merged.h"
#include "port_set.h"
#include "setup/log.h"
#include "wait_set.h"

namespace pcapv3 {

class Hotplug {
 public:
  /// How soon to check again whether a port that is to get another socket has been read to the end.
  static constexpr std::uint64_t kUnreadNs = 5'000'000;

  Hotplug(pcap_t* handle, const pcapv3_host_ops& host, PortSet& ports, WaitSet& wait, Log& debug)
      : handle_(handle), host_(host), ports_(ports), wait_(wait), debug_(debug) {}

  /// set_merged() sets the feed that merges the ports' packets; set_window(), the time within which
  /// a gone port's blocks are handed over, if they ever are.
  void set_merged(Merged& merged) { merged_ = &merged; }
  void set_window(std::uint64_t window_ns) { window_ns_ = window_ns; }

  /// Has changes of the ports' interfaces reported, and of no others. Must be called when all ports
  /// are set.
  void watch();
  /// What the reader is doing: whether it drains, in which case no port gets another ring, and
  /// whether it acquires blocks and so has none open in the merge.
  struct Reading {
    bool draining = false;
    bool acquires = false;
  };
  /// Checks the ports as far as `events` report changes. Returns whether one came back with another
  /// ring.
  bool check(const WaitSet::Events& events, const Reading& reading);

  /// Returns whether interfaces may have changed without any event that reports it.
  bool is_blind() const { return !wait_.has_links() && (gone_ | down_) != 0; }
  /// Returns how long it is until the ports must be checked whatever events say, is_blind() aside:
  /// a gone port has not been read to the end, or has a socket that reports no event. ~0: never.
  std::uint64_t left_ns() const {
    return unread_ != 0 || unwatched_ != 0 ? kUnreadNs : WaitSet::kForEver;
  }
  bool is_all_gone() const { return gone_ == ports_.all(); }
  /// Returns when the last port to go has been gone for so long that nothing more comes from it, by
  /// CLOCK_MONOTONIC.
  std::uint64_t over_ns() const { return gone_ns_ + window_ns_; }
  /// These return whether a port may have packets left, or get some, when packets are read, and
  /// when blocks are acquired.
  bool may_have_packets() const;
  bool may_have_blocks() const;

 private:
  bool is_over() const;
  bool is_read(unsigned index, const Reading& reading);
  bool bind_again(unsigned index, const Reading& reading, bool& other_ring);

  pcap_t* const handle_;
  const pcapv3_host_ops& host_;
  PortSet& ports_;
  WaitSet& wait_;
  Log& debug_;
  Merged* merged_ = nullptr;
  std::uint64_t window_ns_ = 0;
  std::uint64_t gone_ = 0;       // ports, by bit, that have no interface
  std::uint64_t unread_ = 0;     // of these, those that still have packets
  std::uint64_t down_ = 0;       // ports that had an error, and whose changes netlink does not
                                 // report
  std::uint64_t unwatched_ = 0;  // ports whose socket's events are not reported
  std::uint64_t gone_ns_ = 0;    // when the last port went, by CLOCK_MONOTONIC
};

}  // namespace pcapv3
