// SPDX-License-Identifier: BSD-3-Clause
// Runs a capture program as it is, and a command that makes traffic once the program captures, ends
// the program by SIGINT, and prints the CPU time that it took between the two: cpu_ms, a value.
// Starting up, making and freeing the ring, which a long capture does once, are not in it. What the
// program says goes to a file, for the caller to read.
//
//   program [-n] OUTPUT READY PROGRAM ARGUMENT... -- COMMAND...
//
// READY is what the program says when it captures. -n: it is ended as soon as the traffic has, and
// not when it has read all.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

namespace {

constexpr double kMs = 1e6;

pid_t program = 0;
std::string output;

std::string said() {
  std::ostringstream text;
  text << std::ifstream(output).rdbuf();
  return text.str();
}

[[noreturn]] void give_up(const char* what) {
  std::fprintf(stderr, "program: %s; it said:\n%s\n", what, said().c_str());
  std::exit(EXIT_FAILURE);  // the program ends with this one
}

double clock_ns(clockid_t clock) {
  timespec t = {};
  if (clock_gettime(clock, &t) != 0) give_up("it ended too early");
  return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}

void nap() {
  constexpr timespec kTenMs = {.tv_sec = 0, .tv_nsec = 10'000'000};
  nanosleep(&kTenMs, nullptr);
}

pid_t start(char** command, int out) {
  const pid_t pid = fork();
  if (pid < 0) give_up("fork failed");
  if (pid > 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (out >= 0) {
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
  }
  execvp(command[0], command);
  std::fprintf(stderr, "%s: %s\n", command[0], std::strerror(errno));
  _exit(127);
}

void expect_running() {
  siginfo_t info = {};
  waitid(P_PID, static_cast<id_t>(program), &info, WEXITED | WNOHANG | WNOWAIT);
  if (info.si_pid != 0) give_up("it ended too early");
}

/// Waits until the program rests: the last packets lie in the ring until their block retires, after
/// tcpdump's time-out of one second at the latest.
void wait_until_idle(clockid_t cpu) {
  constexpr double kRest = 1200 * kMs;
  constexpr double kBusy = 1 * kMs;  // of CPU in that time; some wake up now and then for nothing
  const double limit = clock_ns(CLOCK_MONOTONIC) + 10'000 * kMs;
  double since = clock_ns(CLOCK_MONOTONIC);
  double before = clock_ns(cpu);
  for (double now = since; now < since + kRest && now < limit; now = clock_ns(CLOCK_MONOTONIC)) {
    nap();
    if (clock_ns(cpu) - before > kBusy) {
      since = clock_ns(CLOCK_MONOTONIC);
      before = clock_ns(cpu);
    }
  }
}

void end_program() {
  kill(program, SIGINT);
  int status = 0;
  const double limit = clock_ns(CLOCK_MONOTONIC) + 20'000 * kMs;
  while (waitpid(program, &status, WNOHANG) == 0) {
    if (clock_ns(CLOCK_MONOTONIC) > limit) give_up("it did not end when interrupted");
    nap();
  }
  if (status != 0) give_up("it failed");
}

}  // namespace

int main(int argc, char** argv) {
  const bool at_once = argc > 1 && std::strcmp(argv[1], "-n") == 0;
  char** argument = argv + (at_once ? 2 : 1);
  char** traffic = argument;
  while (*traffic != nullptr && std::strcmp(*traffic, "--") != 0) ++traffic;
  if (traffic - argument < 3 || *traffic == nullptr || traffic[1] == nullptr) {
    std::fprintf(stderr, "usage: %s [-n] OUTPUT READY PROGRAM ARGUMENT... -- COMMAND...\n",
                 argv[0]);
    return EXIT_FAILURE;
  }
  *traffic++ = nullptr;
  output = argument[0];
  const std::string ready = argument[1];

  const int out = open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
  if (out < 0) give_up("no output");
  program = start(argument + 2, out);
  const double limit = clock_ns(CLOCK_MONOTONIC) + 20'000 * kMs;
  while (said().find(ready) == std::string::npos) {
    expect_running();
    if (clock_ns(CLOCK_MONOTONIC) > limit) give_up("it does not capture");
    nap();
  }
  clockid_t cpu = 0;
  if (clock_getcpuclockid(program, &cpu) != 0) give_up("it ended too early");
  const double before = clock_ns(cpu);

  int status = 0;
  const pid_t sender = start(traffic, -1);
  while (waitpid(sender, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0) give_up("the traffic failed");
  if (!at_once) wait_until_idle(cpu);
  expect_running();
  const double used = clock_ns(cpu) - before;
  end_program();
  std::printf("cpu_ms %.3f\n", used / kMs);
}
