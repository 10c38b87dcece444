// Runs a table of tests, each in a process of its own and with a time limit, and prints TAP. A test
// that crashes or hangs fails alone, and what it left open goes with it. Leaves to the tests what
// they check, and to the scripts beside them the namespaces and the plan.
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
#include <vector>

namespace pcapv3::live {

struct Test {
  const char* name;
  void (*run)();
  unsigned limit_s = 20;  // many times what any takes, for machines with other work
};

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

/// Has this process killed in so many seconds: the one limit that holds in any loop, and that no
/// handler or timer of a test's own takes away.
inline void end_in(unsigned seconds) {
  sigevent event = {};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGKILL;
  timer_t timer = {};
  itimerspec when = {.it_interval = {}, .it_value = {.tv_sec = seconds, .tv_nsec = 0}};
  if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 ||
      timer_settime(timer, 0, &when, nullptr) != 0) {
    _exit(EXIT_FAILURE);
  }
}

/// Runs one test and prints its line.
inline bool run_test(const char* library, int number, const Test& test) {
  *skip_reason() = '\0';
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    end_in(test.limit_s);
    test.run();
    std::fflush(stdout);
    _exit(EXIT_SUCCESS);
  }
  int status = -1;
  if (child < 0 || waitpid(child, &status, 0) != child) status = -1;
  if (WIFSIGNALED(status)) {
    std::printf("# ended by signal %d (%s); its limit was %u s\n", WTERMSIG(status),
                strsignal(WTERMSIG(status)), test.limit_s);
  }
  const bool ok = WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS;
  std::printf("%sok %d - %s: %s%s%s\n", ok ? "" : "not ", number, library, test.name,
              *skip_reason() != '\0' ? " # SKIP " : "", skip_reason());
  return ok;
}

/// Runs all tests, numbered from `first`. `library` says in each line which libpcap is under test.
inline int run_tests(const char* library, int first, std::span<const Test> tests) {
  bool all_ok = true;
  for (const Test& test : tests) all_ok = run_test(library, first++, test) && all_ok;
  return all_ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

/// What the scripts say on the command line of a program whose tests want a link: LIBRARY, the
/// first test's number, and the network namespace of the link's other end. A fourth word is a time
/// limit in seconds for each test, in place of its own.
struct LinkArguments {
  const char* library = "";
  const char* peer = "";
};

inline LinkArguments& link_arguments() {
  static LinkArguments arguments;
  return arguments;
}

/// main() of such a program. With --count it prints how many tests there are. ONLY=TEXT in the
/// environment has it run those only whose names hold the text.
inline int run_on_link(int argc, char** argv, std::span<const Test> tests) {
  std::vector<Test> limited(tests.begin(), tests.end());
  if (const char* only = std::getenv("ONLY")) {
    std::erase_if(limited,
                  [only](const Test& test) { return std::strstr(test.name, only) == nullptr; });
  }
  if (argc == 2 && std::strcmp(argv[1], "--count") == 0) {
    std::printf("%zu\n", limited.size());
    return EXIT_SUCCESS;
  }
  if (argc != 4 && argc != 5) {
    std::fprintf(stderr, "usage: %s --count | LIBRARY FIRST-NUMBER NAMESPACE [LIMIT-S]\n", argv[0]);
    return EXIT_FAILURE;
  }
  link_arguments() = {.library = argv[1], .peer = argv[3]};
  for (Test& test : limited) {
    if (argc == 5) test.limit_s = static_cast<unsigned>(std::atoi(argv[4]));
  }
  return run_tests(argv[1], std::atoi(argv[2]), limited);
}

}  // namespace pcapv3::live
