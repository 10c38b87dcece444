// SPDX-License-Identifier: BSD-3-Clause
// Breaks by signal handlers, on one interface, in immediate mode, and on several: slow callbacks,
// single packets, timers, the clock set back, blocks, forked children.
#include <pcap/linux-v3.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
#include <string>

#include "blocks.h"
#include "breaks.h"
#include "capture.h"
#include "interposed.h"
#include "modes.h"
#include "ports.h"
#include "traffic.h"

namespace pcapv3::live {
namespace {

/// A slow callback is not waited for: half a second at most goes by after the break.
void slow_callback() {
  for (const Mode mode : modes()) {
    const Handle handle = open_in(mode);
    pcap_t* p = handle.get();
    break_on(SIGALRM, p);
    const Traffic traffic({.a_second = 500});
    itimerval once = {.it_interval = {}, .it_value = {.tv_sec = 1, .tv_usec = 0}};
    const auto start = Clock::now();
    setitimer(ITIMER_REAL, &once, nullptr);
    const int status = pcap_loop(
        p, -1,
        [](u_char*, const pcap_pkthdr*, const u_char*) {
          const auto end = Clock::now() + std::chrono::milliseconds(10);
          while (Clock::now() < end) {
          }
        },
        nullptr);
    const double seconds = seconds_since(start);
    std::printf("# %s: %.3f s after the break\n", name_of(mode), seconds - 1);
    CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
    CHECK(seconds < 1.9, "%.3f s after the break", seconds - 1);
  }
}

/// A signal between two reads of one packet each drains too.
void signal_between_reads() {
  if (is_off()) skip("stock libpcap does not drain");
  for (const Mode mode : modes()) {
    for (int round = 0; round < 10; ++round) {
      const Handle handle = open_in(mode, 1000);
      pcap_t* p = handle.get();
      break_on(SIGUSR1, p);
      const Sender sender = remote();
      sender.send(0, 20);
      wait_until_received(p, 20);
      Packets packets;
      pcap_pkthdr* header = nullptr;
      const u_char* bytes = nullptr;
      for (int i = 0; i < 5;) {
        const int status = pcap_next_ex(p, &header, &bytes);
        CHECK(status >= 0, "status %d", status);
        if (status == 1) packets.emplace_back(*header, bytes), ++i;
      }
      sender.send(20, 5);
      wait_until_received(p, 25);
      raise(SIGUSR1);
      int status;
      while ((status = pcap_next_ex(p, &header, &bytes)) == 1) packets.emplace_back(*header, bytes);
      CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
      check_sequence(packets, 0, 24);
    }
  }
}

/// What is no signal's break: the program's own between two reads, also when it has learnt of the
/// signal by sigwait(3), and a handler of a signal that is let in by ppoll(2) only.
void program_between_reads() {
  for (const Mode mode : modes()) {
    const Handle handle = open_in(mode);
    pcap_t* p = handle.get();
    break_on(SIGUSR1, p);
    sigset_t blocked;
    sigset_t before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    const Sender sender = remote();
    Packets packets;
    std::uint32_t sent = 0;
    for (const bool by_ppoll : {false, true}) {
      sender.send(sent, 10);
      sent += 10;
      while (packets.size() < sent) {
        CHECK(pcap_dispatch(p, -1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
      }
      sender.send(sent, 10);
      sent += 10;
      wait_until_received(p, sent);
      raise(SIGUSR1);
      if (by_ppoll) {
        CHECK(ppoll(nullptr, 0, nullptr, &before) == -1 && errno == EINTR, "no signal");
      } else {
        int signal = 0;
        sigwait(&blocked, &signal);
        pcap_breakloop(p);
      }
      const std::size_t size = packets.size();
      const int status = pcap_dispatch(p, -1, keep, user(packets));
      CHECK(status == PCAP_ERROR_BREAK && packets.size() == size, "status %d, %zu packets", status,
            packets.size() - size);
    }
    while (packets.size() < sent) {
      CHECK(pcap_dispatch(p, -1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
    }
    check_sequence(packets, 0, sent - 1);
    sigprocmask(SIG_SETMASK, &before, nullptr);
  }
}

std::atomic<bool> g_timer_on = false;

/// Breaks by a timer's signal, under traffic, of a program that has given up its privileges: the
/// open block is read in place again and again, and each packet comes once.
void timer_breaks(Mode mode) {
  const Handle handle = open_in(mode, 1000);
  pcap_t* p = handle.get();
  Packets packets;
  Traffic traffic({.a_second = 20000});
  while (packets.empty()) CHECK(pcap_dispatch(p, 1, keep, user(packets)) >= 0, "a status");
  CHECK(syscall(SYS_setresuid, 65534, 65534, 65534) == 0, "%s", std::strerror(errno));
  g_to_break = p;
  // It wakes this thread only, and not while this runs.
  handle_signal(SIGALRM, [](int) {
    if (g_timer_on) pcap_breakloop(g_to_break);
  });
  sigset_t alarm;
  sigemptyset(&alarm);
  sigaddset(&alarm, SIGALRM);
  constexpr int kRounds = 1000;
  int rounds = 0;
  const auto start = Clock::now();
  while (rounds < kRounds) {
    itimerval once = {.it_interval = {}, .it_value = {.tv_sec = 0, .tv_usec = 200 + rand() % 2000}};
    g_timer_on = true;
    setitimer(ITIMER_REAL, &once, nullptr);
    const int status = pcap_loop(p, -1, keep, user(packets));
    CHECK(status == PCAP_ERROR_BREAK, "status %d, %s", status, pcap_geterr(p));
    g_timer_on = false;
    ++rounds;
  }
  std::printf("# %s: %d breaks in %.2f s\n", name_of(mode), rounds, seconds_since(start));
  const std::uint32_t sent = traffic.stop();
  while (packets.size() < sent) {
    const int status = pcap_dispatch(p, -1, keep, user(packets));
    CHECK(status >= 0, "status %d, %s", status, pcap_geterr(p));
  }
  check_sequence(packets, 0, sent - 1);
}

void timer_breaks_plain() { timer_breaks(Mode::kPlain); }

void timer_breaks_immediate() { timer_breaks(Mode::kImmediate); }

void timer_breaks_list() { is_off() ? skip("stock has none") : timer_breaks(Mode::kList); }

/// A drain does not depend on the clock.
void drain_with_the_clock_set_back() {
  if (is_off()) skip("stock libpcap does not drain");
  for (const char* device : {"see0", "see0,see1"}) {
    for (const bool blocks : {false, true}) {
      interposed::clock_offset_s = 0;
      const Handle handle = open_capture({.device = device, .timeout_ms = 1000});
      pcap_t* p = handle.get();
      break_on(SIGUSR1, p);
      const Sender sender = remote();
      sender.send(0, 10);
      Packets packets;
      while (packets.size() < 10) {
        CHECK((blocks ? take_and_walk(p, -1, packets)
                      : pcap_dispatch(p, -1, keep, user(packets))) >= 0,
              "%s", pcap_geterr(p));
      }
      interposed::clock_offset_s = -60;
      sender.send(10, 10);
      wait_until_received(p, 20);
      raise(SIGUSR1);
      int status = 0;
      while (status >= 0)
        status = blocks ? take_and_walk(p, -1, packets) : pcap_loop(p, -1, keep, user(packets));
      CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
      check_sequence(packets, 0, 19);
    }
  }
}

/// A time-out does not either.
void time_out_with_the_clock_set_back() {
  setenv("PCAPV3_BLOCKING", program_invocation_short_name, 1);
  for (const char* device : {"see0", "see0,see1"}) {
    if (is_off()) continue;
    for (const bool immediate : {false, true}) {
      const Handle handle = open_capture(
          {.device = device, .snaplen = 2000, .timeout_ms = 200, .immediate = immediate});
      pcap_t* p = handle.get();
      handle_signal(SIGALRM, [](int) { interposed::clock_offset_s = -60; });
      itimerval once = {.it_interval = {}, .it_value = {.tv_sec = 0, .tv_usec = 50'000}};
      const auto start = Clock::now();
      interposed::clock_offset_s = 0;
      setitimer(ITIMER_REAL, &once, nullptr);
      Packets packets;
      const int status = pcap_dispatch(p, -1, keep, user(packets));
      CHECK(status == 0, "status %d", status);
      CHECK(seconds_since(start) < 1, "%.3f s", seconds_since(start));
    }
  }
}

/// Nor is it at its end for a signal that does nothing, or for a break that is over; and it does
/// not become endless by these.
void time_out_with_signals() {
  if (is_off()) skip("stock libpcap has no such setting");
  setenv("PCAPV3_BLOCKING", program_invocation_short_name, 1);
  for (const char* device : {"see0", "see0,see1"}) {
    const Handle handle = open_capture({.device = device, .timeout_ms = 300});
    pcap_t* p = handle.get();
    for (const bool broken : {false, true}) {
      if (broken) {
        const Sender sender = remote();
        sender.send(0, 2);
        const int status = pcap_loop(
            p, -1, [](u_char* h, const pcap_pkthdr*, const u_char*) { pcap_breakloop((pcap_t*)h); },
            reinterpret_cast<u_char*>(p));
        CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
        Packets rest;
        while (rest.empty()) CHECK(pcap_dispatch(p, -1, keep, user(rest)) >= 0, "a status");
      }
      handle_signal(SIGALRM, [](int) {});
      itimerval often = {.it_interval = {.tv_sec = 0, .tv_usec = 50'000},
                         .it_value = {.tv_sec = 0, .tv_usec = 50'000}};
      setitimer(ITIMER_REAL, &often, nullptr);
      const auto start = Clock::now();
      Packets packets;
      const int status = pcap_dispatch(p, -1, keep, user(packets));
      const double seconds = seconds_since(start);
      often = {};
      setitimer(ITIMER_REAL, &often, nullptr);
      CHECK(status == 0 && seconds > 0.25 && seconds < 2, "%s: status %d after %.3f s", device,
            status, seconds);
    }
  }
}

/// A drain that packets are read in goes on with blocks, and the other way round: each packet comes
/// once, and the ring goes round.
void drain_of_packets_and_blocks() {
  if (is_off()) skip("of blocks");
  for (const char* device : {"see0", "see0,see1"}) {
    for (const bool blocks_first : {false, true}) {
      const Handle handle =
          open_capture({.device = device, .timeout_ms = 20, .buffer_bytes = 1 << 20});
      pcap_t* p = handle.get();
      break_on(SIGUSR1, p);
      const Sender sender = remote();
      Packets packets;
      std::uint32_t sent = 0;
      for (int round = 0; round < 40; ++round) {
        sender.send(sent, 20);
        sent += 20;
        wait_until_received(p, sent);
        if (blocks_first) {
          raise(SIGUSR1);
          CHECK(take_and_walk(p, -1, packets) != PCAP_ERROR, "%s", pcap_geterr(p));
          const int status = pcap_dispatch(p, -1, keep, user(packets));
          CHECK(status != PCAP_ERROR, "%s", pcap_geterr(p));
        } else {
          raise(SIGUSR1);
          const int status = pcap_dispatch(p, 3, keep, user(packets));
          CHECK(status != PCAP_ERROR, "%s", pcap_geterr(p));
          (void)take_and_walk(p, 0, packets);  // of several interfaces it may be refused
        }
        sender.send(sent, 5);
        sent += 5;
        while (packets.size() < sent) {
          const int status = pcap_dispatch(p, -1, keep, user(packets));
          CHECK(status >= 0 || status == PCAP_ERROR_BREAK, "%s", pcap_geterr(p));
        }
        // The counts stay as of a break until the next read, which is this one.
        char error[PCAP_ERRBUF_SIZE];
        CHECK(pcap_setnonblock(p, 1, error) == 0, "%s", error);
        while (pcap_dispatch(p, -1, keep, user(packets)) == PCAP_ERROR_BREAK) {
        }
        CHECK(pcap_setnonblock(p, 0, error) == 0, "%s", error);
      }
      check_sequence(packets, 0, sent - 1);
    }
  }
}

/// A daemon's child reads on with what its parent has opened: signals drain, and what the kernel
/// counted is told at the end.
void child_reads_on() {
  if (is_off()) skip("stock libpcap does not drain");
  for (const Mode mode : modes()) {
    Record stats("PCAPV3_STATS");
    Handle handle = open_in(mode, 1000);
    pcap_t* p = handle.get();
    const pid_t child = fork();
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      break_on(SIGUSR1, p);
      const Sender sender = remote();
      sender.send(0, 20);
      wait_until_received(p, 20);
      Packets packets;
      const int status = pcap_loop(
          p, -1,
          [](u_char* u, const pcap_pkthdr* h, const u_char* b) {
            auto& all = *reinterpret_cast<Packets*>(u);
            all.emplace_back(*h, b);
            if (all.size() == 3) raise(SIGUSR1);
          },
          user(packets));
      CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
      check_sequence(packets, 0, 19);
      pcap_close(handle.release());
      _exit(EXIT_SUCCESS);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0, "%s: the child ended with %#x", name_of(mode),
          static_cast<unsigned>(status));
    CHECK(stats.text().find("delivered 20") != std::string::npos, "%s", stats.text().c_str());
  }
}

const Test kTests[] = {
    {"a signal ends a slow callback's loop within half a second", slow_callback, 30},
    {"a signal between two reads: what had come is delivered", signal_between_reads},
    {"a break by the program between two reads: nothing is", program_between_reads},
    {"1,000 breaks by a timer, privileges given up: each packet once", timer_breaks_plain, 60},
    {"the same in immediate mode", timer_breaks_immediate, 60},
    {"the same with several interfaces", timer_breaks_list, 60},
    {"a drain with the clock set back", drain_with_the_clock_set_back},
    {"a time-out with the clock set back", time_out_with_the_clock_set_back},
    {"a time-out with signals, and after a break", time_out_with_signals},
    {"a drain of packets and blocks by turns", drain_of_packets_and_blocks, 30},
    {"a forked child reads on", child_reads_on},
};
const Registration kRegistration(
    {.name = "break_signals", .tests = kTests, .links = 2, .instruments = "address"});

}  // namespace
}  // namespace pcapv3::live
