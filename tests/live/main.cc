// SPDX-License-Identifier: BSD-3-Clause
// Runs a subject's tests in one of its modes, each in a process of its own and with a time limit,
// and prints TAP without the plan. A test that crashes or hangs fails alone, and what it left open
// goes with it. Leaves the network namespaces, the plan and the choice of modes to tests/live/run.
#include <fcntl.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <string_view>

#include "harness.h"
#include "interposed.h"

namespace pcapv3::live {
namespace {

/// What is under test. The distribution's library is preloaded by tests/live/run.
struct Mode {
  const char* name;
  const char* variable;  // null: none is set
  const char* value;
  bool is_stock;
};
constexpr Mode kModes[] = {
    {"ours", nullptr, nullptr, false},         {"off", "PCAPV3", "off", true},
    {"distribution", nullptr, nullptr, true},  {"v3", "PCAPV3_IMMEDIATE", "v3", false},
    {"group", "PCAPV3_FANOUT", "3:lb", false},
};

/// A time limit for tests that stock libpcap fails, some of them by not coming to an end.
constexpr unsigned kStockFailsWithin_s = 3;
/// No slow run waits longer for a test that hangs, if the test itself does not ask for more.
constexpr unsigned kLongest_s = 120;

const Subject* find_subject(std::string_view name) {
  const auto found = std::find_if(subjects().begin(), subjects().end(),
                                  [name](const Subject& subject) { return name == subject.name; });
  return found == subjects().end() ? nullptr : &*found;
}

const Mode* find_mode(std::string_view name) {
  const auto* found = std::find_if(std::begin(kModes), std::end(kModes),
                                   [name](const Mode& mode) { return name == mode.name; });
  return found == std::end(kModes) ? nullptr : found;
}

/// ONLY=TEXT in the environment selects the tests that have the text in their name or in their
/// subject's, in upper or lower case.
bool is_selected(const Subject& subject, const Test& test) {
  const char* only = std::getenv("ONLY");
  return only == nullptr || strcasestr(test.name, only) != nullptr ||
         strcasestr(subject.name, only) != nullptr;
}

bool runs_in(const Mode& mode, const Test& test) {
  if (!mode.is_stock || test.stock == Stock::kSame) return true;
  return test.stock == Stock::kFails && std::string_view(mode.name) == "off";
}

std::vector<Test> selected(const Subject& subject, const Mode& mode) {
  std::vector<Test> tests(subject.tests.begin(), subject.tests.end());
  std::erase_if(
      tests, [&](const Test& test) { return !runs_in(mode, test) || !is_selected(subject, test); });
  return tests;
}

/// Runs one test and prints its line. `fails`: it has to.
bool run_test(const char* label, const Test& test, bool fails) {
  *skip_reason() = '\0';
  unsigned limit_s = test.limit_s;
  if (fails) limit_s = kStockFailsWithin_s;
  limit_s = std::max(limit_s, std::min(limit_s * run_arguments().slowdown, kLongest_s));
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    end_in(limit_s);
    test.run();
    std::fflush(stdout);
    _exit(EXIT_SUCCESS);
  }
  int status = -1;
  if (child < 0 || waitpid(child, &status, 0) != child) status = -1;
  if (WIFSIGNALED(status)) {
    std::printf("# ended by signal %d (%s); its limit was %u s\n", WTERMSIG(status),
                strsignal(WTERMSIG(status)), limit_s);
  }
  const bool passed = WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS;
  const bool ok = passed != fails;
  std::printf("%sok - %s: %s%s%s%s\n", ok ? "" : "not ", label, fails ? "stock fails: " : "",
              test.name, *skip_reason() != '\0' ? " # SKIP " : "", skip_reason());
  return ok;
}

int run(const Subject& subject, const Mode& mode, const char* label) {
  std::istringstream settings(subject.settings);
  for (std::string setting; settings >> setting;) {
    const std::size_t at = setting.find('=');
    setenv(setting.substr(0, at).c_str(), setting.c_str() + at + 1, 1);
  }
  if (mode.variable != nullptr) setenv(mode.variable, mode.value, 1);
  run_arguments().mode = mode.name;
  bool all_ok = true;
  for (const Test& test : selected(subject, mode)) {
    const bool fails = mode.is_stock && test.stock == Stock::kFails;
    all_ok = run_test(label, test, fails) && all_ok;
  }
  return all_ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

/// What a run needs, as assignments for a shell.
int print_ground(const Subject& subject) {
  std::printf("links=%u modes='%s' instruments='%s' reports='%s'\n", subject.links, subject.modes,
              subject.instruments, subject.reports ? "yes" : "");
  return EXIT_SUCCESS;
}

int list(const Subject* only) {
  for (const Subject& subject : subjects()) {
    if (only != nullptr && &subject != only) continue;
    for (const Test& test : subject.tests) std::printf("%s: %s\n", subject.name, test.name);
  }
  return EXIT_SUCCESS;
}

int usage() {
  std::fputs(
      "usage: live --list [SUBJECT]        prints the names of tests\n"
      "       live --ground SUBJECT        prints what tests/live/run has to prepare\n"
      "       live --count SUBJECT MODE    prints how many tests would be run\n"
      "       live [--label TEXT] [--slowdown N] SUBJECT [MODE]\n"
      "                                    runs them\n"
      "ONLY=TEXT selects tests by their names. PEER is the path of the network namespace that\n"
      "has the links' other ends; REPORT a file for reports. Modes:",
      stderr);
  for (const Mode& mode : kModes) std::fprintf(stderr, " %s", mode.name);
  std::fputs(".\n", stderr);
  return EXIT_FAILURE;
}

int main_of(int argc, char** argv) {
  interposed::find_originals();
  std::string_view action;
  const char* label = nullptr;
  int at = 1;
  for (; at < argc && std::string_view(argv[at]).starts_with("--"); ++at) {
    const std::string_view option = argv[at];
    if (option == "--label" && at + 1 < argc) {
      label = argv[++at];
    } else if (option == "--slowdown" && at + 1 < argc) {
      run_arguments().slowdown = static_cast<unsigned>(std::atoi(argv[++at]));
    } else if (option == "--list" || option == "--ground" || option == "--count") {
      action = option;
    } else {
      return usage();
    }
  }
  std::sort(subjects().begin(), subjects().end(),
            [](const Subject& a, const Subject& b) { return std::string_view(a.name) < b.name; });
  if (action == "--list" && at == argc) return list(nullptr);
  if (at == argc || argc - at > 2) return usage();
  const Subject* subject = find_subject(argv[at]);
  const Mode* mode = find_mode(at + 1 < argc ? argv[at + 1] : "ours");
  if (subject == nullptr || mode == nullptr) {
    std::fprintf(stderr, "live: there is no such %s\n", subject == nullptr ? "subject" : "mode");
    return EXIT_FAILURE;
  }
  if (action == "--list") return list(subject);
  if (action == "--ground") return print_ground(*subject);
  if (action == "--count") {
    std::printf("%zu\n", selected(*subject, *mode).size());
    return EXIT_SUCCESS;
  }
  const char* peer = std::getenv("PEER");
  run_arguments().peer = peer != nullptr ? peer : "";
  if (const char* report = std::getenv("REPORT")) {
    run_arguments().report = open(report, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  }
  return run(*subject, *mode, label != nullptr ? label : mode->name);
}

}  // namespace
}  // namespace pcapv3::live

int main(int argc, char** argv) { return pcapv3::live::main_of(argc, argv); }
