// SPDX-License-Identifier: BSD-3-Clause
// BackgroundTask: runs one piece of work on a thread of its own, which ends with the work. It is
// for system calls in which the kernel only waits, for milliseconds, while the caller has something
// else to do.
//
// Making and closing a packet socket's ring are such calls: each waits for RCU (af_packet.c:
// packet_set_ring, packet_release), 8 to 24 ms at 250 Hz, and several of them together wait as long
// as one. The thread has all signals blocked. Where no thread is available, the work is done at
// once. So it is in a process that was forked since, which has none of its parent's threads, and
// should make none (fork(2)).
#pragma once

#include <pthread.h>

#include "process.h"

namespace pcapv3 {

class BackgroundTask {
 public:
  BackgroundTask() = default;
  ~BackgroundTask() { finish(); }
  BackgroundTask(const BackgroundTask&) = delete;
  BackgroundTask& operator=(const BackgroundTask&) = delete;

  /// Waits for earlier work to finish, and starts `work`.
  void start(void* (*work)(void*), void* of);
  /// Waits until the work is done.
  void finish();

 private:
  const Maker maker_;
  pthread_t thread_{};
  bool running_ = false;
};

}  // namespace pcapv3
