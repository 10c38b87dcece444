#include "drain.h"

#include <time.h>

namespace pcapv3 {
namespace {

bool has_handler(int signal) {
  struct sigaction action {};
  if (sigaction(signal, nullptr, &action) != 0) return false;
  if ((action.sa_flags & SA_SIGINFO) != 0) return true;
  return action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN;
}

std::uint64_t clock_ns(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace

std::uint64_t realtime_ns() { return clock_ns(CLOCK_REALTIME); }
std::uint64_t monotonic_ns() { return clock_ns(CLOCK_MONOTONIC); }

void Drain::sleep(std::uint64_t ns) {
  const timespec span{static_cast<time_t>(ns / 1'000'000'000),
                      static_cast<long>(ns % 1'000'000'000)};
  set_waiting(true);
  nanosleep(&span, nullptr);
  set_waiting(false);
}

void Drain::on_break() {
  // A break while one is being worked on means it: now.
  const bool again = active() || requested_ns_.load(std::memory_order_relaxed) != 0;
  const bool drain = allowed_ && !again && !from_within();
  requested_ns_.store(drain ? realtime_ns() : 0, std::memory_order_release);
}

bool Drain::from_within() const {
  // Before the first read there is nothing to hand over.
  if (!has_reader_.load(std::memory_order_acquire)) return true;
  if (pthread_equal(pthread_self(), reader_.load(std::memory_order_relaxed)) == 0) return false;
  if (waiting_.load(std::memory_order_relaxed)) return false;
  sigset_t now;
  if (!has_mask_ || pthread_sigmask(SIG_BLOCK, nullptr, &now) != 0) return true;
  for (int signal = 1; signal < NSIG; ++signal) {
    if (sigismember(&now, signal) == 1 && sigismember(&mask_, signal) == 0 && has_handler(signal)) {
      return false;
    }
  }
  return true;
}

bool Drain::start() {
  const std::uint64_t requested = requested_ns_.exchange(0, std::memory_order_acquire);
  const bool drain = requested != 0 && !active();
  if (drain) break_ns_ = requested;
  active_.store(drain, std::memory_order_relaxed);
  return drain;
}

}  // namespace pcapv3
