// SPDX-License-Identifier: BSD-3-Clause
// Breaks of a loop, by a callback, a signal and a thread. By a callback and a thread it ends at
// once, and what had come stays for the next read; a signal has the library deliver what had come.
#include <sys/syscall.h>

#include <atomic>
#include <thread>

#include "breaks.h"
#include "capture.h"
#include "traffic.h"

namespace pcapv3::live {
namespace {

// ---- At once

void break_from_callback() {
  const Handle handle = open_capture();
  std::size_t count = 11;
  Keeper at = {.handle = handle.get(), .then = [&](std::size_t packets) {
                 if (packets == count) pcap_breakloop(handle.get());
               }};
  remote().send(0, 100);
  at.loop_until_break();
  CHECK(at.packets.size() == 11, "%zu packets", at.packets.size());
  count = 31;
  int status = 0;
  while (status >= 0) status = at.dispatch();
  CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
  CHECK(at.packets.size() == 31, "%zu packets", at.packets.size());
  for (Packet& packet : take_until(handle.get(), 99)) at.packets.push_back(std::move(packet));
  check_sequence(at.packets, 0, 99);
}

void break_before_reading() {
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  remote().send(0, 10);
  Packets packets;
  pcap_breakloop(p);
  int status = pcap_dispatch(p, -1, keep, user(packets));
  CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
  pcap_breakloop(p);
  pcap_pkthdr* header = nullptr;
  const u_char* data = nullptr;
  status = pcap_next_ex(p, &header, &data);
  CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
  check_sequence(take_until(p, 9), 0, 9);
}

std::atomic<int> g_count = 0;

void count_packet(u_char*, const pcap_pkthdr*, const u_char*) { ++g_count; }

void break_from_signal() {
  const Handle handle = open_capture();
  break_on(SIGUSR1, handle.get());
  handle_signal(SIGUSR2, [](int) {});
  const Sender sender = remote();
  const pid_t reader = getpid();
  std::thread other([&] {
    wait_until_asleep(reader);
    syscall(SYS_tgkill, reader, reader, SIGUSR2);  // no reason to end a loop
    sender.send(0, 1);
    while (g_count == 0) std::this_thread::yield();
    wait_until_asleep(reader);
    signal_thread(reader);
  });
  const int status = pcap_loop(handle.get(), -1, count_packet, nullptr);
  CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
  CHECK(g_count == 1, "%d packets", g_count.load());
  other.join();
}

void break_from_thread() {
  // At once, whatever the time-out is.
  for (const int timeout_ms : {0, 10, 8000}) {
    const Handle handle = open_capture({.timeout_ms = timeout_ms});
    const pid_t reader = getpid();
    Clock::time_point start;
    std::thread other([&] {
      wait_until_asleep(reader);
      start = Clock::now();
      pcap_breakloop(handle.get());
    });
    const int status = pcap_loop(handle.get(), -1, count_packet, nullptr);
    other.join();
    CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
    CHECK(seconds_since(start) < 2, "%.3f s with a time-out of %d ms", seconds_since(start),
          timeout_ms);
  }
}

void break_under_traffic() {
  constexpr std::uint32_t kLast = 29999;
  const Handle handle = open_capture({.buffer_bytes = 32 << 20});
  const Sender sender = remote();
  std::thread traffic([&] { sender.send(0, kLast + 1); });
  Packets packets = break_repeatedly(handle.get(), 50);
  if (packets.empty() || number_of(packets.back().bytes) != kLast) {
    for (Packet& packet : take_until(handle.get(), kLast)) packets.push_back(std::move(packet));
  }
  check_sequence(packets, 0, kLast);
  traffic.join();
}

void break_200_times() {
  const Handle handle = open_capture();
  const Packets packets = break_repeatedly(handle.get(), 200);
  CHECK(packets.empty(), "%zu packets", packets.size());
  remote().send(0, 5);
  check_sequence(take_until(handle.get(), 4), 0, 4);
}

void callback_break_stays_prompt() {
  const Handle handle = open_capture();
  remote().send(0, 300);
  Keeper keeper = {.handle = handle.get(), .then = [&](std::size_t packets) {
                     if (packets == 11) pcap_breakloop(handle.get());
                   }};
  keeper.loop_until_break();
  check_sequence(keeper.packets, 0, 10);
  check_sequence(take_until(handle.get(), 299), 11, 299);
}

// ---- By a signal: nothing is lost at the end

void check_books(pcap_t* p, const Packets& packets) {
  const pcap_stat stats = stats_of(p);
  CHECK(stats.ps_recv == packets.size() + stats.ps_drop, "ps_recv %u, ps_drop %u, %zu packets",
        stats.ps_recv, stats.ps_drop, packets.size());
}

void signal_in_callback() {
  const Handle handle = open_capture({.timeout_ms = 1000});
  break_on(SIGUSR1, handle.get());
  remote().send(0, 300);
  Keeper keeper = {.handle = handle.get(), .then = [](std::size_t packets) {
                     if (packets == 11) raise(SIGUSR1);
                   }};
  keeper.loop_until_break();
  check_sequence(keeper.packets, 0, 299);
  check_books(handle.get(), keeper.packets);
}

void two_signals_in_callback() {
  const Handle handle = open_capture();
  break_on(SIGUSR1, handle.get());
  remote().send(0, 300);
  Keeper keeper = {.handle = handle.get(), .then = [](std::size_t packets) {
                     if (packets != 11) return;
                     raise(SIGUSR1);
                     raise(SIGUSR1);
                   }};
  keeper.loop_until_break();
  check_sequence(keeper.packets, 0, 10);
  check_sequence(take_until(handle.get(), 299), 11, 299);
}

void second_break_in_drain() {
  const Handle handle = open_capture();
  break_on(SIGUSR1, handle.get());
  remote().send(0, 300);
  // The drain delivers the packets after the 10th; at the 20th, the callback itself has enough.
  Keeper keeper = {.handle = handle.get(), .then = [&](std::size_t packets) {
                     if (packets == 11) raise(SIGUSR1);
                     if (packets == 21) pcap_breakloop(handle.get());
                   }};
  keeper.loop_until_break();
  check_sequence(keeper.packets, 0, 20);
  check_sequence(take_until(handle.get(), 299), 21, 299);
}

/// Five frames are sent once the reader is asleep, and then a signal breaks the loop.
Packets loop_until_signal(pcap_t* p, const Sender& sender) {
  const pid_t reader = getpid();
  std::thread other([&] {
    wait_until_asleep(reader);
    sender.send(0, 5);
    signal_thread(reader);
  });
  Keeper keeper = {.handle = p};
  keeper.loop_until_break();
  other.join();
  check_sequence(keeper.packets, 0, 4);
  return keeper.packets;
}

void signal_in_wait() {
  const Handle handle = open_capture({.timeout_ms = 10000});
  break_on(SIGUSR1, handle.get());
  check_books(handle.get(), loop_until_signal(handle.get(), remote()));
}

void signal_in_loop() {
  const Handle handle = open_capture();
  break_on(SIGUSR1, handle.get());
  const pid_t reader = getpid();
  std::uint32_t sent_by_then = 0;
  Traffic traffic({});
  std::thread other([&] {
    while (traffic.next() < 20000) std::this_thread::yield();
    sent_by_then = traffic.next();
    signal_thread(reader);
  });
  Keeper keeper = {.handle = handle.get()};
  keeper.loop_until_break();
  traffic.stop();
  other.join();
  CHECK(keeper.packets.size() >= sent_by_then, "%zu packets, %u had been sent",
        keeper.packets.size(), sent_by_then);
  check_sequence(keeper.packets, 0, static_cast<std::uint32_t>(keeper.packets.size()) - 1);
  check_books(handle.get(), keeper.packets);
}

void signal_and_on() {
  const Handle handle = open_capture({.timeout_ms = 10000});
  break_on(SIGUSR1, handle.get());
  const Sender sender = remote();
  const Packets packets = loop_until_signal(handle.get(), sender);
  // The statistics stay frozen until the next read, which misses nothing that came in between.
  sender.send(5, 5);
  check_books(handle.get(), packets);
  check_sequence(take_until(handle.get(), 9), 5, 9);
  const pcap_stat stats = stats_of(handle.get());
  CHECK(stats.ps_recv == 10, "ps_recv %u", stats.ps_recv);
}

void one_at_a_time() {
  const Handle handle = open_capture({.timeout_ms = 10000});
  break_on(SIGUSR1, handle.get());
  const Sender sender = remote();
  const pid_t reader = getpid();
  std::thread other([&] {
    wait_until_asleep(reader);
    sender.send(0, 5);
    signal_thread(reader);
  });
  pcap_pkthdr* header = nullptr;
  const u_char* data = nullptr;
  Packets packets;
  int status = 0;
  while ((status = pcap_next_ex(handle.get(), &header, &data)) >= 0) {
    if (status == 1) packets.emplace_back(*header, data);
  }
  CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
  other.join();
  check_sequence(packets, 0, 4);
}

const Test kTests[] = {
    {"pcap_breakloop from the callback", break_from_callback},
    {"pcap_breakloop before reading", break_before_reading},
    {"pcap_breakloop from a signal handler", break_from_signal},
    {"pcap_breakloop from a thread, idle link", break_from_thread},
    {"pcap_breakloop from a thread, under traffic", break_under_traffic},
    {"pcap_breakloop from a thread, 200 times", break_200_times},
    {"a signal during the callback drains", signal_in_callback, 20, Stock::kFails},
    {"a second signal ends at once", two_signals_in_callback, 20, Stock::kNone},
    {"a break in the callback ends a drain", second_break_in_drain, 20, Stock::kNone},
    {"a signal during the wait drains", signal_in_wait, 20, Stock::kFails},
    {"a signal under traffic drains all that had come", signal_in_loop, 20, Stock::kNone},
    {"a drain, and the next read goes on", signal_and_on, 20, Stock::kFails},
    {"pcap_next_ex drains packet by packet", one_at_a_time, 20, Stock::kFails},
    {"a break in the callback is prompt", callback_break_stays_prompt, 20, Stock::kNone},
};
const Registration kRegistration({.name = "break",
                                  .tests = kTests,
                                  .modes = "ours off distribution"});

}  // namespace
}  // namespace pcapv3::live
