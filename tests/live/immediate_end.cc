// SPDX-License-Identifier: BSD-3-Clause
// Immediate mode: counts, breaks, and what is delivered when a loop ends.
#include <atomic>
#include <thread>

#include "breaks.h"
#include "immediate.h"
#include "traffic.h"

namespace pcapv3::live {
namespace {

enum class Amount { kQuiet, kBusy, kTooMuch };

/// A signal ends the loop; what had come by then is delivered or counted as dropped, of both rings.
void books(Amount traffic) {
  if (is_off()) skip("stock loses some");
  Capture capture;
  break_on(SIGUSR1, capture);
  const bool quiet = traffic == Amount::kQuiet;
  const Traffic frames(
      {.size = traffic == Amount::kTooMuch ? 1400u : 100u, .pause_us = quiet ? 2000u : 0u});
  struct Count {
    pcap_t* handle;
    std::uint32_t wanted;
    bool until_dropped;
    std::uint32_t count = 0;
    std::int64_t last = -1;
  } count{capture, quiet ? 50u : 50000u, traffic == Amount::kTooMuch};
  const auto take = [](u_char* at, const pcap_pkthdr*, const u_char* data) {
    auto* c = reinterpret_cast<Count*>(at);
    const std::uint32_t number = read32(data + 18);
    CHECK(number > c->last, "frame %u after %lld", number, static_cast<long long>(c->last));
    c->last = number;
    if (++c->count != c->wanted) return;
    while (c->until_dropped && stats_of(c->handle).ps_drop == 0) std::this_thread::yield();
    raise(SIGUSR1);
  };
  for (int round = 0; round < 2; ++round) {
    count.wanted += count.count;
    const int status = pcap_loop(capture, -1, take, reinterpret_cast<u_char*>(&count));
    CHECK(status == PCAP_ERROR_BREAK, "status %d, %s", status, pcap_geterr(capture));
    const pcap_stat stats = stats_of(capture);
    CHECK(stats.ps_recv == count.count + stats.ps_drop, "%u received, %u delivered, %u dropped",
          stats.ps_recv, count.count, stats.ps_drop);
    CHECK(count.count >= count.wanted, "%u delivered", count.count);
    const bool whole = static_cast<std::int64_t>(count.count) == count.last + 1;
    CHECK(whole || stats.ps_drop > 0, "%lld came last of %u, none were dropped",
          static_cast<long long>(count.last), count.count);
    CHECK((traffic == Amount::kTooMuch) <= (stats.ps_drop > 0), "none dropped");
  }
}

/// What is in the rings when a signal ends the loop is delivered: `count` frames that were there
/// before, and as many that came during the callback.
void drain(std::uint32_t count) {
  if (is_off()) skip("stock loses some");
  Capture capture;
  break_on(SIGUSR1, capture);
  struct Signalled {
    const Sender sender = remote();
    std::uint32_t count;
    Packets packets = {};
  } state{.count = count};
  trickle(capture, state.sender, 0, 10);
  const auto take = [](u_char* at, const pcap_pkthdr* header, const u_char* data) {
    auto* s = reinterpret_cast<Signalled*>(at);
    s->packets.emplace_back(*header, data);
    if (s->packets.size() != 1) return;
    s->sender.send(s->count, s->count);
    raise(SIGUSR1);
  };
  for (std::uint32_t round = 1; round <= 3; ++round) {
    state.packets.clear();
    state.sender.send(0, count);
    const int status = pcap_loop(capture, -1, take, reinterpret_cast<u_char*>(&state));
    CHECK(status == PCAP_ERROR_BREAK, "status %d, %s", status, pcap_geterr(capture));
    check_sequence(state.packets, 0, 2 * count - 1);
    const pcap_stat stats = stats_of(capture);
    CHECK(stats.ps_recv == 10 + round * 2 * count && stats.ps_drop == 0,
          "%u received, not %u; %u dropped", stats.ps_recv, 10 + round * 2 * count, stats.ps_drop);
  }
  capture.close(10, 10 + 6 * 100);
}

/// Once all that the rings held has been read, they hold as much again.
void after_overrun() {
  Capture capture({.snaplen = 2000, .buffer_bytes = 16 << 20});
  const Sender sender = remote();
  trickle(capture, sender, 0, 10);
  for (int i = 0; i < 3; ++i) {
    const std::uint32_t before = stats_of(capture).ps_drop;
    const std::uint32_t sent = overrun(capture, sender, 0);
    take_count(capture, sent - (stats_of(capture).ps_drop - before));
    const pcap_stat counts = stats_of(capture);
    sender.send(0, kFlood);
    check_sequence(take_until(capture, kFlood - 1), 0, kFlood - 1);
    const pcap_stat stats = stats_of(capture);
    CHECK(stats.ps_drop == counts.ps_drop && stats.ps_recv == counts.ps_recv + kFlood,
          "%u dropped, before it %u", stats.ps_drop, counts.ps_drop);
  }
  capture.close(10, ~0u);
}

/// What pcap_next_ex hands out is valid until the next call, whatever comes meanwhile.
void next_ex_stays_valid() {
  Capture capture({.snaplen = 2000, .buffer_bytes = 4 << 20});
  const Sender sender = remote();
  trickle(capture, sender, 0, 5);
  std::size_t taken = 5;
  for (int i = 0; i < 3; ++i) {
    sender.send({.number = 0});
    for (const Frame& frame : {Frame{.number = 0}, Frame{.number = 1, .size = 1400}}) {
      pcap_pkthdr* header = nullptr;
      const u_char* data = nullptr;
      int status = 0;
      while (status == 0) status = pcap_next_ex(capture, &header, &data);
      CHECK(status == 1, "status %d, %s", status, pcap_geterr(capture));
      ++taken;
      overrun(capture, sender, 1);
      check_frame(Packet(*header, data), frame);
    }
    const pcap_stat stats = stats_of(capture);
    taken += take_count(capture, stats.ps_recv - stats.ps_drop - taken).size();
  }
}

/// A break in a quiet moment, in both states.
void break_while_idle() {
  for (const int timeout_ms : {0, 10, 8000}) {
    Capture capture({.snaplen = 2000, .timeout_ms = timeout_ms});
    const Sender sender = remote();
    const pid_t reader = getpid();
    for (const std::uint32_t flood : {0u, kFlood}) {
      if (flood != 0) sender.send(0, flood);
      if (flood != 0) check_sequence(take_until(capture, flood - 1), 0, flood - 1);
      Clock::time_point start;
      std::thread other([&] {
        wait_until_asleep(reader);
        start = Clock::now();
        pcap_breakloop(capture);
      });
      Packets packets;
      const int status = pcap_loop(capture, -1, keep, user(packets));
      other.join();
      CHECK(status == PCAP_ERROR_BREAK && packets.empty(), "status %d, %zu packets", status,
            packets.size());
      CHECK(seconds_since(start) < 1, "%.3f s", seconds_since(start));
    }
  }
}

const Test kTests[] = {
    {"books, quiet", [] { books(Amount::kQuiet); }},
    {"books, busy", [] { books(Amount::kBusy); }},
    {"books, more than the rings hold", [] { books(Amount::kTooMuch); }},
    {"a signal drains the frame ring", [] { drain(20); }},
    {"a signal drains both rings", [] { drain(1000); }},
    {"after more than the rings hold", after_overrun},
    {"pcap_next_ex's packet is valid until the next call", next_ex_stays_valid},
    {"pcap_breakloop ends a read without packets", break_while_idle},
};
const Registration kRegistration({.name = "immediate_end", .tests = kTests});

}  // namespace
}  // namespace pcapv3::live
