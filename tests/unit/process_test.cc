// SPDX-License-Identifier: BSD-3-Clause
#include "pcap-linux-v3/process.h"

#include <sys/wait.h>
#include <unistd.h>

#include "catch.h"

namespace pcapv3 {
namespace {

/// Returns what `ask` returns in a forked process.
template <typename Question>
bool in_child(Question ask) {
  const pid_t child = fork();
  if (child == 0) _exit(ask() ? 0 : 1);
  int status = -1;
  return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

TEST_CASE("A forked process is told from its parent", "[process]") {
  watch_forks();
  watch_forks();
  const std::uint32_t before = process_generation();
  const std::uint32_t forks = forks_made();
  const Maker maker;
  CHECK_FALSE(maker.is_other());
  CHECK(in_child([&] {
    // The child is told from its own child, too, which did not make what its grandparent made.
    const std::uint32_t child = process_generation();
    const Maker childs;
    return child != before && maker.is_other() && !childs.is_other() && forks_made() == 0 &&
           in_child([&] {
             const std::uint32_t grandchild = process_generation();
             return grandchild != child && grandchild != before && maker.is_other() &&
                    childs.is_other();
           }) &&
           forks_made() == 1;
  }));
  CHECK(process_generation() == before);
  CHECK(forks_made() == forks + 1);
}

}  // namespace
}  // namespace pcapv3
