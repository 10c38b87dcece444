// SPDX-License-Identifier: BSD-3-Clause
// Breaks and closes by other threads, of one interface, in immediate mode, and of several.
#include <pcap/linux-v3.h>
#include <sys/syscall.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "blocks.h"
#include "breaks.h"
#include "capture.h"
#include "modes.h"
#include "ports.h"
#include "traffic.h"

namespace pcapv3::live {
namespace {

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

/// What a reading thread does until it is broken.
struct Reading {
  std::atomic<unsigned> callbacks = 0;
  std::atomic<bool> broken = false;
  std::atomic<unsigned> after = 0;  // callbacks that began after the break
  Clock::time_point end = {};
  std::atomic<int> status = 0;
};

void count_callback(u_char* user, const pcap_pkthdr*, const u_char*) {
  auto& reading = *reinterpret_cast<Reading*>(user);
  if (reading.broken) ++reading.after;
  ++reading.callbacks;
}

/// A thread's break ends the read at once, after the callback under way; the handle can be closed
/// soon after.
void break_and_close(Mode mode, unsigned a_second, unsigned close_after_us, int rounds,
                     std::vector<double>& delays_ms) {
  for (int round = 0; round < rounds; ++round) {
    Handle handle = open_in(mode);
    pcap_t* p = handle.get();
    const Traffic traffic({.a_second = a_second});
    Reading reading;
    std::thread reader([&] {
      reading.status = pcap_loop(p, -1, count_callback, reinterpret_cast<u_char*>(&reading));
      reading.end = Clock::now();
    });
    const unsigned wanted = std::min(a_second / 50, 3u);
    while (reading.callbacks < wanted) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::microseconds(rand() % 20'000));
    pcap_breakloop(p);
    reading.broken = true;
    const auto start = Clock::now();
    std::this_thread::sleep_for(std::chrono::microseconds(close_after_us));
    handle.reset();
    reader.join();
    CHECK(reading.status == PCAP_ERROR_BREAK, "status %d", reading.status.load());
    CHECK(reading.after <= 1, "%u callbacks after the break", reading.after.load());
    delays_ms.push_back(seconds_between(start, reading.end) * 1e3);
  }
}

/// BREAK_ROUNDS=N in the environment plays each of these so often.
void thread_breaks_and_closes() {
  const char* const setting = getenv("BREAK_ROUNDS");
  const int rounds = setting != nullptr ? std::max(std::atoi(setting), 1) : 5;
  for (const Mode mode : modes()) {
    for (const unsigned a_second : {50u, 2000u, 50000u}) {
      std::vector<double> delays_ms;
      for (const unsigned us : {100u, 5000u, 50000u}) {
        break_and_close(mode, a_second, us, rounds, delays_ms);
      }
      std::printf("# %s, %u packets/s: the read ends after %.3f ms in the median\n", name_of(mode),
                  a_second, median(delays_ms));
      CHECK(median(delays_ms) < 5, "%.3f ms", median(delays_ms));
    }
  }
}

/// pcap_close() waits for a read that is on its way out.
void thread_closes_at_once() {
  for (const Mode mode : modes()) {
    if (is_off()) continue;  // undefined, and a crash now and then
    for (int round = 0; round < 50; ++round) {
      Handle handle = open_in(mode);
      pcap_t* p = handle.get();
      const Traffic traffic({.a_second = 5000});
      Reading reading;
      std::thread reader([&] {
        reading.status = pcap_loop(p, -1, count_callback, reinterpret_cast<u_char*>(&reading));
      });
      while (reading.callbacks < 3) std::this_thread::yield();
      pcap_breakloop(p);
      handle.reset();
      reader.join();
      CHECK(reading.status == PCAP_ERROR_BREAK, "status %d", reading.status.load());
    }
  }
}

/// What a thread's break leaves is there for who reads on.
void thread_breaks_and_reads_on() {
  for (const Mode mode : modes()) {
    const Handle handle = open_in(mode);
    pcap_t* p = handle.get();
    Traffic traffic({.a_second = 20000});
    Packets packets = break_repeatedly(p, 100);
    const std::uint32_t sent = traffic.stop();
    while (packets.size() < sent) {
      CHECK(pcap_dispatch(p, -1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
    }
    check_sequence(packets, 0, sent - 1);
  }
}

/// A break that comes with the last packet of the count is the next read's: no packet is counted
/// and thrown away.
void next_ex_and_threads() {
  for (const Mode mode : modes()) {
    const Handle handle = open_in(mode);
    pcap_t* p = handle.get();
    const Sender sender = remote();
    Packets packets;
    unsigned breaks = 0;
    constexpr std::uint32_t kRounds = 200;
    for (std::uint32_t round = 0; round < kRounds; ++round) {
      sender.send(round * 20, 10);
      std::atomic<bool> go = false;
      std::thread breaker([&] {
        while (!go) std::this_thread::yield();
        const auto moment = Clock::now() + std::chrono::nanoseconds(rand() % 5000);
        while (Clock::now() < moment) {
        }
        pcap_breakloop(p);
        sender.send(round * 20 + 10, 10);
      });
      go = true;
      bool broken = false;
      while (!broken || packets.size() < (round + 1) * 20) {
        pcap_pkthdr* header = nullptr;
        const u_char* bytes = nullptr;
        const int status = pcap_next_ex(p, &header, &bytes);
        if (status == 1) packets.emplace_back(*header, bytes);
        breaks += status == PCAP_ERROR_BREAK;
        broken = broken || status == PCAP_ERROR_BREAK;
        CHECK(status >= 0 || status == PCAP_ERROR_BREAK, "status %d", status);
      }
      breaker.join();
    }
    check_sequence(packets, 0, kRounds * 20 - 1);
    CHECK(breaks == kRounds, "%u of %u breaks were seen", breaks, kRounds);
  }
}

/// Non-blocking mode switched on and off gives libpcap another eventfd(2): a thread's break ends a
/// wait all the same, with blocks outstanding or not.
void break_after_nonblocking_mode() {
  if (is_off()) skip("of blocks");
  for (const char* device : {"see0", "see0,see1"}) {
    for (const bool take : {true, false}) {
      const Handle handle = open_capture({.device = device});
      pcap_t* p = handle.get();
      const Sender sender = remote();
      sender.send(0, 1);
      pcap_v3_block_t* out = nullptr;
      CHECK(pcap_v3_next_block(p, -1, &out) == 1, "%s", pcap_geterr(p));
      pcap_v3_block_t* none = nullptr;
      CHECK(pcap_v3_next_block(p, 10, &none) == 0, "another block");
      char error[PCAP_ERRBUF_SIZE];
      CHECK(pcap_setnonblock(p, 1, error) == 0 && pcap_setnonblock(p, 0, error) == 0, "%s", error);
      std::thread breaker([&, reader = static_cast<pid_t>(syscall(SYS_gettid))] {
        wait_until_asleep(reader);
        pcap_breakloop(p);
      });
      Packets packets;
      const int status =
          take ? pcap_v3_next_block(p, -1, &none) : pcap_loop(p, -1, keep, user(packets));
      breaker.join();
      CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
      pcap_v3_release_block(out);
    }
  }
}

const Test kTests[] = {
    {"a thread breaks, and closes soon after: one callback at most, and no crash",
     thread_breaks_and_closes, 120},
    {"a thread breaks and closes at once", thread_closes_at_once, 60},
    {"a thread breaks: what is left is there for the next read", thread_breaks_and_reads_on, 30},
    {"a thread breaks pcap_next_ex: no packet is counted and thrown away", next_ex_and_threads, 60},
    {"a break after non-blocking mode was on", break_after_nonblocking_mode},
};
const Registration kRegistration(
    {.name = "break_threads", .tests = kTests, .links = 2, .instruments = "address"});

}  // namespace
}  // namespace pcapv3::live
