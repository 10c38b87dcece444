// SPDX-License-Identifier: BSD-3-Clause
// Growth: lets a port's ring, which is small at first, grow with what it has to hold.
//
// This decides when: ring_demand.h says how large the ring should be, ring_budget.h how much
// memory there is, and resize.h replaces the ring. A growth that is impossible is no error: the
// capture goes on with the ring that it has, and the debug log says why.
//
// A ring does not grow once the program has the port's socket (pcap_fileno(3PCAP)), whose options
// and whose place in an epoll set only the program knows; nor in a forked process, nor in one that
// has confined itself since activation (confinement.h).
//
// Only the thread that reads may call this, except for stop().
#pragma once

#include <atomic>
#include <cstdint>

#include "grace_period.h"
#include "growth/resize.h"
#include "growth/ring_demand.h"
#include "setup/geometry.h"

struct pcapv3_port;

namespace pcapv3 {

class Growth {
 public:
  Growth() = default;
  ~Growth();
  Growth(const Growth&) = delete;
  Growth& operator=(const Growth&) = delete;

  /// Lets the ring that was made for `request` grow. Must be called at activation, by a thread in
  /// the handle's network namespace. Returns false, with errno, if that is impossible.
  bool open(const RingRequest& request, bool flow_hash, bool cooked);
  /// Stops it. Any thread may call this.
  void stop() { stopped_.store(true, std::memory_order_relaxed); }

  /// Returns whether look() is to be called: `blocks` is how many blocks were ever released.
  bool is_due(std::uint64_t blocks) const { return blocks - looked_ >= every_; }
  /// Looks whether the ring must grow, and begins with that, or ends it. `may_unmap` says that
  /// nobody uses a packet of a block that was released. Returns whether take_over() must be called.
  bool look(pcapv3_port& port, const GracePeriod& grace_period, bool may_unmap);
  /// Goes on with the new ring. No end may be set in the port's position. Returns false if that
  /// failed; the port then goes on with the old one.
  bool take_over(pcapv3_port& port, int socket, GracePeriod& grace_period);

  /// Returns the ring that is read first, before the port's; null if there is none.
  Ring* old_ring() { return resize_.is_taken_over() ? &resize_.old_ring() : nullptr; }
  /// Returns how often the ring has grown.
  unsigned count() const { return count_; }

 private:
  static constexpr std::uint64_t kNever = ~std::uint64_t{0};
  static constexpr std::uint64_t kEvery = 4;

  bool stop_looking();
  void finish(pcapv3_port& port);
  void begin(pcapv3_port& port, std::uint64_t bytes);
  void give_up(pcapv3_port& port, const char* reason);
  static bool is_stamped(const pcapv3_port& port);

  RingRequest request_;
  bool flow_hash_ = false;
  std::uint64_t max_bytes_ = 0;
  std::atomic<bool> stopped_{false};
  std::uint64_t every_ = kNever;  // blocks from one look to the next
  std::uint64_t looked_ = 0;      // the blocks released at the last one
  // Times of CLOCK_MONOTONIC.
  std::uint64_t again_ns_ = 0;   // after a failure: no sooner than this
  std::uint64_t began_ns_ = 0;   // when the growth under way began
  std::uint64_t dropped_ = 0;    // packets, at the last look
  std::uint64_t reserved_ = 0;   // bytes of the process's budget
  std::uint64_t reserving_ = 0;  // the same, for the new ring
  unsigned count_ = 0;
  RingDemand demand_;
  Resize resize_;
};

}  // namespace pcapv3
