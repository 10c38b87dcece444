// SPDX-License-Identifier: BSD-3-Clause
#include "break.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>

#include "clock.h"
#include "confinement.h"
#include "process.h"

namespace pcapv3 {
void Break::request() {
  Call call = Call::kAtOnce;
  // A break while an earlier one is being worked on means "now". Before the first read there is
  // nothing to deliver.
  const bool again = draining() || call_.load(std::memory_order_relaxed) != Call::kNone;
  if (has_reader_.load(std::memory_order_acquire) &&
      pthread_equal(pthread_self(), reader_.load(std::memory_order_relaxed)) != 0) {
    const int error = errno;
    has_mask_ = allowed_ && is_unconfined() && pthread_sigmask(SIG_BLOCK, nullptr, &mask_) == 0;
    errno = error;
    const bool waiting = waiting_.load(std::memory_order_relaxed);
    call = again ? Call::kAgain : waiting ? Call::kInHandler : Call::kUnknown;
  }
  call_ns_.store(monotonic_ns(), std::memory_order_relaxed);
  call_.store(call, std::memory_order_release);
}

void Break::wake() const {
  const int event = event_plus_1_.load() - 1;
  if (event < 0) return;
  const std::uint64_t one = 1;
  const int error = errno;
  (void)!write(event, &one, sizeof(one));
  errno = error;
}

bool Break::begin_read() {
  reader_.store(pthread_self(), std::memory_order_relaxed);
  has_reader_.store(true, std::memory_order_release);
  reader_process_.store(process_generation(), std::memory_order_relaxed);
  const bool nested = reading_.exchange(true, std::memory_order_acquire);
  waiting_.store(false, std::memory_order_relaxed);
  // The wait was left by a jump: a break called since then was not called during the wait.
  Call jumped = Call::kInHandler;
  call_.compare_exchange_strong(jumped, Call::kUnknown, std::memory_order_relaxed);
  return nested;
}

bool Break::was_in_handler() const {
  sigset_t now;
  if (!has_mask_ || pthread_sigmask(SIG_BLOCK, nullptr, &now) != 0) return false;
  for (int signal = 1; signal < NSIG; ++signal) {
    if (sigismember(&mask_, signal) == 1 && sigismember(&now, signal) == 0) return true;
  }
  return false;
}

bool Break::is_callbacks() const {
  const Call call = call_.load(std::memory_order_acquire);
  return (call == Call::kUnknown || call == Call::kAgain) && !was_in_handler();
}

bool Break::start_drain() {
  const Call call = call_.exchange(Call::kNone, std::memory_order_acquire);
  bool drain = call == Call::kInHandler || (call == Call::kUnknown && was_in_handler());
  if (!allowed_ || draining()) drain = false;
  batch_ = 1;
  batch_ns_ = monotonic_ns();
  draining_.store(drain, std::memory_order_relaxed);
  return drain;
}

std::uint64_t Break::left_ns() const {
  const std::uint64_t until_ns = call_ns_.load(std::memory_order_relaxed) + kLongestDrainNs;
  const std::uint64_t now_ns = monotonic_ns();
  return until_ns > now_ns ? until_ns - now_ns : 0;
}

int Break::batch() {
  constexpr std::uint64_t kSlowNs = 1'000'000;  // for one batch
  constexpr int kMax = 256;
  const std::uint64_t now_ns = monotonic_ns();
  batch_ = now_ns - batch_ns_ < kSlowNs ? std::min(2 * batch_, kMax) : 1;
  batch_ns_ = now_ns;
  return batch_;
}

void Break::wait_for_reader() const {
  constexpr std::uint64_t kLongestNs = 50'000'000;
  // Between two reads of pcap_loop(3PCAP), only a break that it has not seen yet shows that there
  // is a reader.
  constexpr std::uint64_t kBetweenNs = 5'000'000;
  // A forked process has none of its parent's threads.
  if (!has_reader_.load(std::memory_order_acquire) ||
      pthread_equal(pthread_self(), reader_.load(std::memory_order_relaxed)) != 0 ||
      reader_process_.load(std::memory_order_relaxed) != process_generation()) {
    return;
  }
  const std::uint64_t start_ns = monotonic_ns();
  for (;;) {
    const bool reading = reading_.load(std::memory_order_acquire);
    if (!reading && call_.load(std::memory_order_acquire) == Call::kNone) return;
    if (monotonic_ns() - start_ns >= (reading ? kLongestNs : kBetweenNs)) return;
    poll(nullptr, 0, 1);
  }
}

}  // namespace pcapv3
