// SPDX-License-Identifier: BSD-3-Clause
// Interfaces that go down, come up, or go away in mid-capture.
#include <atomic>
#include <string>
#include <string_view>
#include <thread>

#include "capture.h"
#include "near.h"

namespace pcapv3::live {
namespace {

/// Sends from far0, one number after the other, until told that it is enough. What a link that is
/// not up yet does not take is not sent again.
void send_until(const std::atomic<bool>& enough, std::uint32_t first) {
  const Sender sender("far0");
  for (std::uint32_t number = first; !enough; ++number) {
    sender.try_send(bytes_of({.number = number}));
    usleep(1000);
  }
}

void down_and_up() {
  make_pair();
  const Handle handle = open_capture({.device = "near0"});
  Sender("far0").send(0, 5);
  check_sequence(take_until(handle.get(), 4), 0, 4);
  std::atomic<bool> enough = false;
  const pid_t reader = getpid();
  std::thread other([&] {
    wait_until_asleep(reader);
    ip("link set near0 down");
    usleep(20000);  // the reader may look at it once or many times
    ip("link set near0 up");
    send_until(enough, 5);
  });
  const Packets packets = take_count(handle.get(), 5);
  enough = true;
  check_sequence(packets, number_of(packets.front().bytes), number_of(packets.back().bytes));
  other.join();
}

void down_and_up_nonblock() {
  make_pair();
  const Handle handle = open_capture({.device = "near0"});
  pcap_t* p = handle.get();
  set_nonblock(p);
  ip("link set near0 down");
  Packets packets;
  // A program that waits in select(2) has to be told to look every millisecond.
  while (pcap_get_required_select_timeout(p) == nullptr) {
    const int taken = pcap_dispatch(p, -1, keep, user(packets));
    CHECK(taken == 0, "status %d, %s", taken, pcap_geterr(p));
  }
  ip("link set near0 up");
  std::atomic<bool> enough = false;
  std::thread other([&] { send_until(enough, 0); });
  while (packets.empty() || pcap_get_required_select_timeout(p) != nullptr) {
    const int taken = pcap_dispatch(p, -1, keep, user(packets));
    CHECK(taken >= 0, "status %d, %s", taken, pcap_geterr(p));
  }
  enough = true;
  check_sequence(packets, number_of(packets.front().bytes), number_of(packets.back().bytes));
  other.join();
}

void check_disappeared(pcap_t* p, int status) {
  CHECK(status == PCAP_ERROR, "status %d", status);
  CHECK(std::string_view(pcap_geterr(p)) == "The interface disappeared", "%s", pcap_geterr(p));
}

void disappears() {
  const std::size_t before = count_descriptors();
  for (const bool loop : {false, true}) {
    make_pair();
    const Handle handle = open_capture({.device = "near0"});
    pcap_t* p = handle.get();
    const pid_t reader = getpid();
    std::thread other([&] {
      wait_until_asleep(reader);
      ip("link delete near0");
    });
    Packets packets;
    int status = 0;
    do {
      status =
          loop ? pcap_loop(p, -1, keep, user(packets)) : pcap_dispatch(p, -1, keep, user(packets));
    } while (status == 0);
    check_disappeared(p, status);
    other.join();
  }
  CHECK(count_descriptors() == before, "%zu descriptors, not %zu", count_descriptors(), before);
}

void disappears_nonblock() {
  make_pair();
  const Handle handle = open_capture({.device = "near0"});
  pcap_t* p = handle.get();
  set_nonblock(p);
  Sender("far0").send(0, 5);
  pollfd ready = {.fd = pcap_get_selectable_fd(p), .events = POLLIN, .revents = 0};
  CHECK(poll(&ready, 1, 5000) == 1, "nothing came");
  ip("link delete near0");
  // What had come is delivered first.
  Packets packets;
  int status = 0;
  while (status >= 0) status = pcap_dispatch(p, 2, keep, user(packets));
  check_disappeared(p, status);
  check_sequence(packets, 0, 4);
}

void any_outlives_an_interface() {
  make_pair();
  const Handle handle = open_capture({.device = "any"});
  const pid_t reader = getpid();
  std::thread other([&] {
    wait_until_asleep(reader);
    ip("link delete near0");
    Sender("see0").send(0, 5);
  });
  const Packets packets = take_until(handle.get(), 4);
  CHECK(packets.size() == 5, "%zu packets", packets.size());
  other.join();
}

const Test kTests[] = {
    {"down and up in mid-capture", down_and_up},
    {"down and up in mid-capture, non-blocking", down_and_up_nonblock},
    {"the interface disappears", disappears},
    {"the interface disappears, non-blocking", disappears_nonblock},
    {"any goes on when an interface disappears", any_outlives_an_interface},
};
const Registration kRegistration({.name = "interfaces",
                                  .tests = kTests,
                                  .modes = "ours off distribution"});

}  // namespace
}  // namespace pcapv3::live
