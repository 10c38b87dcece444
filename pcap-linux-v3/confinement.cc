// SPDX-License-Identifier: BSD-3-Clause
#include "confinement.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <cstring>
#include <ctime>

namespace pcapv3 {
namespace {

/// The state of seccomp as the file reports it; `known` if that is enough to detect a change.
struct State {
  bool known = false;
  char mode = '0';
  unsigned long filters = 0;
  bool operator==(const State&) const = default;
};

/// Whoever holds this may use what is below. A thread that waits for it sleeps: the holder makes
/// system calls, and may have a lower priority. A signal handler does not wait; trying a plain
/// mutex is one atomic operation (glibc, nptl/pthread_mutex_trylock.c).
pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER;
unsigned holders = 0;
int status_file = -1;
pthread_t noted_thread;
State noted;
char text[8192];  // the start of the file; too large for a signal handler's stack

thread_local bool forks_unconfined __attribute__((tls_model("initial-exec")));
thread_local bool forks_locked __attribute__((tls_model("initial-exec")));

class Lock {
 public:
  Lock() { pthread_mutex_lock(&busy); }
  ~Lock() { pthread_mutex_unlock(&busy); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
};

/// Returns the value behind `name`, which begins a line and ends with a colon; null if there is
/// none.
const char* value_of(const char* name) {
  const char* at = std::strstr(text, name);
  if (at == nullptr) return nullptr;
  at += std::strlen(name);
  while (*at == '\t' || *at == ' ') ++at;
  return at;
}

/// Reads the file, which must be at its start.
State read_state() {
  State state;
  const ssize_t length = read(status_file, text, sizeof(text) - 1);
  if (length <= 0) return state;
  text[length] = '\0';
  const char* mode = value_of("\nSeccomp:");
  const char* filters = value_of("\nSeccomp_filters:");
  if (mode == nullptr) {
    // The kernel has no seccomp, unless the file goes on.
    state.known = static_cast<std::size_t>(length) < sizeof(text) - 1;
    return state;
  }
  state.mode = *mode;
  // If a filter is in force, only the number of filters shows another one (Linux 5.9).
  state.known = state.mode == '0' || filters != nullptr;
  for (; filters != nullptr && *filters >= '0' && *filters <= '9'; ++filters) {
    state.filters = 10 * state.filters + static_cast<unsigned long>(*filters - '0');
  }
  return state;
}

void close_status_file() {
  if (status_file >= 0) close(status_file);
  status_file = -1;
}

/// Opens this thread's file.
void open_status_file() {
  close_status_file();
  status_file = open("/proc/thread-self/status", O_RDONLY | O_CLOEXEC);
  if (status_file < 0) return;
  noted = read_state();
  noted_thread = pthread_self();
  if (!noted.known || lseek(status_file, 0, SEEK_SET) != 0) close_status_file();
}

}  // namespace

void note_confinement() {
  const Lock lock;
  ++holders;
  open_status_file();
}

void release_confinement() {
  const Lock lock;
  if (--holders == 0) close_status_file();
}

namespace {

bool is_unchanged(bool this_thread) {
  if (pthread_mutex_trylock(&busy) != 0) return false;
  bool unchanged = false;
  if (status_file >= 0 && (!this_thread || pthread_equal(noted_thread, pthread_self()) != 0)) {
    unchanged = read_state() == noted;
    // Only now is this call known to be allowed. If it fails, the file is of no further use.
    if (unchanged) unchanged = lseek(status_file, 0, SEEK_SET) == 0;
  }
  pthread_mutex_unlock(&busy);
  return unchanged;
}

}  // namespace

bool is_unconfined() { return is_unchanged(true); }

bool is_process_unconfined() { return is_unchanged(false); }

void confinement_before_fork() {
  forks_unconfined = is_unconfined();
  // Locked so that no other thread holds it, for which the child would wait in vain; but not
  // forever, because the holder may be this very thread, in whose signal handler fork(2) is called.
  constexpr long kLimitNs = 100'000'000;
  timespec limit{};
  clock_gettime(CLOCK_REALTIME, &limit);
  limit.tv_nsec += kLimitNs;
  limit.tv_sec += limit.tv_nsec / 1'000'000'000;
  limit.tv_nsec %= 1'000'000'000;
  forks_locked = pthread_mutex_timedlock(&busy, &limit) == 0;
}

void confinement_in_parent() {
  if (forks_locked) pthread_mutex_unlock(&busy);
}

void confinement_in_child() {
  if (forks_locked && holders != 0 && forks_unconfined) {
    open_status_file();
  } else if (forks_locked) {
    close_status_file();
  } else {
    status_file = -1;
    busy = PTHREAD_MUTEX_INITIALIZER;  // whoever held it does not exist in the child
  }
  if (forks_locked) pthread_mutex_unlock(&busy);
}

}  // namespace pcapv3
