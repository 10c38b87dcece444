// SPDX-License-Identifier: BSD-3-Clause
#include "process.h"

#include <pthread.h>

#include "confinement.h"

namespace pcapv3 {
namespace {

/// Runs in the parent, before there is a child that could do anything.
void before_fork() {
  process::forks.fetch_add(1, std::memory_order_relaxed);
  confinement_before_fork();
}

void in_parent() { confinement_in_parent(); }

void in_child() {
  process::generation.fetch_add(1, std::memory_order_relaxed);
  process::forks.store(0, std::memory_order_relaxed);
  confinement_in_child();
}

void watch() { (void)pthread_atfork(before_fork, in_parent, in_child); }

}  // namespace

void watch_forks() {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  (void)pthread_once(&once, watch);
}

}  // namespace pcapv3
