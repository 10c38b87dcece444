// SPDX-License-Identifier: BSD-3-Clause
// A piece of work on a thread of its own, which lasts no longer than that: for system calls in
// which the kernel only waits, for milliseconds, while there is something else to do.
//
// Making and closing a packet socket's ring are such: each waits for RCU (af_packet.c:
// packet_set_ring, packet_release), 8 to 24 ms at 250 Hz, and several of them wait together as long
// as one. The thread has all signals blocked. Where none is to be had, the work is done at once; so
// it is in a process that has been forked since, which has none of its parent's threads, and should
// make none (fork(2)).
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

  /// Begins `work`, once what was begun before is done.
  void start(void* (*work)(void*), void* of);
  /// Waits until it is done.
  void finish();

 private:
  const Maker maker_;
  pthread_t thread_{};
  bool running_ = false;
};

}  // namespace pcapv3
