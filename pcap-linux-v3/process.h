// Which process this is: whether it has been forked since something was made.
//
// A forked child has a copy of every handle, whose sockets, rings, epoll sets and timers it shares
// with its parent. What it does to a copy must change nothing for the parent, and the other way
// round: a close closes descriptors and nothing else. To tell costs no system call; a child made by
// clone(2) itself, past fork(3), is not noticed (pthread_atfork(3)).
#pragma once

#include <atomic>
#include <cstdint>

namespace pcapv3 {

/// Begins to watch for forks. To be called when a handle is activated; once is enough.
void watch_forks();

namespace process {
inline std::atomic<std::uint32_t> generation{1};
inline std::atomic<std::uint32_t> forks{0};
}  // namespace process

/// Differs between a process and the children that it forks. Async-signal-safe.
inline std::uint32_t process_generation() {
  return process::generation.load(std::memory_order_relaxed);
}

/// How often this process has forked since watch_forks(). Async-signal-safe.
inline std::uint32_t forks_made() { return process::forks.load(std::memory_order_relaxed); }

}  // namespace pcapv3
