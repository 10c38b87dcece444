// SPDX-License-Identifier: BSD-3-Clause
// How a read ends when pcap_breakloop(3PCAP) is called: at once, or by a drain.
//
// A program that ends its capture from a signal handler, as tcpdump and dumpcap do, wants all that
// had come before that moment; stock libpcap leaves what the kernel's open block holds in the ring
// and counts it nowhere. So a break by a signal drains: the read goes on until it has delivered
// what the ring held, in half a second at most, and returns PCAP_ERROR_BREAK then. Every other
// break ends the read as in stock libpcap: a program that calls pcap_breakloop() in its callback or
// between two reads wants no further packet, and one that calls it from another thread may be about
// to close the handle.
//
// A signal's break is one that is called in a signal handler which runs on the thread that reads.
// While the library waits for packets nothing else can run there. In the callback, and between two
// reads, a handler is known by its signal (sigaction(2)): that is blocked while the handler runs,
// and not when the library comes to look. With SA_NODEFER nothing gives a handler away, nor if the
// program keeps the signal blocked and lets it in by ppoll(2) or pselect(2) only: then its break is
// as one that the program calls between two reads. To ask for the signals that are blocked is a
// system call that stock libpcap does not make, so that in a process which has confined itself
// (confinement.h) only a break during a wait drains.
//
// A Break lies in the memory of the handle itself (module.h: pcapv3_break) and is good for as long
// as the program may call pcap_breakloop(), however much of the handle is closed already.
//
// Taking the packets out of the ring is port.cc's and aggregate.cc's.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <cstdint>

#include "module.h"

namespace pcapv3 {

class Break {
 public:
  /// The longest that a drain lasts after the call, in nanoseconds; a callback under way is not cut
  /// short.
  static constexpr std::uint64_t kLongestDrainNs = 500'000'000;

  Break() = default;
  Break(const Break&) = delete;
  Break& operator=(const Break&) = delete;

  /// The one in a handle's memory. Bytes of zero are one that nothing has happened to.
  static Break& of(pcapv3_break& memory) { return *reinterpret_cast<Break*>(&memory); }
  static const Break& of(const pcapv3_break& memory) {
    return *reinterpret_cast<const Break*>(&memory);
  }

  /// Whether breaks may drain at all (PCAPV3_DRAIN). At first they may not.
  void allow_drain(bool allowed) { allowed_ = allowed; }
  /// The eventfd(2) that ends a wait besides libpcap's own; -1: there is none (any more).
  void set_event(int event) { event_plus_1_.store(event + 1); }

  // By pcap_breakloop(3PCAP), from any thread or in a signal handler. Async-signal-safe.

  /// To be called before the break flag is set, and after it.
  void request();
  void wake() const;

  // By the thread that reads.

  /// A read begins; and ends, which is told what its begin returned: whether it is one in the
  /// callback of another.
  bool begin_read();
  void end_read(bool nested) { reading_.store(nested, std::memory_order_release); }

  /// The reader is about to wait, or done with waiting: in between only a signal handler can run on
  /// its thread.
  void set_waiting(bool waiting) { waiting_.store(waiting, std::memory_order_relaxed); }

  /// The reader has seen the break flag, and has delivered as many packets as were asked for:
  /// whether the break was called in its callback, and so is this read's and not the next one's.
  bool is_callbacks() const;

  /// The reader has seen the break flag and taken it back: whether it is to drain. If not, the read
  /// is to end at once, also when it was draining.
  bool start_drain();
  bool draining() const { return draining_.load(std::memory_order_relaxed); }
  /// The drain is over, and the break flag taken back: with whatever was called in its last moment.
  void stop_drain() {
    call_.store(Call::kNone, std::memory_order_relaxed);
    draining_.store(false, std::memory_order_relaxed);
  }
  /// Whether the drain has lasted long enough.
  bool is_overdue() const { return left_ns() == 0; }
  std::uint64_t left_ns() const;
  /// How many packets to deliver before is_overdue() is asked again: few while the callback is
  /// slow.
  int batch();

  // By the thread that closes the handle.

  /// If another thread is in a read, waits until it has left, for 50 ms at most; and for 5 ms until
  /// a break has been seen.
  void wait_for_reader() const;

 private:
  enum class Call : std::uint8_t {
    kNone,
    kAtOnce,    // by another thread, or before the first read
    kUnknown,   // on the reader's thread: in its callback, between reads, or in a handler
    kAgain,     // likewise, once more
    kInHandler  // on the reader's thread, while it waited
  };

  bool was_in_handler() const;

  // All of these are 0 at first.
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
  // The reader's thread and its signal handlers only: what was blocked at the call.
  bool has_mask_ = false;
  sigset_t mask_{};

  static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "signal handlers use it");
};

static_assert(sizeof(Break) <= sizeof(pcapv3_break) && alignof(Break) <= alignof(pcapv3_break));

}  // namespace pcapv3
