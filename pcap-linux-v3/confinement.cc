#include "confinement.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

namespace pcapv3 {
namespace {

/// What the file tells of seccomp.
struct State {
  char mode = '0';
  unsigned long filters = 0;
  bool operator==(const State&) const = default;
};

std::atomic<unsigned> holders{0};
std::atomic<int> status_file{-1};  // -1 also while a thread reads it
std::atomic<pthread_t> noted_thread{};
std::atomic<char> noted_mode{'0'};
std::atomic<unsigned long> noted_filters{0};
thread_local bool forks_unconfined __attribute__((tls_model("initial-exec")));

void close_status_file() {
  const int file = status_file.exchange(-1);
  if (file >= 0) close(file);
}

/// The value behind `name`, which begins a line and ends with a colon; null if there is none.
const char* value_of(const char* text, const char* name) {
  const char* at = std::strstr(text, name);
  if (at == nullptr) return nullptr;
  at += std::strlen(name);
  while (*at == '\t' || *at == ' ') ++at;
  return at;
}

/// Reads the file, which is at its start, and goes back there if the state is `expected` or if
/// there is none to expect: only then lseek(2) is known to be allowed.
bool read_state(int file, const State* expected, State& state) {
  char text[4096];
  const ssize_t length = read(file, text, sizeof(text) - 1);
  if (length <= 0) return false;
  text[length] = '\0';
  state = State();
  if (const char* mode = value_of(text, "\nSeccomp:")) state.mode = *mode;
  if (const char* filters = value_of(text, "\nSeccomp_filters:")) {
    for (; *filters >= '0' && *filters <= '9'; ++filters) {
      state.filters = 10 * state.filters + static_cast<unsigned long>(*filters - '0');
    }
  }
  if (expected != nullptr && !(state == *expected)) return false;
  return lseek(file, 0, SEEK_SET) == 0;
}

/// Opens the file of this thread.
void open_status_file() {
  close_status_file();
  const int file = open("/proc/thread-self/status", O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  State state;
  if (!read_state(file, nullptr, state)) {
    close(file);
    return;
  }
  noted_mode.store(state.mode);
  noted_filters.store(state.filters);
  noted_thread.store(pthread_self());
  status_file.store(file);
}

}  // namespace

void note_confinement() {
  holders.fetch_add(1);
  open_status_file();
}

void release_confinement() {
  if (holders.fetch_sub(1) == 1) close_status_file();
}

bool is_unconfined() {
  if (pthread_equal(noted_thread.load(), pthread_self()) == 0) return false;
  const int file = status_file.exchange(-1);
  if (file < 0) return false;
  const State noted{noted_mode.load(), noted_filters.load()};
  State now;
  const bool unchanged = read_state(file, &noted, now);
  status_file.store(file);
  return unchanged;
}

void confinement_before_fork() { forks_unconfined = holders.load() != 0 && is_unconfined(); }

void confinement_in_child() {
  if (forks_unconfined) {
    open_status_file();
  } else {
    close_status_file();
  }
}

}  // namespace pcapv3
