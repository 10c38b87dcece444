#include "process.h"

#include <pthread.h>

#include "confinement.h"

namespace pcapv3 {
namespace {

void before_fork() { confinement_before_fork(); }

void in_parent() { process::forks.fetch_add(1, std::memory_order_relaxed); }

void in_child() {
  process::generation.fetch_add(1, std::memory_order_relaxed);
  confinement_in_child();
}

}  // namespace

void watch_forks() {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, [] { pthread_atfork(before_fork, in_parent, in_child); });
}

}  // namespace pcapv3
