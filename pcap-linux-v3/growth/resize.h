// SPDX-License-Identifier: BSD-3-Clause
// Replaces a port's ring by one of another size while packets arrive: none is lost, none comes
// twice, and they stay in order.
//
// A packet socket can't get another ring while its ring is mapped, so a second socket gets it: the
// spare one, which the handles of a process share (shared_sockets.h). It takes these steps:
//
//   1. The spare socket makes its ring, on a thread of its own (background.h), while reading goes
//      on. It also asks for time stamps, so that the kernel stamps packets once for all sockets.
//   2. When packets are seen that are stamped so, the spare socket gets the handle's filter and
//      options and is bound. From the next grace period on, it gets every packet.
//   3. The old socket is bound to nothing. After another grace period its ring is sealed: nothing
//      comes in any more, and everything in it is whole.
//   4. What both have got is removed from the old ring (copies.h), which is then read to its end,
//      and the new one after it (ring_position.h: replace).
//   5. The descriptors are exchanged, so that the handle's number stays what it was. The old
//      socket, its ring removed, is the next spare one.
//
// Steps 2 to 5 take the reader a few grace periods, during which the new ring fills.
//
// Only the thread that reads may call this, except for is_made().
#pragma once

#include <atomic>
#include <cstdint>

#include "adaptive/background.h"
#include "grace_period.h"
#include "process.h"
#include "ring.h"
#include "ring_position.h"
#include "shared_sockets.h"

namespace pcapv3 {

class Resize {
 public:
  Resize() = default;
  ~Resize();
  Resize(const Resize&) = delete;
  Resize& operator=(const Resize&) = delete;

  /// Makes sure that there is a spare socket. Must be called at activation, by a thread in the
  /// handle's network namespace. Returns false, with errno, if that fails.
  bool open(SharedSockets::Type type);
  /// Returns whether this process is another one than the one that called open().
  bool is_others() const { return maker_.is_other(); }
  bool is_idle() const { return state_ == State::kIdle; }

  /// Takes the spare socket, begins to make a ring of about this shape for the handle's `socket`,
  /// and asks for time stamps. Requires is_idle(). Returns false if the spare socket is unavailable
  /// just now, or for good.
  bool begin(int socket, const Geometry& wanted, bool flow_hash);
  /// Returns whether begin() was called, and its ring was neither taken over nor failed.
  bool is_under_way() const { return state_ == State::kMaking; }
  /// Returns whether the ring is made, or can't be: take_over() must be called once packets that
  /// the kernel stamps for all sockets are seen, or give_up().
  bool is_made() const { return made_.load(std::memory_order_acquire); }
  /// Returns whether the ring could not be made, and errno.
  int error() const { return error_; }
  void give_up();

  /// What became of the packets that had come to the old socket since its counts were last asked
  /// for, except for those that the new one counts as well.
  struct Counts {
    unsigned packets = 0;
    unsigned drops = 0;
  };
  /// Has `socket` be the socket with the new ring, and `position` read the rest of the old ring
  /// before that. The old socket's counts must just have been asked for. Returns false, with errno
  /// and everything as it was, if that is impossible.
  bool take_over(int socket, RingPosition& position, std::uint32_t headroom, bool promiscuous,
                 GracePeriod& grace_period, Counts& counts);
  /// Returns the old ring, until finish().
  Ring& old_ring() { return ring_; }
  /// Returns whether take_over() was called, and finish() was not.
  bool is_taken_over() const { return state_ == State::kTakenOver; }
  /// Must be called when nothing of the old ring is needed any more: unmaps it, unless somebody has
  /// taken it, and puts the old socket back as the spare one, in the background.
  void finish();

 private:
  enum class State : std::uint8_t { kIdle, kMaking, kTakenOver };

  bool bind_spare(int socket, bool promiscuous);
  void make();
  void clean_up();

  const Maker maker_;
  SharedSockets sockets_;
  SharedSockets::Type type_ = SharedSockets::Type::kRaw;
  int spare_ = -1;  // from begin() until it is put back
  State state_ = State::kIdle;
  Geometry wanted_;
  bool flow_hash_ = false;
  int error_ = 0;
  std::atomic<bool> made_{false};
  Ring ring_;                  // the new one, until take_over(); then the old one
  BackgroundTask background_;  // last: its thread uses the others
};

}  // namespace pcapv3
