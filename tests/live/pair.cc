// SPDX-License-Identifier: BSD-3-Clause
// When the two rings of a handle in immediate mode are joined and given up, and that what works on
// stock libpcap's socket works on the one that pcap_fileno() gives: by whichever thread or process
// it is asked for. All of it holds for stock libpcap too.
#include <linux/if_packet.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <initializer_list>
#include <string>
#include <thread>
#include <vector>

#include "capture.h"
#include "ports.h"
#include "traffic.h"

namespace pcapv3::live {
namespace {

Handle open_immediate(const char* device = "see0") {
  return open_capture({.device = device, .immediate = true});
}

/// Which frames have come.
struct Seen {
  std::vector<std::uint32_t> numbers = {};
  double longest_s = 0;  // that one has taken

  static void call(u_char* user, const pcap_pkthdr* header, const u_char* bytes) {
    auto* self = reinterpret_cast<Seen*>(user);
    self->numbers.push_back(number_of(Bytes(bytes, bytes + header->caplen)));
    timespec now = {};
    clock_gettime(CLOCK_REALTIME, &now);
    self->longest_s =
        std::max(self->longest_s, static_cast<double>(now.tv_sec - header->ts.tv_sec) +
                                      static_cast<double>(now.tv_nsec) / 1e9 -
                                      static_cast<double>(header->ts.tv_usec) / 1e6);
  }
  int dispatch(pcap_t* p) {
    const int status = pcap_dispatch(p, -1, call, reinterpret_cast<u_char*>(this));
    CHECK(status >= 0 || status == PCAP_ERROR_BREAK, "%s", pcap_geterr(p));
    return status;
  }
  bool has(std::uint32_t number) const { return !numbers.empty() && numbers.back() >= number; }
  /// Each from the first one on to `last`, once.
  void check_all(std::uint32_t last) {
    std::sort(numbers.begin(), numbers.end());
    for (std::size_t i = 1; i < numbers.size(); ++i) {
      CHECK(numbers[i] == numbers[i - 1] + 1, "frame %u comes after %u", numbers[i],
            numbers[i - 1]);
    }
    CHECK(!numbers.empty() && numbers.back() == last, "the last is %u, not %u",
          numbers.empty() ? 0 : numbers.back(), last);
  }
  void check_no_two() {
    std::sort(numbers.begin(), numbers.end());
    const auto two = std::adjacent_find(numbers.begin(), numbers.end());
    CHECK(two == numbers.end(), "frame %u came twice", *two);
  }
};

void read_until(pcap_t* p, Seen& seen, std::uint32_t last) {
  while (!seen.has(last)) seen.dispatch(p);
}

// ---- Joining

/// Handles are opened and read under traffic; each gets all frames from the first one on.
void joined_under_traffic(unsigned pause_us, unsigned handles) {
  for (unsigned i = 0; i < handles; ++i) {
    Handle p = open_immediate();
    Seen seen;
    Traffic flood({.pause_us = pause_us});
    usleep(i % 7 * 300);
    while (seen.numbers.size() < 300 || flood.next() < 3000 / (pause_us + 1))
      seen.dispatch(p.get());
    const std::uint32_t last = flood.stop() - 1;
    read_until(p.get(), seen, last);
    const pcap_stat stats = stats_of(p.get());
    if (stats.ps_drop == 0) {
      seen.check_all(last);
      CHECK(stats.ps_recv == seen.numbers.size(), "%u received, %zu read, in round %u",
            stats.ps_recv, seen.numbers.size(), i);
    } else {
      seen.check_no_two();
    }
  }
}

/// Frames that nothing tells apart are neither missing nor twice.
void equal_frames() {
  for (unsigned i = 0; i < 100; ++i) {
    constexpr unsigned kFrames = 400;
    Handle p = open_immediate();
    std::atomic<bool> done = false;
    std::thread sender([&] {
      stay_on_cpu();  // so that the last frame is the last to come
      const Sender socket = remote();
      for (unsigned n = 0; n < kFrames; ++n) {
        socket.send({.number = 7});
        if (n % 40 == i % 40) usleep(100);
      }
      socket.send({.number = 8});
      done = true;
    });
    Seen seen;
    usleep(i % 10 * 100);
    while (seen.numbers.empty() || seen.numbers.back() != 8) seen.dispatch(p.get());
    sender.join();
    CHECK(seen.numbers.size() == kFrames + 1, "%zu, not %u, in round %u", seen.numbers.size(),
          kFrames + 1, i);
  }
}

/// Packets that came before the first read, and the filter that was set by then.
void filtered_from_the_first() {
  Handle p = open_immediate();
  set_filter(p.get(), kOdd);
  Traffic flood({.pause_us = 20});
  Seen seen;
  while (seen.numbers.size() < 3000) seen.dispatch(p.get());
  std::uint32_t last = flood.stop() - 1;
  if (last % 2 == 0) --last;
  read_until(p.get(), seen, last);
  std::sort(seen.numbers.begin(), seen.numbers.end());
  for (std::size_t i = 0; i < seen.numbers.size(); ++i) {
    CHECK(seen.numbers[i] == 2 * i + 1, "frame %u in the place of %zu", seen.numbers[i], 2 * i + 1);
  }
}

// ---- A small ring

/// The ring may be full: one of them comes.
void send_until_one_comes(pcap_t* p, Seen& seen) {
  constexpr std::uint32_t kFirst = 100'000'000;
  const Sender sender = remote();
  for (std::uint32_t number = kFirst; !seen.has(kFirst); ++number) {
    sender.send({.number = number});
    seen.dispatch(p);
  }
}

void ring_of_two_blocks() {
  setenv("PCAPV3_BUFFER", "200K", 1);
  for (unsigned round = 0; round < 20; ++round) {
    Handle p = open_immediate();
    Seen seen;
    Traffic flood({.pause_us = round % 4 * 20});
    while (flood.next() < 300) seen.dispatch(p.get());
    usleep(round * 100);
    CHECK(pcap_fileno(p.get()) >= 0, "no descriptor");
    for (unsigned i = 0; i < 200; ++i) seen.dispatch(p.get());
    flood.stop();
    send_until_one_comes(p.get(), seen);
    seen.check_no_two();
  }
}

/// The same with rings of more blocks that are soon full.
void small_ring() {
  setenv("PCAPV3_BUFFER", "1M", 1);
  setenv("PCAPV3_BLOCK", "128K", 1);
  for (unsigned round = 0; round < 10; ++round) {
    Handle p = open_immediate();
    Seen seen;
    Traffic flood({.pause_us = round % 2 == 0 ? 0u : 10u});
    while (seen.numbers.size() < 100) seen.dispatch(p.get());
    usleep(round * 1000);
    CHECK(pcap_fileno(p.get()) >= 0, "no descriptor");
    usleep(round * 1000);  // it can get full
    for (unsigned i = 0; i < 200; ++i) seen.dispatch(p.get());
    flood.stop();
    send_until_one_comes(p.get(), seen);
    seen.check_no_two();
  }
}

// ---- pcap_fileno() by another thread

void another_thread(unsigned rounds, bool selectable) {
  for (unsigned round = 0; round < rounds; ++round) {
    Handle p = open_immediate();
    Traffic flood({.pause_us = 50});
    Seen seen;
    std::atomic<bool> reading = false;
    std::atomic<bool> over = false;
    std::thread reader([&] {
      reading = true;
      while (!over) seen.dispatch(p.get());
    });
    while (!reading) std::this_thread::yield();
    usleep(round * 37 % 1000);
    const int fd = selectable ? pcap_get_selectable_fd(p.get()) : pcap_fileno(p.get());
    CHECK(fd >= 0, "no descriptor");
    CHECK(pcap_fileno(p.get()) >= 0, "no descriptor");
    usleep(5000);
    const std::uint32_t last = flood.stop() - 1;
    over = true;
    const Sender sender = remote();
    sender.send({.number = last + 1});  // it waits without end
    reader.join();
    while (!seen.has(last + 1)) seen.dispatch(p.get());
    seen.check_all(last + 1);
  }
}

/// Between the reads of one thread, another one asks and waits for packets, which it finds.
void another_thread_waits() {
  Handle p = open_immediate();
  set_nonblock(p.get());
  const Sender sender = remote();
  Seen seen;
  std::thread([&] {
    sender.send(0, 20);
    while (!seen.has(19)) seen.dispatch(p.get());
    sender.send(20, 5);
    wait_until_received(p.get(), 25);
  }).join();
  const int fd = pcap_fileno(p.get());
  for (std::uint32_t last = 24; last < 100; ++last) {
    if (last > 24) sender.send({.number = last});
    while (!seen.has(last)) {
      CHECK(readable(fd, 2000), "frame %u is not told of", last);
      seen.dispatch(p.get());
    }
  }
  seen.check_all(99);
}

// ---- A forked process

void in_child(pcap_t* p, bool closes) {
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int fd = pcap_fileno(p);
    if (closes) close(fd);
    _exit(fd >= 0 ? EXIT_SUCCESS : EXIT_FAILURE);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "the child's status is %d", status);
}

/// Each frame comes before the next one is sent.
void trickle(pcap_t* p, const Sender& sender, std::uint32_t first, std::uint32_t count) {
  for (std::uint32_t number = first; number < first + count; ++number) {
    const auto start = Clock::now();
    sender.send({.number = number});
    Seen seen;
    while (!seen.has(number)) seen.dispatch(p);
    CHECK(seen.numbers.size() == 1 && seen.numbers[0] == number, "frame %u, and %zu in all",
          seen.numbers[0], seen.numbers.size());
    CHECK(seconds_since(start) < 1, "frame %u after %g s", number, seconds_since(start));
  }
}

void forked(std::uint32_t before) {
  if (before != 0) setenv("PCAPV3_BUFFER", "2M", 1);
  Handle p = open_immediate();
  const Sender sender = remote();
  trickle(p.get(), sender, 0, before);
  sender.send({.number = before});  // is unread when the child asks
  in_child(p.get(), true);
  Seen unread;
  read_until(p.get(), unread, before);
  {
    // Each comes to a reader that waits.
    Traffic flood({.first = before + 1, .pause_us = 10'000});
    Seen seen;
    while (seen.numbers.size() < 80) seen.dispatch(p.get());
    const std::uint32_t last = flood.stop() - 1;
    read_until(p.get(), seen, last);
    seen.check_all(last);
    CHECK(seen.longest_s < 0.5, "one took %g s", seen.longest_s);
  }
  trickle(p.get(), sender, before + 1, 200);
  // Several times through the ring of blocks.
  Seen seen;
  const std::uint32_t first = before + 201;
  for (std::uint32_t n = 0; n < 40; ++n) {
    sender.send(first + n * 200, 200, 1000);
    read_until(p.get(), seen, first + n * 200 + 199);
  }
  seen.check_all(first + 7999);
  CHECK(stats_of(p.get()).ps_drop == 0, "%u dropped", stats_of(p.get()).ps_drop);
  trickle(p.get(), sender, first + 8000, 50);
}

/// As a daemon is made: the child goes on, by the socket.
void parent_ends() {
  Handle p = open_immediate();
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int fd = pcap_fileno(p.get());
    const Sender sender = remote();
    for (std::uint32_t number = 0; number < 100; ++number) {
      sender.send({.number = number});
      CHECK(readable(fd, 2000), "frame %u is not told of", number);
      const Packets packets = take_until(p.get(), number);
      check_sequence(packets, number, number);
    }
    _exit(EXIT_SUCCESS);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "the child's status is %d", status);
}

// ---- What a program does with the socket

void joins_a_group(bool from_child) {
  constexpr std::size_t kMembers = 4;
  constexpr std::uint32_t kFrames = 4000;
  std::vector<Handle> handles;
  for (std::size_t i = 0; i < kMembers; ++i) {
    handles.push_back(open_immediate());
    if (from_child) in_child(handles.back().get(), false);
    const int fd = pcap_fileno(handles.back().get());
    const int group = 77 | PACKET_FANOUT_LB << 16;
    CHECK(setsockopt(fd, SOL_PACKET, PACKET_FANOUT, &group, sizeof(group)) == 0, "%s",
          std::strerror(errno));
    set_nonblock(handles.back().get());
  }
  const Sender sender = remote();
  sender.send(0, kFrames);
  Seen seen;
  const auto start = Clock::now();
  while (seen.numbers.size() < kFrames && seconds_since(start) < 10) {
    for (const Handle& p : handles) seen.dispatch(p.get());
  }
  for (const Handle& p : handles) {
    CHECK(stats_of(p.get()).ps_recv == kFrames / kMembers, "%u received",
          stats_of(p.get()).ps_recv);
  }
  seen.check_all(kFrames - 1);
}

void send_out(pcap_t* p, std::uint32_t number) {
  const Bytes bytes = bytes_of({.number = number});
  CHECK(pcap_inject(p, bytes.data(), bytes.size()) == static_cast<int>(bytes.size()), "%s",
        pcap_geterr(p));
}

bool ignores_outgoing(pcap_t* p) {
  int value = -1;
  socklen_t length = sizeof(value);
  CHECK(getsockopt(pcap_fileno(p), SOL_PACKET, PACKET_IGNORE_OUTGOING, &value, &length) == 0, "%s",
        std::strerror(errno));
  return value == 1;
}

/// Set by the program, the option has its effect, and stays whatever pcap_setdirection() is told.
void ignores_outgoing(bool immediate) {
  Handle p = open_capture({.immediate = immediate});
  Handle other = open_capture({.immediate = true});
  const int on = 1;
  if (setsockopt(pcap_fileno(p.get()), SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)) != 0) {
    skip("this kernel has no PACKET_IGNORE_OUTGOING");
  }
  const Sender sender = remote();
  std::uint32_t number = 0;
  for (const pcap_direction_t direction : {PCAP_D_INOUT, PCAP_D_IN, PCAP_D_INOUT, PCAP_D_INOUT}) {
    set_direction(p.get(), direction);
    CHECK(ignores_outgoing(p.get()), "it is no longer set, in direction %d", direction);
    send_out(other.get(), number);
    sender.send({.number = number + 1});
    Seen seen;
    read_until(p.get(), seen, number + 1);
    CHECK(seen.numbers.size() == 1, "%zu frames in direction %d", seen.numbers.size(), direction);
    number += 2;
  }
}

/// What was not set by the program is not left behind.
void takes_its_own_back() {
  Handle p = open_capture();
  CHECK(!ignores_outgoing(p.get()), "at first");
  set_direction(p.get(), PCAP_D_IN);
  set_direction(p.get(), PCAP_D_INOUT);
  CHECK(!ignores_outgoing(p.get()), "it is still set");
}

/// To another protocol, and back.
void binds() {
  Handle p = open_immediate();
  const int fd = pcap_fileno(p.get());
  const Sender sender = remote();
  sockaddr_ll address = {};
  socklen_t length = sizeof(address);
  CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0, "%s",
        std::strerror(errno));
  Seen seen;
  for (const std::uint16_t protocol : std::initializer_list<std::uint16_t>{ETH_P_ARP, ETH_P_ALL}) {
    address.sll_protocol = htons(protocol);
    CHECK(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0, "%s",
          std::strerror(errno));
    sender.send(protocol, 10);
  }
  read_until(p.get(), seen, ETH_P_ALL + 9);
  CHECK(seen.numbers.size() == 10 && seen.numbers[0] == ETH_P_ALL, "%zu frames, the first is %u",
        seen.numbers.size(), seen.numbers[0]);
}

