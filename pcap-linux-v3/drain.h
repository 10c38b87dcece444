// How a read ends when pcap_breakloop() is called: at once, or after what had arrived by then.
//
// A program that ends its capture from a signal handler or another thread, as tcpdump and dumpcap
// do, wants all that came before that moment; stock libpcap leaves it in the ring's open block and
// counts it nowhere. A program that calls pcap_breakloop() in its callback wants no further packet.
// The two are told apart here. Taking the packets out of the ring is port.cc's and aggregate.cc's.
//
// A signal handler often runs while the callback does, on the same thread. What gives it away is
// that a handler runs with its own signal blocked (sigaction(2)): a signal is blocked now that has
// a handler and was not blocked when the read began. With SA_NODEFER nothing gives it away, and the
// read ends at once; a callback that blocks such a signal by itself looks like its handler.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <cstdint>

namespace pcapv3 {

class Drain {
 public:
  /// The longest wait for the open block to be handed over, in milliseconds, counted from the break
  /// or from the last block.
  static constexpr std::uint64_t kLongestWaitMs = 100;
  /// How long a packet that has its time stamp may take to be in the ring.
  static constexpr std::uint64_t kSettleMs = 10;

  /// Whether breaks may drain at all (PCAPV3_DRAIN).
  void allow(bool allowed) { allowed_ = allowed; }

  /// pcap_breakloop(3PCAP) was called: from whichever thread, or in a signal handler. To be called
  /// before the break flag is set. Async-signal-safe.
  void on_break();

  /// The reader begins a read. With `several`, its callback can run more than once, so that it
  /// matters whether a break comes from within: costs a system call.
  void begin_read(bool several) {
    reader_.store(pthread_self(), std::memory_order_relaxed);
    has_reader_.store(true, std::memory_order_release);
    has_mask_ = several && pthread_sigmask(SIG_BLOCK, nullptr, &mask_) == 0;
  }
  /// The reader is about to wait, or done with waiting: in between, its own thread can call
  /// on_break() only in a signal handler.
  void set_waiting(bool waiting) { waiting_.store(waiting, std::memory_order_relaxed); }
  /// Waits for nothing, so long or until a signal comes.
  void sleep(std::uint64_t ns);

  /// The reader saw the break flag: whether it is to drain. If not, the read is to end at once,
  /// also when it was draining.
  bool start();
  bool active() const { return active_.load(std::memory_order_relaxed); }
  /// When the break came, in nanoseconds of CLOCK_REALTIME: packets stamped later are not drained.
  std::uint64_t break_ns() const { return break_ns_; }
  /// When the last packet that is drained may have come. What comes for a member of a fan-out group
  /// until its handle is closed is nobody else's: it takes in what it can, within the longest wait.
  std::uint64_t end_ns(bool shares) const {
    return break_ns_ + (shares ? kLongestWaitMs * 1'000'000 : 0);
  }
  void stop() { active_.store(false, std::memory_order_relaxed); }

 private:
  bool from_within() const;

  bool allowed_ = true;
  std::atomic<bool> waiting_{false};
  std::atomic<bool> active_{false};
  std::atomic<std::uint64_t> requested_ns_{0};  // 0: no drain is asked for
  std::uint64_t break_ns_ = 0;
  std::atomic<bool> has_reader_{false};
  std::atomic<pthread_t> reader_{};
  bool has_mask_ = false;  // this and the mask: the reader's thread and its signal handlers only
  sigset_t mask_{};

  static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "signal handlers use it");
};

/// CLOCK_REALTIME in nanoseconds, as the kernel stamps packets.
std::uint64_t realtime_ns();
/// CLOCK_MONOTONIC, for time-outs, which a clock that is set must not change.
std::uint64_t monotonic_ns();

}  // namespace pcapv3
