// SPDX-License-Identifier: BSD-3-Clause
// Which process this is: whether what it has was made by it, or was inherited by fork(2).
//
// A forked process has its parent's sockets, rings, epoll sets and timers: what it does to one of
// these it does to its parent's. So whatever acts on such an object by itself asks first whether it
// was made here; a close closes descriptors and changes nothing else. To ask costs a load, where
// getpid(2) costs a system call; a process is told apart by handlers of pthread_atfork(3), which
// clone(2) and _Fork(3), called by a program itself, do not run. (vfork(2) and posix_spawn(3) do
// not either; their children do nothing but exec.)
#pragma once

#include <atomic>
#include <cstdint>

namespace pcapv3 {

namespace process {
inline std::atomic<std::uint32_t> generation{0};
inline std::atomic<std::uint32_t> forks{0};
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);  // in a signal handler
}  // namespace process

/// Has forks counted from now on. Called before anything is made that a child can inherit, and
/// again as often as one likes.
void watch_forks();

/// Another number in a forked process than in its parent. May be called in a signal handler.
inline std::uint32_t process_generation() {
  return process::generation.load(std::memory_order_relaxed);
}

/// How often this process itself has forked, or tried to: while it is 0, nobody else has what was
/// made here. May be called in a signal handler.
inline std::uint32_t forks_made() { return process::forks.load(std::memory_order_relaxed); }

/// Whether the object that this is a member of was made by another process, whose child this one
/// is.
class Maker {
 public:
  // clang 14 takes a class without a constructor for one that leaves a const member uninitialized.
  Maker() : generation_(process_generation()) {}

  bool is_other() const { return generation_ != process_generation(); }

 private:
  const std::uint32_t generation_;
};

}  // namespace pcapv3