/// A read that waits is ended by a break, whatever has become of the two rings.
void broken_off(bool asks_first, std::uint32_t before) {
  Handle p = open_immediate();
  const Sender sender = remote();
  if (asks_first) CHECK(pcap_fileno(p.get()) >= 0, "no descriptor");
  trickle(p.get(), sender, 0, before);
  if (!asks_first) CHECK(pcap_fileno(p.get()) >= 0, "no descriptor");
  for (int i = 0; i < 3; ++i) {
    std::atomic<pid_t> thread = 0;
    std::thread reader([&] {
      thread = gettid();
      Seen seen;
      const int status = pcap_loop(p.get(), -1, Seen::call, reinterpret_cast<u_char*>(&seen));
      CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
    });
    while (thread == 0) std::this_thread::yield();
    wait_until_asleep(thread);
    pcap_breakloop(p.get());
    reader.join();
  }
}

/// A descriptor to wait on is no reason to do without frames.
void waits_first(bool asks_then) {
  Handle p = open_immediate();
  set_nonblock(p.get());
  const int fd = pcap_get_selectable_fd(p.get());
  if (asks_then) CHECK(pcap_fileno(p.get()) >= 0, "no descriptor");
  const Sender sender = remote();
  Seen seen;
  for (std::uint32_t number = 0; number < 300; ++number) {
    sender.send({.number = number});
    while (!seen.has(number)) {
      CHECK(readable(fd, 2000), "frame %u is not told of", number);
      seen.dispatch(p.get());
    }
  }
  seen.check_all(299);
  CHECK(pcap_get_selectable_fd(p.get()) == fd, "another descriptor");
}

