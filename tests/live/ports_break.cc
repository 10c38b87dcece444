// SPDX-License-Identifier: BSD-3-Clause
// Several ports as one handle: breaking out of a loop.
#include <sys/syscall.h>

#include <atomic>
#include <thread>

#include "breaks.h"
#include "capture.h"
#include "ports.h"

namespace pcapv3::live {
namespace {

void break_from_callback() {
  // At once, and what had come stays for the next read.
  const Handle handle = open_capture({.device = "see0,see1"});
  const Players players(2);
  players.send(0, 100);
  std::size_t count = 11;
  Keeper at = {.handle = handle.get(), .then = [&](std::size_t packets) {
                 if (packets == count) pcap_breakloop(handle.get());
               }};
  at.loop_until_break();
  CHECK(at.packets.size() == 11, "%zu packets", at.packets.size());
  count = 34;
  at.loop_until_break();
  CHECK(at.packets.size() == 34, "%zu packets", at.packets.size());
  for (Packet& packet : take_count(handle.get(), 166)) at.packets.push_back(std::move(packet));
  check_ports(at.packets, 2, 0, 100);
}

/// A break from outside the callback delivers what had come before, and nothing that came later.
void drain_on_signal() {
  const Handle handle = open_capture({.device = "see0,see1"});
  pcap_t* p = handle.get();
  break_on(SIGUSR1, p);
  const Players players(2);
  players.send(0, 100);
  wait_until_received(p, 200);
  Keeper at = {.handle = p, .then = [](std::size_t packets) {
                 if (packets == 1) raise(SIGUSR1);
               }};
  at.loop_until_break();
  check_ports(at.packets, 2, 0, 100);
  const pcap_stat stats = stats_of(p);
  CHECK(stats.ps_recv == 200 && stats.ps_drop == 0, "%u received, %u dropped", stats.ps_recv,
        stats.ps_drop);
  players.send(100, 100);  // and it can be read again
  check_ports(take_count(p, 200), 2, 100, 100);
}

/// A thread's break ends the read after the packet under way.
void break_of_thread() {
  const Handle handle = open_capture({.device = "see0,see1"});
  pcap_t* p = handle.get();
  const Players players(2);
  players.send(0, 100);
  wait_until_received(p, 200);
  Keeper at = {.handle = p, .then = [p](std::size_t packets) {
                 if (packets == 1) std::thread([p] { pcap_breakloop(p); }).join();
               }};
  at.loop_until_break();
  CHECK(at.packets.size() == 1, "%zu packets", at.packets.size());
  for (Packet& packet : take_count(p, 199)) at.packets.push_back(std::move(packet));
  check_ports(at.packets, 2, 0, 100);
}

void drain_what_comes_before_the_break() {
  // Frames that are in the ring's open block when the loop of a reader that waits is broken: a
  // signal delivers them, a thread leaves them for the next read.
  for (const bool by_signal : {false, true}) {
    const Handle handle = open_capture({.device = "see0,see1", .timeout_ms = 5000});
    pcap_t* p = handle.get();
    break_on(SIGUSR1, p);
    const Players players(2);
    const pid_t reader = getpid();
    std::thread other([&] {
      wait_until_asleep(reader);
      players.send(0, 10);
      wait_until_received(p, 20);
      if (by_signal) {
        signal_thread(reader);
      } else {
        pcap_breakloop(p);
      }
    });
    Packets packets;
    const int status = pcap_loop(p, -1, keep, user(packets));
    other.join();
    CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
    CHECK(!by_signal || packets.size() == 20, "%zu packets", packets.size());
    for (Packet& packet : take_count(p, 20 - packets.size())) packets.push_back(std::move(packet));
    check_ports(packets, 2, 0, 10);
  }
}

void break_while_idle() {
  for (const int timeout_ms : {0, 10, 8000}) {
    const Handle handle = open_capture({.device = "see0,see1", .timeout_ms = timeout_ms});
    const pid_t reader = getpid();
    Clock::time_point start;
    std::thread other([&] {
      wait_until_asleep(reader);
      start = Clock::now();
      pcap_breakloop(handle.get());
    });
    Packets packets;
    const int status = pcap_loop(handle.get(), -1, keep, user(packets));
    other.join();
    CHECK(status == PCAP_ERROR_BREAK && packets.empty(), "status %d, %zu packets", status,
          packets.size());
    CHECK(seconds_since(start) < 2, "%.3f s with a time-out of %d ms", seconds_since(start),
          timeout_ms);
  }
}

void break_before_reading() {
  const Handle handle = open_capture({.device = "see0,see1"});
  const Players players(2);
  players.send(0, 10);
  Packets packets;
  pcap_breakloop(handle.get());
  const int status = pcap_dispatch(handle.get(), -1, keep, user(packets));
  CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
  check_ports(take_count(handle.get(), 20), 2, 0, 10);
}

void break_under_traffic() {
  constexpr std::uint32_t kFrames = 15000;
  const Handle handle = open_capture({.device = "see0,see1", .buffer_bytes = 32 << 20});
  pcap_t* p = handle.get();
  const Players players(2);
  std::thread traffic([&] { players.send(0, kFrames); });
  Packets packets = break_repeatedly(p, 50);
  for (Packet& packet : take_count(p, 2 * kFrames - packets.size())) {
    packets.push_back(std::move(packet));
  }
  traffic.join();
  check_numbers(packets, 2, 0, kFrames);
}

const Test kTests[] = {
    {"pcap_breakloop in the callback", break_from_callback},
    {"pcap_breakloop in a signal handler: what had come is delivered", drain_on_signal},
    {"so is what the kernel has not handed over yet", drain_what_comes_before_the_break},
    {"pcap_breakloop in a thread: one packet at most", break_of_thread},
    {"pcap_breakloop ends a read without packets", break_while_idle},
    {"pcap_breakloop before the first read", break_before_reading},
    {"pcap_breakloop under traffic loses nothing", break_under_traffic},
};
const Registration kRegistration(
    {.name = "ports_break", .tests = kTests, .links = 2, .settings = "PCAPV3_WINDOW=2000"});

}  // namespace
}  // namespace pcapv3::live
