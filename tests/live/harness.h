// SPDX-License-Identifier: BSD-3-Clause
// What a live test is made of: how a subject is declared with its tests, CHECK, skip, time limits,
// and what the run was told. Leaves running them, and what they print, to main.cc, and the network
// namespaces to tests/live/run.
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pcapv3::live {

/// What stock libpcap does with a test, in a run with it.
enum class Stock {
  kSame,   ///< It passes.
  kFails,  ///< It fails, which shows that the test can: the run checks that.
  kNone,   ///< It has nothing of the kind, and the test is not run.
};

struct Test {
  const char* name;
  void (*run)();
  unsigned limit_s = 20;  // many times what any takes, for machines with other work
  Stock stock = Stock::kSame;
};

/// The tests of one file, and what they need. Lists are words with spaces between them.
struct Subject {
  const char* name;
  std::span<const Test> tests;
  unsigned links = 1;            ///< see0, see1, ... here; play0, play1, ... at their other ends.
  const char* modes = "ours";    ///< Modes to be run in, by their names in main.cc.
  const char* instruments = "";  ///< What else `make check` runs it with: tests/live/run has them.
  const char* settings = "";     ///< Environment variables, NAME=VALUE.
  bool reports = false;          ///< Writes reports, which have to be the same in `ours` and `off`.
};

inline std::vector<Subject>& subjects() {
  static std::vector<Subject> all;
  return all;
}

/// Adds a subject to the program; one stands at the end of each file of tests.
struct Registration {
  explicit Registration(const Subject& subject) { subjects().push_back(subject); }
};

/// What this run was told.
struct RunArguments {
  const char* mode = "";
  const char* peer = "";  ///< Path of the network namespace that has the links' other ends.
  unsigned slowdown = 1;  ///< How many times as slow everything is: under valgrind, say.
  int report = -1;        ///< A descriptor, of subjects with reports.
};

inline RunArguments& run_arguments() {
  static RunArguments arguments;
  return arguments;
}

/// The network namespace of the links' other ends: its path, and its name for ip(8).
inline const char* peer() { return run_arguments().peer; }
inline std::string peer_name() {
  const std::string_view path = peer();
  return std::string(path.substr(path.rfind('/') + 1));
}

inline bool is_mode(std::string_view mode) { return mode == run_arguments().mode; }
inline bool is_ours() { return is_mode("ours"); }

/// Whether handles that are opened now are stock libpcap's.
inline bool is_off() {
  const char* setting = std::getenv("PCAPV3");
  return setting != nullptr && std::string_view(setting) == "off";
}

/// Where a test says why it was skipped, in memory that it shares with the process that prints TAP.
inline char* skip_reason() {
  constexpr std::size_t kBytes = 256;
  static char* const kShared = static_cast<char*>(
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  return kShared;
}

[[noreturn]] inline void skip(const char* reason) {
  std::snprintf(skip_reason(), 256, "%s", reason);
  _exit(EXIT_SUCCESS);
}

[[noreturn, gnu::format(printf, 4, 5)]] inline void fail(const char* file, int line,
                                                         const char* condition, const char* format,
                                                         ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  std::printf("# %s:%d: %s: %s\n", file, line, condition, text);
  std::fflush(stdout);
  _exit(EXIT_FAILURE);  // at once, whatever threads the test has
}

/// Ends the test as failed unless `condition` holds; the rest is printf's and says what was seen.
#define CHECK(condition, ...) \
  ((condition) ? (void)0 : ::pcapv3::live::fail(__FILE__, __LINE__, #condition, __VA_ARGS__))

/// Has this process killed in so many seconds, and no longer when an earlier call said: the one
/// limit that holds in any loop, and that no handler or timer of a test's own takes away.
inline void end_in(unsigned seconds) {
  static const timer_t kTimer = [] {
    sigevent event = {};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGKILL;
    timer_t timer = {};
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) _exit(EXIT_FAILURE);
    return timer;
  }();
  const itimerspec when = {.it_interval = {}, .it_value = {.tv_sec = seconds, .tv_nsec = 0}};
  if (timer_settime(kTimer, 0, &when, nullptr) != 0) _exit(EXIT_FAILURE);
}

}  // namespace pcapv3::live
