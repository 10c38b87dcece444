// SPDX-License-Identifier: BSD-3-Clause
// Plays one scenario with whichever libpcap it finds itself on, and prints the record (record.h).
// What there is to play is in one file a subject, each with a table; fidelity.test compares the
// records.
#include <sys/prctl.h>

#include "record.h"

namespace pcapv3::fidelity {

extern const std::span<const Scenario> kSetupScenarios;
extern const std::span<const Scenario> kFiltersScenarios;
extern const std::span<const Scenario> kFramesSeenScenarios;
extern const std::span<const Scenario> kReadingScenarios;
extern const std::span<const Scenario> kLifecycleScenarios;

namespace {

int play(int argc, char** argv) {
  const std::span<const Scenario> subjects[] = {
      kSetupScenarios,   kFiltersScenarios,   kFramesSeenScenarios,
      kReadingScenarios, kLifecycleScenarios,
  };
  const bool list = argc == 2 && std::string_view(argv[1]) == "--list";
  if (!list && argc != 3) {
    std::fprintf(stderr, "usage: %s --list | SCENARIO PEER-NAMESPACE-PATH\n", argv[0]);
    return EXIT_FAILURE;
  }
  for (const auto& subject : subjects) {
    for (const Scenario& scenario : subject) {
      if (list) {
        std::printf("%s\n", scenario.name);
      } else if (std::string_view(argv[1]) == scenario.name) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);  // who started it may be ended by a signal
        alarm(scenario.limit_s);           // SIGALRM ends it: the one limit that holds in any loop
        setvbuf(stdout, nullptr, _IOLBF, 0);  // what libpcap says on standard error has its place
        start_ns();
        run_arguments().peer = argv[2];
        scenario.run();
        return EXIT_SUCCESS;
      }
    }
  }
  if (!list) std::fprintf(stderr, "%s: no scenario %s\n", argv[0], argv[1]);
  return list ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace
}  // namespace pcapv3::fidelity

int main(int argc, char** argv) { return pcapv3::fidelity::play(argc, argv); }
