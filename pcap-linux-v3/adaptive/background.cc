// SPDX-License-Identifier: BSD-3-Clause
#include "adaptive/background.h"

#include <signal.h>

namespace pcapv3 {

void BackgroundTask::start(void* (*work)(void*), void* of) {
  finish();
  if (maker_.is_other()) {
    work(of);
    return;
  }
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  const bool blocked = pthread_sigmask(SIG_SETMASK, &all, &before) == 0;
  running_ = pthread_create(&thread_, nullptr, work, of) == 0;
  if (blocked) pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!running_) work(of);
}

void BackgroundTask::finish() {
  if (running_ && !maker_.is_other()) pthread_join(thread_, nullptr);
  running_ = false;
}

}  // namespace pcapv3
