// SPDX-License-Identifier: BSD-3-Clause
// Immediate mode: waiting on descriptors and in reads.
#include <sys/syscall.h>

#include <algorithm>
#include <atomic>
#include <initializer_list>
#include <thread>
#include <vector>

#include "immediate.h"

namespace pcapv3::live {
namespace {

// ---- On descriptors

/// Reads when the descriptor says so, and not otherwise, until the frame `last` has come.
Packets take_when_readable(pcap_t* p, const Waiter& waiter, std::uint32_t last, unsigned& wakes) {
  Packets packets;
  while (packets.empty() || number_of(packets.back().bytes) != last) {
    CHECK(waiter.wait(5000), "not readable after %zu packets", packets.size());
    ++wakes;
    dispatch(p, -1, packets);
  }
  return packets;
}

/// Nothing is left: a program that waits is to sleep.
void check_sleeps(pcap_t* p, const Waiter& waiter) {
  // But for one wake-up that was under way.
  if (waiter.wait(0)) CHECK(pcap_dispatch(p, -1, keep, nullptr) == 0, "another packet");
  CHECK(!waiter.wait(200), "readable with nothing to read");
}

constexpr std::initializer_list<Waiting> kWays = {Waiting::kSelect, Waiting::kPoll,
                                                  Waiting::kEpoll};

void selectable(Waiting how) {
  Capture capture;
  set_nonblock(capture);
  const Waiter waiter(how, pcap_get_selectable_fd(capture));
  const Sender sender = remote();
  std::vector<double> seconds;
  unsigned wakes = 0;
  constexpr std::uint32_t kSingles = 20;
  for (const std::uint32_t flood : {0u, kFlood}) {
    if (flood != 0) {
      sender.send(0, flood);
      check_sequence(take_when_readable(capture, waiter, flood - 1, wakes), 0, flood - 1);
      check_sleeps(capture, waiter);
    }
    wakes = 0;
    for (std::uint32_t i = 0; i < kSingles; ++i) {
      const auto start = Clock::now();
      sender.send({.number = i});
      check_sequence(take_when_readable(capture, waiter, i, wakes), i, i);
      seconds.push_back(seconds_since(start));
    }
    CHECK(wakes <= 3 * kSingles, "woken %u times for %u packets", wakes, kSingles);
    check_sleeps(capture, waiter);
  }
  std::nth_element(seconds.begin(), seconds.begin() + kSingles, seconds.end());
  CHECK(seconds[kSingles] < 0.05, "%.3f s in the middle", seconds[kSingles]);
  capture.close(kSingles, kFlood / 2);
}

void rest_unread() {
  for (const Waiting how : kWays) {
    Capture capture;
    set_nonblock(capture);
    const Waiter waiter(how, pcap_get_selectable_fd(capture));
    for (const std::uint32_t count : {5u, 300u}) {
      remote().send(0, count);
      Packets packets;
      while (packets.size() < count) {
        CHECK(waiter.wait(5000), "not readable with %zu of %u packets read", packets.size(), count);
        CHECK(dispatch(capture, 1, packets) <= 1, "more than one");
      }
      check_sequence(packets, 0, count - 1);
      check_sleeps(capture, waiter);
    }
  }
}

/// A program that asks for the socket itself, after `before` packets and with `unread` in the
/// rings, and waits on that.
void socket_descriptor(std::uint32_t before, std::uint32_t unread,
                       std::initializer_list<Waiting> ways = {Waiting::kPoll}) {
  constexpr std::uint32_t kSingles = 50;
  Capture capture;
  set_nonblock(capture);
  const Sender sender = remote();
  unsigned wakes = 0;
  if (before != 0) {
    const Waiter waiter(Waiting::kPoll, pcap_get_selectable_fd(capture));
    for (std::uint32_t i = 0; i < before; ++i) {
      sender.send({.number = i});
      check_sequence(take_when_readable(capture, waiter, i, wakes), i, i);
    }
  }
  if (unread != 0) sender.send(0, unread);
  const int fd = pcap_fileno(capture);
  int type = 0;
  socklen_t length = sizeof(type);
  CHECK(getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_RAW,
        "%d is no packet socket", fd);
  CHECK(pcap_fileno(capture) == fd, "another one at the second time");
  if (unread != 0) {
    const Waiter waiter(Waiting::kPoll, fd);
    check_sequence(take_when_readable(capture, waiter, unread - 1, wakes), 0, unread - 1);
  }
  std::uint32_t all = before + unread;
  for (const Waiting how : ways) {
    const Waiter waiter(how, fd);
    wakes = 0;
    for (std::uint32_t i = 0; i < kSingles; ++i) {
      sender.send({.number = i});
      check_sequence(take_when_readable(capture, waiter, i, wakes), i, i);
    }
    CHECK(wakes <= 3 * kSingles, "woken %u times for %u packets", wakes, kSingles);
    check_sleeps(capture, waiter);
    sender.send(0, kFlood);
    check_sequence(take_when_readable(capture, waiter, kFlood - 1, wakes), 0, kFlood - 1);
    check_sleeps(capture, waiter);
    all += kSingles + kFlood;
  }
  const pcap_stat stats = stats_of(capture);
  CHECK(stats.ps_recv == all && stats.ps_drop == 0, "%u received, not %u; %u dropped",
        stats.ps_recv, all, stats.ps_drop);
  // None by the frame ring since then.
  capture.close(before, before + std::min(unread, 100u));
}

// ---- In reads

/// A read does not come back before there is a packet, whatever the time-out: as with stock
/// libpcap, whose wait goes on (pcap-linux.c: pcap_wait_for_frames_mmap).
void reads_wait() {
  for (const int timeout_ms : {0, 50}) {
    Capture capture({.snaplen = 2000, .timeout_ms = timeout_ms});
    const Sender sender = remote();
    for (const std::uint32_t flood : {0u, kFlood}) {
      if (flood != 0) sender.send(0, flood);
      if (flood != 0) take_until(capture, flood - 1);
      const pid_t reader = getpid();
      std::thread other([&] {
        std::this_thread::sleep_for(milliseconds(200));
        wait_until_asleep(reader);
        sender.send({.number = 7});
      });
      Packets packets;
      CHECK(dispatch(capture, -1, packets) == 1, "no packet");
      check_sequence(packets, 7, 7);
      other.join();
    }
  }
}

/// But in programs that rely on it, which are given no descriptor to wait on.
void reads_end_by_timeout() {
  if (is_off()) skip("stock has no settings");
  const Setting blocking("PCAPV3_BLOCKING", program_invocation_short_name);
  Capture capture({.snaplen = 2000, .timeout_ms = 50});
  CHECK(pcap_get_selectable_fd(capture) == -1, "it has a descriptor");
  const Sender sender = remote();
  for (const std::uint32_t count : {1u, kFlood}) {
    const auto start = Clock::now();
    Packets packets;
    CHECK(dispatch(capture, -1, packets) == 0, "a packet");
    pcap_pkthdr* header = nullptr;
    const u_char* data = nullptr;
    CHECK(pcap_next_ex(capture, &header, &data) == 0, "a packet");
    CHECK(seconds_since(start) > 0.08, "after %.3f s", seconds_since(start));
    for (std::uint32_t i = 0; i < 10; ++i) {
      sender.send(i * count, count);
      check_sequence(take_until(capture, (i + 1) * count - 1), i * count, (i + 1) * count - 1);
    }
  }
  capture.close(10, 5 * kFlood);
}

/// Reads in a thread that is watched, until it has `count` packets; returns its processor time.
double seconds_of_cpu(pcap_t* p, std::size_t count, std::atomic<pid_t>& thread) {
  timespec used = {};
  Packets packets;
  std::thread reader([&] {
    thread = static_cast<pid_t>(syscall(SYS_gettid));
    while (packets.size() < count) dispatch(p, -1, packets);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  });
  reader.join();
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) / 1e9;
}

void idle_costs_nothing() {
  for (const int timeout_ms : {0, 10}) {
    Capture capture({.snaplen = 2000, .timeout_ms = timeout_ms});
    const Sender sender = remote();
    for (const std::uint32_t flood : {0u, kFlood}) {
      if (flood != 0) sender.send(0, flood);
      if (flood != 0) take_until(capture, flood - 1);
      std::atomic<pid_t> reader = 0;
      std::thread other([&] {
        std::this_thread::sleep_for(milliseconds(300));
        while (reader == 0) std::this_thread::yield();
        wait_until_asleep(reader);
        sender.send({.number = 0});
      });
      const auto start = Clock::now();
      const double cpu = seconds_of_cpu(capture, 1, reader);
      CHECK(seconds_since(start) > 0.25, "came back after %.3f s", seconds_since(start));
      CHECK(cpu < 0.05, "%.3f s of processor time in 0.3 s", cpu);
      other.join();
    }
  }
}

const Test kTests[] = {
    {"select: readable with packets, and only then", [] { selectable(Waiting::kSelect); }},
    {"poll", [] { selectable(Waiting::kPoll); }},
    {"epoll", [] { selectable(Waiting::kEpoll); }},
    {"readable while packets are left", rest_unread},
    {"pcap_fileno before the first read", [] { socket_descriptor(0, 0, kWays); }},
    {"pcap_fileno after some reads", [] { socket_descriptor(20, 0); }},
    {"pcap_fileno with packets in the frame ring", [] { socket_descriptor(20, 5); }},
    {"pcap_fileno with packets in both rings", [] { socket_descriptor(20, 500); }},
    {"reads wait for packets, whatever the time-out", reads_wait},
    {"but for programs that rely on it", reads_end_by_timeout},
    {"an idle handle costs nothing", idle_costs_nothing},
};
const Registration kRegistration({.name = "immediate_waiting", .tests = kTests});

}  // namespace
}  // namespace pcapv3::live
