// SPDX-License-Identifier: BSD-3-Clause
// Traffic that is quiet and busy by turns: nothing is lost, twice or out of order on the way from
// one ring to the other, however it is read.
//
// SWITCHING_SECONDS=60 has the tests take that long, each.
#include <atomic>
#include <functional>
#include <string>
#include <thread>

#include "immediate.h"
#include "switching.h"

namespace pcapv3::live {
namespace {

double seconds_or(double otherwise) {
  const char* text = getenv("SWITCHING_SECONDS");
  return text != nullptr && *text != '\0' ? std::atof(text) : otherwise;
}

/// Of a test that was asked to take longer.
void extend_limit(double seconds) {
  if (seconds > 10) end_in(static_cast<unsigned>(2 * seconds) + 20);
}

int dispatch(pcap_t* p, int count, Seen& seen) {
  const std::uint32_t before = seen.count();
  const int taken = pcap_dispatch(p, count, Seen::callback, reinterpret_cast<u_char*>(&seen));
  CHECK(taken >= 0 && static_cast<std::uint32_t>(taken) == seen.count() - before,
        "status %d, %u callbacks, %s", taken, seen.count() - before, pcap_geterr(p));
  return taken;
}

void by_dispatch(pcap_t* p, Seen& seen, int count) {
  while (!seen.ended()) {
    const int taken = dispatch(p, count, seen);
    CHECK(count <= 0 || taken <= count, "%d packets, but at most %d are wanted", taken, count);
  }
}

void by_next_ex(pcap_t* p, Seen& seen) {
  while (!seen.ended()) {
    pcap_pkthdr* header = nullptr;
    const u_char* data = nullptr;
    const int status = pcap_next_ex(p, &header, &data);
    CHECK(status == 0 || status == 1, "status %d, %s", status, pcap_geterr(p));
    if (status == 1) seen.take(*header, data);
  }
}

void by_descriptor(pcap_t* p, Seen& seen, Waiting how) {
  set_nonblock(p);
  const Waiter waiter(how, pcap_get_selectable_fd(p));
  const bool edge = how == Waiting::kEpollEdge;  // it has to read all that there is
  while (!seen.ended()) {
    CHECK(waiter.wait(5000), "not readable after %u packets", seen.count());
    while (dispatch(p, edge ? -1 : 100, seen) > 0 && edge) {
    }
  }
}

void with_filters(pcap_t* p, Seen& seen) {
  if (is_off()) skip("stock loses some");
  // Each accepts every frame of the load.
  const char* const filters[] = {"udp", "len >= 100", "", "ip and len < 200", "udp port 9"};
  for (std::size_t i = 0; !seen.ended(); ++i) {
    set_filter(p, filters[i % std::size(filters)]);
    dispatch(p, 500, seen);
  }
}

void with_directions(pcap_t* p, Seen& seen) {
  while (!seen.ended()) {
    for (const pcap_direction_t direction : {PCAP_D_IN, PCAP_D_INOUT}) {
      set_direction(p, direction);
      if (!seen.ended()) dispatch(p, 500, seen);
    }
  }
}

void late(pcap_t* p, Seen& seen) {
  auto slept = Clock::now();
  while (!seen.ended()) {
    dispatch(p, -1, seen);
    if (Clock::now() - slept < milliseconds(170)) continue;
    std::this_thread::sleep_for(milliseconds(100));
    slept = Clock::now();
  }
}

void with_breaks(pcap_t* p, Seen& seen) {
  std::atomic<bool> ended = false;
  std::thread other([&] {
    while (!ended) {
      std::this_thread::sleep_for(milliseconds(7));
      pcap_breakloop(p);
    }
  });
  while (!seen.ended()) {
    const int status = pcap_loop(p, -1, Seen::callback, reinterpret_cast<u_char*>(&seen));
    CHECK(status == PCAP_ERROR_BREAK, "status %d, %s", status, pcap_geterr(p));
  }
  ended = true;
  other.join();
}

struct Switching {
  std::function<void(pcap_t*, Seen&)> read;
  double seconds = 1;
  unsigned ports = 1;
  bool in_turn = false;
  unsigned busy_ms = 50;
};

/// What the summary says of a port that has delivered `count` packets of a load, which made it
/// change over so many times at least. One of several ports has no frames.
void check_summary(const std::string& text, unsigned port, std::uint32_t count, bool lone,
                   double least_switches) {
  for (const char* name : {"late", "dropped", "undelivered"}) {
    CHECK(figure(text, see(port), name) == 0, "%s", text.c_str());
  }
  CHECK(figure(text, see(port), "delivered") == count, "not %u: %s", count, text.c_str());
  CHECK(lone == (text.find("frames") != text.npos), "%s", text.c_str());
  if (!lone) return;
  const unsigned frames = figure(text, see(port), "frames");
  const unsigned switches = figure(text, see(port), "switches");
  CHECK(frames > 0 && (least_switches == 0 || frames < count) && switches >= least_switches, "%s",
        text.c_str());
  std::printf("# %u packets, %u of them by frames, %u switches\n", count, frames, switches);
}

void switching(const Switching& way) {
  if (is_off() && way.ports > 1) skip("stock has no such handle");
  const double seconds = seconds_or(way.seconds);
  extend_limit(seconds);
  const bool adaptive = is_adaptive();
  Record stats("PCAPV3_STATS");
  Seen seen(way.ports);
  {
    const std::string device = list_of(way.ports);
    const Handle handle = open_capture({.device = device.c_str(),
                                        .snaplen = adaptive ? 70'000 : 2000,  // fewer slots
                                        .immediate = true,
                                        .buffer_bytes = 64 << 20,
                                        .precision = PCAP_TSTAMP_PRECISION_NANO});
    const Load load(
        {.ports = way.ports, .in_turn = way.in_turn, .seconds = seconds, .busy_ms = way.busy_ms},
        seen);
    way.read(handle.get(), seen);
    const pcap_stat counts = stats_of(handle.get());
    CHECK(counts.ps_recv == seen.count() && counts.ps_drop == 0, "%u received, %u dropped",
          counts.ps_recv, counts.ps_drop);
  }
  if (!adaptive) return;
  for (unsigned port = 0; port < way.ports; ++port) {
    check_summary(stats.text(), port, seen.count(port), way.ports == 1,
                  way.busy_ms > 50 ? 2 : 2 * seconds);
  }
}

/// tcpdump, unmodified, printing to a terminal, which script(1) makes.
void tcpdump_on_a_terminal() {
  if (std::system("command -v script tcpdump >/dev/null") != 0) skip("needs script and tcpdump");
  const double seconds = seconds_or(1.5);
  extend_limit(seconds);
  const bool adaptive = is_adaptive();
  Record stats("PCAPV3_STATS");
  FILE* terminal = popen(
      "exec script -qec 'echo pid $$; exec \"$LAUNCHER\" tcpdump --immediate-mode -n -tt --nano -Z "
      "root "
      "-s 2000 -i see0' /dev/null </dev/null",
      "r");
  CHECK(terminal != nullptr, "%s", std::strerror(errno));
  char line[500];
  int tcpdump = 0;
  const auto read_line = [&] {
    CHECK(std::fgets(line, sizeof(line), terminal) != nullptr, "tcpdump has ended");
  };
  for (line[0] = '\0'; std::strstr(line, "listening on") == nullptr;) {
    read_line();
    std::sscanf(line, "pid %d", &tcpdump);
  }
  Seen seen;
  {
    const Load load({.seconds = seconds, .most_ahead = 500}, seen);
    while (!seen.ended()) {
      unsigned long long s, ns;
      unsigned address[4], length;
      read_line();
      CHECK(std::sscanf(line, "%llu.%9llu IP %u.%u.%u.%u.9 > 10.0.0.2.9: UDP, length %u", &s, &ns,
                        &address[0], &address[1], &address[2], &address[3], &length) == 7,
            "%s", line);
      seen.take(address[0] << 24 | address[1] << 16 | address[2] << 8 | address[3],
                length + kLoadFill, s * 1'000'000'000 + ns);
    }
  }
  CHECK(tcpdump > 0 && kill(tcpdump, SIGINT) == 0, "%s", std::strerror(errno));
  std::string told;
  while (std::fgets(line, sizeof(line), terminal) != nullptr) told += line;
  pclose(terminal);
  const std::string count = std::to_string(seen.count());
  for (const std::string& text :
       {count + " packets captured", count + " packets received by filter",
        std::string("0 packets dropped by kernel")}) {
    CHECK(told.find(text) != told.npos, "no %s: %s", text.c_str(), told.c_str());
  }
  // It is too slow to be woken often.
  if (adaptive) check_summary(stats.text(), 0, seen.count(), true, 0);
}

/// What a handle has got of a load of which its filter lets one half through.
struct Half {
  std::uint32_t parity = 0;
  std::int64_t last = -1;
  std::uint32_t count = 0;
};

/// Filters that let one half through each: none of the other half comes after pcap_setfilter.
void half_filters() {
  Capture capture;
  std::atomic<bool> ended = false;
  std::thread traffic([&] {
    const Seen nothing;
    { const Load load({.most_ahead = 1'000'000}, nothing); }
    ended = true;
  });
  const auto take = [](u_char* at, const pcap_pkthdr*, const u_char* data) {
    auto* half = reinterpret_cast<Half*>(at);
    const std::uint32_t number = read32(data + kLoadNumber);
    CHECK(number % 2 == half->parity, "frame %u after its kind was filtered out", number);
    CHECK(number > half->last, "frame %u after %lld", number, static_cast<long long>(half->last));
    half->last = number;
    ++half->count;
  };
  set_nonblock(capture);
  Half half;
  for (std::uint32_t round = 0; !ended; ++round) {
    half.parity = round % 2;
    set_filter(capture, half.parity == 1 ? "ether[29] & 1 = 1" : "ether[29] & 1 = 0");
    readable(pcap_get_selectable_fd(capture), 20);
    CHECK(pcap_dispatch(capture, 200, take, reinterpret_cast<u_char*>(&half)) >= 0, "%s",
          pcap_geterr(capture));
  }
  traffic.join();
  CHECK(half.count > 100, "%u packets", half.count);
}

const Test kTests[] = {
    {"switching, pcap_dispatch of all",
     [] {
       switching({.read = [](pcap_t* p, Seen& seen) { by_dispatch(p, seen, -1); }, .seconds = 6});
     }},
    {"switching, pcap_dispatch of one",
     [] { switching({[](pcap_t* p, Seen& seen) { by_dispatch(p, seen, 1); }}); }},
    {"switching, pcap_dispatch of seven",
     [] { switching({[](pcap_t* p, Seen& seen) { by_dispatch(p, seen, 7); }}); }},
    {"switching, pcap_next_ex", [] { switching({by_next_ex}); }},
    {"switching, select",
     [] { switching({[](pcap_t* p, Seen& seen) { by_descriptor(p, seen, Waiting::kSelect); }}); }},
    {"switching, poll",
     [] { switching({[](pcap_t* p, Seen& seen) { by_descriptor(p, seen, Waiting::kPoll); }}); }},
    {"switching, epoll",
     [] { switching({[](pcap_t* p, Seen& seen) { by_descriptor(p, seen, Waiting::kEpoll); }}); }},
    {"switching, filters replaced",
     [] {
       switching({with_filters, 1.5});
     }},
    {"switching, direction set", [] { switching({with_directions}); }},
    {"switching, a reader that is late",
     [] {
       switching({late, 1.5});
     }},
    {"switching, loops that are broken off", [] { switching({with_breaks}); }},
    {"switching, a long flood",
     [] {
       switching({[](pcap_t* p, Seen& seen) { by_dispatch(p, seen, -1); }, 1.4, 1, false, 1300});
     }},
    {"switching, two ports at the same time",
     [] {
       switching({[](pcap_t* p, Seen& seen) { by_dispatch(p, seen, -1); }, 1.5, 2});
     }},
    {"switching, two ports in turn",
     [] {
       switching({[](pcap_t* p, Seen& seen) { by_dispatch(p, seen, -1); }, 1.5, 2, true});
     }},
    {"switching, tcpdump on a terminal", tcpdump_on_a_terminal},
    {"filters that each let one half through", half_filters},
};
const Registration kRegistration({.name = "immediate_switching", .tests = kTests, .links = 2});

}  // namespace
}  // namespace pcapv3::live
