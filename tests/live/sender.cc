// SPDX-License-Identifier: BSD-3-Clause
// Sends numbered frames (frames.h) out of an interface, for scripts: COUNT of them, from number 0,
// of SIZE bytes each, RATE a second if one is given and as fast as the interface takes them if not.
#include <time.h>

#include "frames.h"

namespace {

/// Sleeps until `start` and `nanoseconds` more.
void sleep_until(const timespec& start, std::uint64_t nanoseconds) {
  constexpr std::uint64_t kSecond = 1'000'000'000;
  nanoseconds += static_cast<std::uint64_t>(start.tv_nsec);
  const timespec when = {.tv_sec = start.tv_sec + static_cast<time_t>(nanoseconds / kSecond),
                         .tv_nsec = static_cast<long>(nanoseconds % kSecond)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, nullptr) == EINTR) {
  }
}

/// A number above zero; 0 if it is none.
std::uint32_t number(const char* text) {
  const long value = std::atol(text);
  return value > 0 && value <= UINT32_MAX ? static_cast<std::uint32_t>(value) : 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::uint32_t count = argc > 2 ? number(argv[2]) : 0;
  const std::uint32_t size = argc > 3 ? number(argv[3]) : 100;
  const std::uint32_t rate = argc > 4 ? number(argv[4]) : UINT32_MAX;
  if (argc > 5 || count == 0 || size < ETH_HLEN + pcapv3::live::kPayload || rate == 0) {
    std::fprintf(stderr, "usage: %s INTERFACE COUNT [SIZE [RATE]]\n", argv[0]);
    return EXIT_FAILURE;
  }
  const pcapv3::live::Sender sender(argv[1]);
  timespec start = {};
  clock_gettime(CLOCK_MONOTONIC, &start);
  for (std::uint32_t i = 0; i < count; ++i) {
    if (argc > 4) sleep_until(start, std::uint64_t{i} * 1'000'000'000 / rate);
    sender.send({.number = i, .size = size});
  }
  return EXIT_SUCCESS;
}
