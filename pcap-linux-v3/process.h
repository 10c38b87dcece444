// SPDX-License-Identifier: BSD-3-Clause
// Tells a forked process from its parent: whether a process made what it has, or inherited it by
// fork(2).
//
// A forked process has its parent's sockets, rings, epoll sets and timers: whatever it does to one
// of these, it does to its parent's. So code that changes such an object on its own first checks
// that it was made here; a close closes descriptors and changes nothing else. The check costs a
// load, where getpid(2) costs a system call. Handlers of pthread_atfork(3) tell processes apart;
// clone(2) and _Fork(3), if a program calls them itself, do not run these. (Nor do vfork(2) and
// posix_spawn(3); their children do nothing but exec.)
#pragma once

#include <atomic>
#include <cstdint>

namespace pcapv3 {

namespace process {
inline std::atomic<std::uint32_t> generation{0};
inline std::atomic<std::uint32_t> forks{0};
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);  // used in a signal handler
}  // namespace process

/// Starts counting forks. Must be called before anything is made that a child can inherit; may be
/// called any number of times.
void watch_forks();

/// Returns a different number in a forked process than in its parent. May be called in a signal
/// handler.
inline std::uint32_t process_generation() {
  return process::generation.load(std::memory_order_relaxed);
}

/// Returns how often this process itself has forked, or tried to: while it is 0, nobody else has
/// what was made here. May be called in a signal handler.
inline std::uint32_t forks_made() { return process::forks.load(std::memory_order_relaxed); }

/// Records whether the object that this is a member of was made by another process, an ancestor of
/// this one.
class Maker {
 public:
  // clang 14 takes a class without a constructor for one that leaves a const member uninitialized.
  Maker() : generation_(process_generation()) {}

  bool is_other() const { return generation_ != process_generation(); }

 private:
  const std::uint32_t generation_;
};

}  // namespace pcapv3
