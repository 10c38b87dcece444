// SPDX-License-Identifier: BSD-3-Clause
// Decides how a read ends when pcap_breakloop(3PCAP) is called: at once, or by a drain.
//
// A program that ends its capture from a signal handler, as tcpdump and dumpcap do, wants
// everything that had come before that moment; stock libpcap leaves what the kernel's open block
// holds in the ring and counts it nowhere. So a break from a signal handler drains: the read goes
// on until it has delivered what the ring held, for half a second at most, and then returns
// PCAP_ERROR_BREAK. Every other break ends the read as in stock libpcap: a program that calls
// pcap_breakloop() in its callback or between two reads wants no further packet, and one that calls
// it from another thread may be about to close the handle.
//
// A break counts as a signal's if it is called in a signal handler that runs on the thread that
// reads. While the library waits for packets, nothing else can run there. In the callback, and
// between two reads, a handler is recognised by its signal (sigaction(2)), which is blocked while
// the handler runs and no longer blocked when the library looks. Nothing shows a handler that was
// installed with SA_NODEFER, nor one of a program that keeps the signal blocked and lets it in by
// ppoll(2) or pselect(2) only: its break is then treated as one called between two reads. Asking
// which signals are blocked takes a system call that stock libpcap does not make, so in a process
// which has confined itself (confinement.h) only a break during a wait drains.
//
// A Break lies in the memory of the handle itself (module.h: pcapv3_break) and stays valid for as
// long as the program may call pcap_breakloop(), however much of the handle is already closed.
//
// The reader takes the packets out of the ring (reader.cc).
#pragma once

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <cstdint>

#include "module.h"

namespace pcapv3 {

class Break {
 public:
  /// The longest time that a drain lasts after the call, in nanoseconds; a callback under way is
  /// not cut short.
  static constexpr std::uint64_t kLongestDrainNs = 500'000'000;

  Break() = default;
  Break(const Break&) = delete;
  Break& operator=(const Break&) = delete;

  /// Returns the Break in a handle's memory. If all its bytes are zero, nothing has happened to it
  /// yet.
  static Break& of(pcapv3_break& memory) { return *reinterpret_cast<Break*>(&memory); }
  static const Break& of(const pcapv3_break& memory) {
    return *reinterpret_cast<const Break*>(&memory);
  }

  /// Sets whether breaks may drain at all (PCAPV3_DRAIN). Initially they may not.
  void allow_drain(bool allowed) { allowed_ = allowed; }
  /// Sets the eventfd(2) that ends a wait, besides libpcap's own; -1: there is none (any more).
  void set_event(int event) { event_plus_1_.store(event + 1); }

  // Called by pcap_breakloop(3PCAP), from any thread or in a signal handler. Async-signal-safe.

  /// request() must be called before the break flag is set, wake() after it.
  void request();
  void wake() const;

  // For the thread that reads.

  /// Must be called when a read begins and when it ends. begin_read() returns whether the read is
  /// in the callback of another one; end_read() must be passed what it returned.
  bool begin_read();
  void end_read(bool nested) { reading_.store(nested, std::memory_order_release); }

  /// Must be called when the reader is about to wait, and when it has waited: in between, only a
  /// signal handler can run on its thread.
  void set_waiting(bool waiting) { waiting_.store(waiting, std::memory_order_relaxed); }

  /// Called when the reader has seen the break flag and has delivered as many packets as were asked
  /// for: returns whether the break was called in its callback, and so belongs to this read and not
  /// to the next one.
  bool is_callbacks() const;

  /// Must be called when the reader has seen the break flag and cleared it. Returns whether it must
  /// drain. If not, the read must end at once, even if it was draining.
  bool start_drain();
  bool draining() const { return draining_.load(std::memory_order_relaxed); }
  /// Must be called when the drain is over and the break flag cleared; drops any break called in
  /// its last moment.
  void stop_drain() {
    call_.store(Call::kNone, std::memory_order_relaxed);
    draining_.store(false, std::memory_order_relaxed);
  }
  /// Returns whether the drain has lasted long enough.
  bool is_overdue() const { return left_ns() == 0; }
  std::uint64_t left_ns() const;
  /// Returns how many packets to deliver before is_overdue() is called again: few while the
  /// callback is slow.
  int batch();

  // For the thread that closes the handle.

  /// If another thread is in a read, waits until it has left, for 50 ms at most, and for 5 ms at
  /// most until a break has been seen.
  void wait_for_reader() const;

 private:
  enum class Call : std::uint8_t {
    kNone,
    kAtOnce,    // called by another thread, or before the first read
    kUnknown,   // called on the reader's thread: in its callback, between reads, or in a handler
    kAgain,     // the same, once more
    kInHandler  // called on the reader's thread while it waited
  };

  bool was_in_handler() const;

  // All of these are 0 initially.
  bool allowed_ = false;
  std::atomic<int> event_plus_1_{0};
  std::atomic<bool> has_reader_{false};
  std::atomic<pthread_t> reader_{};
  std::atomic<bool> reading_{false};
  std::atomic<std::uint32_t> reader_process_{0};  // process_generation()
  std::atomic<bool> waiting_{false};
  std::atomic<Call> call_{Call::kNone};
  std::atomic<std::uint64_t> call_ns_{0};  // CLOCK_MONOTONIC
  std::atomic<bool> draining_{false};
  int batch_ = 0;
  std::uint64_t batch_ns_ = 0;
  // For the reader's thread and its signal handlers only: the signals blocked at the call.
  bool has_mask_ = false;
  sigset_t mask_{};

  static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "signal handlers use it");
};

static_assert(sizeof(Break) <= sizeof(pcapv3_break) && alignof(Break) <= alignof(pcapv3_break));

}  // namespace pcapv3
