// SPDX-License-Identifier: BSD-3-Clause
// Several ports as one handle: waiting for packets, in each way that programs have.
#include "capture.h"
#include "ports.h"

namespace pcapv3::live {
namespace {

void waits(Waiting how) {
  const Handle handle = open_capture({.device = "see0,see1"});
  pcap_t* p = handle.get();
  set_nonblock(p);
  Waiter waiter(how, pcap_get_selectable_fd(p));
  const Players players(2);
  unsigned wakes = 0;
  constexpr std::uint32_t kRounds = 30;
  for (std::uint32_t round = 0; round < kRounds; ++round) {
    // On one port, and the other has nothing: that is what takes time to find out.
    const unsigned port = round % 2;
    players[port].send(marked(port, round), 3);
    Packets packets;
    while (packets.size() < 3) {
      CHECK(waiter.wait(5000), "round %u: not readable with %zu of 3 packets read", round,
            packets.size());
      ++wakes;
      while (pcap_dispatch(p, -1, keep, user(packets)) > 0) {
      }
    }
    check_sequence(packets, marked(port, round), marked(port, round + 2));
  }
  std::printf("# woken %.1f times a round\n", wakes / double{kRounds});
  CHECK(wakes <= 10 * kRounds, "woken %u times", wakes);

  // No packets, no wake-ups, but for one that was under way.
  unsigned idle_wakes = 0;
  for (const auto start = Clock::now(); seconds_since(start) < 0.4;) {
    idle_wakes += waiter.wait(100);
    CHECK(pcap_dispatch(p, -1, nullptr, nullptr) == 0, "a packet on idle links");
  }
  CHECK(idle_wakes <= 2, "woken %u times in 0.4 s", idle_wakes);
}

void waits_with_rest_unread() {
  // Part of what came is read: a program that waits now must not miss the rest. (Edge-triggered, it
  // has to read until there is nothing more.)
  for (const Waiting how : {Waiting::kSelect, Waiting::kPoll, Waiting::kEpoll}) {
    const Handle handle = open_capture({.device = "see0,see1"});
    pcap_t* p = handle.get();
    set_nonblock(p);
    Waiter waiter(how, pcap_get_selectable_fd(p));
    const Players players(2);
    players.send(0, 5);
    Packets packets;
    while (packets.size() < 10) {
      CHECK(waiter.wait(5000), "not readable with %zu of 10 packets read", packets.size());
      CHECK(pcap_dispatch(p, 1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
    }
    check_ports(packets, 2, 0, 5);
    CHECK(pcap_dispatch(p, 1, keep, user(packets)) == 0, "an eleventh packet");
    CHECK(!waiter.wait(0), "readable without packets");
  }
}

void waits_on_a_handle_that_blocks() {
  // As dumpcap does it: a read after select() must not wait for what is to come next.
  for (const int count : {1, -1}) {
    for (const Waiting how : {Waiting::kSelect, Waiting::kPoll, Waiting::kEpoll}) {
      const Handle handle = open_capture({.device = "see0,see1"});
      pcap_t* p = handle.get();
      const Waiter waiter(how, pcap_get_selectable_fd(p));
      const Players players(2);
      for (std::uint32_t round = 0; round < 10; ++round) {
        players.send(round, 1);
        Packets packets;
        while (packets.size() < 2 || waiter.wait(20)) {
          if (packets.size() < 2) CHECK(waiter.wait(5000), "never readable");
          CHECK(pcap_dispatch(p, count, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
        }
        check_ports(packets, 2, round, 1);
      }
    }
  }
}

constexpr std::uint64_t kWindowNs = 200'000'000;

/// Frames on port 0 that fill blocks, after one on port 1 whose block is not handed over for long:
/// they can go after the window, and nothing but time tells.
class Held {
 public:
  Held() {
    setenv("PCAPV3_BUFFER", "8M", 1);
    setenv("PCAPV3_BLOCK", "128K", 1);
    setenv("PCAPV3_RETIRE", "1500", 1);
    setenv("PCAPV3_WINDOW", "200", 1);
    handle = open_capture({.device = "see0,see1", .precision = PCAP_TSTAMP_PRECISION_NANO});
    const Players players(2);
    players[1].send(marked(1, 0), 1);
    players[0].send(0, 5, 60'000);  // two a block
  }

  Handle handle;
};

/// Whether they came as they should. A busy machine can make them come later, so that there is
/// only a lower bound, and the retire timeout.
void check_held(const Packets& packets) {
  CHECK(packets.size() == 4, "%zu packets", packets.size());
  check_sequence(packets, 0, 3, 1, 60'000);
  const std::uint64_t delay = now_ns() - stamp_ns(packets.front().header);
  CHECK(delay >= kWindowNs, "%.1f ms after its stamp", static_cast<double>(delay) / 1e6);
  CHECK(delay < 1'400'000'000, "%.1f ms after its stamp", static_cast<double>(delay) / 1e6);
}

void only_time_passes(Waiting how) {
  const Held held;
  pcap_t* p = held.handle.get();
  set_nonblock(p);
  const Waiter waiter(how, pcap_get_selectable_fd(p));
  const bool edge = how == Waiting::kEpollEdge;  // it has to read all that there is
  Packets packets;
  unsigned wakes = 0;
  while (packets.size() < 4) {
    CHECK(waiter.wait(5000), "not readable with %zu of 4 packets read", packets.size());
    ++wakes;
    while (pcap_dispatch(p, edge ? -1 : 1, keep, user(packets)) > 0 && edge) {
    }
  }
  check_held(packets);
  CHECK(wakes <= 20, "woken %u times", wakes);
}

void only_time_passes_in_a_read() {
  Record stats("PCAPV3_STATS");
  {
    const Held held;
    check_held(take_count(held.handle.get(), 4));
    // Port 1 has kept its packet longer than was promised: it comes at once, and is counted. The
    // rest of port 0 comes when its timer says so, before or after.
    const Packets rest = take_count(held.handle.get(), 2);
    const bool first = number_of(rest[0].bytes) == marked(1, 0);
    check_frame(rest[first ? 0 : 1], {.number = marked(1, 0)});
    check_frame(rest[first ? 1 : 0], {.number = 4, .size = 60'000});
  }
  CHECK(figure(stats.text(), "see1", "late") == 1 && figure(stats.text(), "see0", "late") == 0,
        "%s", stats.text().c_str());
}

void nonblocking() {
  for (const bool before : {true, false}) {
    const Handle handle = create({.device = "see0,see1", .timeout_ms = 3000});
    pcap_t* p = handle.get();
    if (before) set_nonblock(p);
    CHECK(pcap_activate(p) == 0, "%s", pcap_geterr(p));
    if (!before) set_nonblock(p);
    CHECK(pcap_getnonblock(p, nullptr) == 1, "it blocks");
    const auto start = Clock::now();
    Packets packets;
    pcap_pkthdr* header = nullptr;
    const u_char* data = nullptr;
    for (const int count : {1, 0, -1}) {
      const int taken = pcap_dispatch(p, count, keep, user(packets));
      CHECK(taken == 0, "status %d", taken);
    }
    const int status = pcap_next_ex(p, &header, &data);
    CHECK(status == 0, "status %d", status);
    CHECK(seconds_since(start) < 2.5, "took %.3f s", seconds_since(start));
    char error[PCAP_ERRBUF_SIZE] = "";
    CHECK(pcap_setnonblock(p, 0, error) == 0 && pcap_getnonblock(p, error) == 0, "%s", error);
    const Players players(2);
    players.send(0, 10);
    check_ports(take_count(p, 20), 2, 0, 10);
  }
}

/// As nonblocking(), and reads that block come back by the time-out.
void without_descriptor() {
  setenv("PCAPV3_BLOCKING", program_invocation_short_name, 1);
  CHECK(pcap_get_selectable_fd(open_capture({.device = "see0,see1"}).get()) == -1, "it has one");
  nonblocking();
  const Handle handle = open_capture({.device = "see0,see1", .timeout_ms = 50});
  Packets packets;
  CHECK(pcap_dispatch(handle.get(), -1, keep, user(packets)) == 0, "not by the time-out");
}

const Test kTests[] = {
    {"select: readable with packets, and only then", [] { waits(Waiting::kSelect); }},
    {"poll", [] { waits(Waiting::kPoll); }},
    {"epoll, level-triggered", [] { waits(Waiting::kEpoll); }},
    {"epoll, edge-triggered", [] { waits(Waiting::kEpollEdge); }},
    {"readable while packets are left", waits_with_rest_unread},
    {"a handle that blocks returns from what it was woken for", waits_on_a_handle_that_blocks},
    {"select, when only time passes", [] { only_time_passes(Waiting::kSelect); }},
    {"poll, when only time passes", [] { only_time_passes(Waiting::kPoll); }},
    {"epoll, when only time passes", [] { only_time_passes(Waiting::kEpoll); }},
    {"epoll by edges, when only time passes", [] { only_time_passes(Waiting::kEpollEdge); }},
    {"a read, when only time passes; a late packet", only_time_passes_in_a_read},
    {"non-blocking mode", nonblocking},
    {"a handle without a descriptor", without_descriptor},
};
const Registration kRegistration(
    {.name = "ports_waiting", .tests = kTests, .links = 2, .settings = "PCAPV3_WINDOW=2000"});

}  // namespace
}  // namespace pcapv3::live