/// The link is down when the first read begins.
void down_at_first() {
  Handle p = open_immediate();
  set_nonblock(p.get());
  ip("link set see0 down");
  Seen seen;
  for (int i = 0; i < 5; ++i) {
    (void)pcap_dispatch(p.get(), -1, Seen::call, reinterpret_cast<u_char*>(&seen));
  }
  ip("link set see0 up");
  const std::string path = "/sys/class/net/see0/operstate";
  for (std::string state; state != "up";) std::getline(std::ifstream(path), state);
  const Sender sender = remote();
  for (std::uint32_t number = 0; number < 300; ++number) {
    sender.send({.number = number});
    while (!seen.has(number)) seen.dispatch(p.get());
    if (number % 100 == 50) usleep(150'000);
  }
  seen.check_all(299);
}

const Test kTests[] = {
    {"joined while idle", [] { joined_under_traffic(2000, 3); }},
    {"joined under light traffic", [] { joined_under_traffic(300, 20); }},
    {"joined under traffic", [] { joined_under_traffic(20, 40); }},
    {"joined under dense traffic", [] { joined_under_traffic(0, 60); }, 60},
    {"joined under frames that are all alike", equal_frames},
    {"with a filter", filtered_from_the_first},
    {"a ring of two blocks", ring_of_two_blocks},
    {"a ring of few blocks", small_ring, 60},
    {"pcap_fileno by another thread while the first read begins",
     [] { another_thread(60, false); }},
    {"pcap_get_selectable_fd by another thread", [] { another_thread(30, true); }},
    {"another thread waits for the socket", another_thread_waits},
    {"pcap_fileno in a child, before the first read", [] { forked(0); }, 40},
    {"pcap_fileno in a child, after some reads", [] { forked(20); }, 40},
    {"a child goes on by the socket", parent_ends},
    {"PACKET_FANOUT", [] { joins_a_group(false); }},
    {"PACKET_FANOUT, after a child has asked", [] { joins_a_group(true); }},
    {"PACKET_IGNORE_OUTGOING", [] { ignores_outgoing(false); }},
    {"PACKET_IGNORE_OUTGOING, in immediate mode", [] { ignores_outgoing(true); }},
    {"what pcap_setdirection sets is taken back", takes_its_own_back},
    {"bind", binds},
    {"pcap_breakloop, the socket asked for first", [] { broken_off(true, 0); }},
    {"pcap_breakloop, the socket asked for after reads", [] { broken_off(false, 20); }},
    {"pcap_get_selectable_fd first", [] { waits_first(false); }},
    {"pcap_get_selectable_fd, then pcap_fileno", [] { waits_first(true); }},
    {"the interface is down at the first read", down_at_first},
};
const Registration kRegistration({.name = "pair", .tests = kTests, .instruments = "thread"});

}  // namespace
}  // namespace pcapv3::live
