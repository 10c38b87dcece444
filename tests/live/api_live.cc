// What a program may expect of a live capture handle, function by function: the reference is stock
// libpcap, so every test here must hold for it too. Run by api.test, in the namespace that has
// see0; frames come from play0 in the other one. Leaves wrong use and failures to bad_input.cc.
#include <net/if_arp.h>
#include <sys/syscall.h>

#include <atomic>
#include <string_view>

#include "capture.h"
#include "frames.h"
#include "harness.h"

namespace pcapv3::live {
namespace {

/// Sends what see0 receives.
Sender peer() { return Sender("play0", link_arguments().peer); }
/// Sends out of see0.
Sender local() { return Sender("see0"); }

// Opening.

void version() {
  const std::string text = pcap_lib_version();
  const bool ours = text.find("pcap-linux-v3") != std::string::npos;
  CHECK(text.starts_with("libpcap version "), "%s", text.c_str());
  CHECK(ours == (std::string_view(link_arguments().library) != "distribution"), "%s", text.c_str());
}

void check_opened(pcap_t* p) {
  CHECK(pcap_datalink(p) == DLT_EN10MB, "%d", pcap_datalink(p));
  CHECK(pcap_fileno(p) >= 0, "%d", pcap_fileno(p));
  CHECK(pcap_get_selectable_fd(p) >= 0, "%d", pcap_get_selectable_fd(p));
  CHECK(pcap_get_required_select_timeout(p) == nullptr, "a time-out is required");
  CHECK(pcap_file(p) == nullptr, "a live capture has a file");
  peer().send(0, 10);
  check_sequence(take_until(p, 9), 0, 9);
}

void open_live() {
  char error[PCAP_ERRBUF_SIZE] = "";
  const Handle handle(pcap_open_live("see0", 1000, 1, 10, error));
  CHECK(handle != nullptr, "%s", error);
  CHECK(pcap_snapshot(handle.get()) == 1000, "%d", pcap_snapshot(handle.get()));
  check_opened(handle.get());
}

void create_and_activate() {
  const Handle handle = create({.snaplen = 2000});
  pcap_t* p = handle.get();
  CHECK(pcap_set_promisc(p, 1) == 0, "%s", pcap_geterr(p));
  CHECK(pcap_activate(p) == 0, "%s", pcap_geterr(p));
  CHECK(pcap_snapshot(p) == 2000, "%d", pcap_snapshot(p));
  check_opened(p);
}

// Reading.

void dispatch_counts() {
  const Handle handle = open_capture();
  const Sender sender = peer();
  for (const int count : {1, 7, 0, -1}) {
    sender.send(0, 100);
    Packets packets;
    while (packets.size() < 100) {
      const std::size_t before = packets.size();
      const int taken = pcap_dispatch(handle.get(), count, keep, user(packets));
      CHECK(taken >= 0 && static_cast<std::size_t>(taken) == packets.size() - before,
            "status %d, %zu callbacks", taken, packets.size() - before);
      CHECK(count <= 0 || taken <= count, "%d packets, but at most %d are wanted", taken, count);
    }
    check_sequence(packets, 0, 99);
  }
}

void loop_count() {
  const Handle handle = open_capture();
  peer().send(0, 100);
  Packets packets;
  for (const std::size_t count : {40, 60}) {
    const std::size_t before = packets.size();
    const int status = pcap_loop(handle.get(), static_cast<int>(count), keep, user(packets));
    CHECK(status == 0, "status %d", status);
    CHECK(packets.size() == before + count, "%zu packets", packets.size() - before);
  }
  check_sequence(packets, 0, 99);
}

void next_and_next_ex() {
  const Handle handle = open_capture();
  peer().send(0, 20);
  Packets packets;
  while (packets.size() < 10) {
    pcap_pkthdr header;
    const u_char* data = pcap_next(handle.get(), &header);
    if (data != nullptr) packets.emplace_back(header, data);
  }
  while (packets.size() < 20) {
    pcap_pkthdr* header = nullptr;
    const u_char* data = nullptr;
    const int status = pcap_next_ex(handle.get(), &header, &data);
    CHECK(status == 0 || status == 1, "status %d, %s", status, pcap_geterr(handle.get()));
    if (status == 1) packets.emplace_back(*header, data);
  }
  check_sequence(packets, 0, 19);
}

void next_ex_stays_valid() {
  // pcap_next_ex(3PCAP): what it hands out is valid until the next call, whatever the ring goes
  // through in the meantime. The first frame is alone in its block, the second is not.
  const Handle handle = open_capture({.buffer_bytes = 1 << 19});
  pcap_t* p = handle.get();
  const Sender sender = peer();
  sender.send(0, 1);
  for (const Frame& frame : {Frame{.number = 0}, Frame{.number = 1, .size = 1400}}) {
    pcap_pkthdr* header = nullptr;
    const u_char* data = nullptr;
    int status = 0;
    while (status == 0) status = pcap_next_ex(p, &header, &data);
    CHECK(status == 1, "status %d, %s", status, pcap_geterr(p));
    overrun(p, sender, 1);
    check_frame(Packet(*header, data), frame);
  }
}

void mixed_reading() {
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  peer().send(0, 60);
  Packets packets;
  while (packets.size() < 60) {
    pcap_pkthdr* header = nullptr;
    pcap_pkthdr copy;
    const u_char* data = nullptr;
    if (pcap_next_ex(p, &header, &data) == 1) packets.emplace_back(*header, data);
    if (packets.size() < 60)
      CHECK(pcap_dispatch(p, 2, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
    if (packets.size() < 60 && (data = pcap_next(p, &copy)) != nullptr) {
      packets.emplace_back(copy, data);
    }
    if (packets.size() < 57) CHECK(pcap_loop(p, 3, keep, user(packets)) == 0, "%s", pcap_geterr(p));
  }
  check_sequence(packets, 0, 59);
}

// Breaking out of a loop.

struct BreakAt {
  pcap_t* handle;
  std::uint32_t number;
  Packets packets;
};

void break_at(u_char* pointer, const pcap_pkthdr* header, const u_char* data) {
  auto* at = reinterpret_cast<BreakAt*>(pointer);
  at->packets.emplace_back(*header, data);
  if (number_of(at->packets.back().bytes) == at->number) pcap_breakloop(at->handle);
}

void break_from_callback() {
  const Handle handle = open_capture();
  BreakAt at = {.handle = handle.get(), .number = 10, .packets = {}};
  peer().send(0, 100);
  int status = pcap_loop(handle.get(), -1, break_at, reinterpret_cast<u_char*>(&at));
  CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
  CHECK(at.packets.size() == 11, "%zu packets", at.packets.size());
  at.number = 30;
  do {
    status = pcap_dispatch(handle.get(), -1, break_at, reinterpret_cast<u_char*>(&at));
  } while (status >= 0);
  CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
  CHECK(at.packets.size() == 31, "%zu packets", at.packets.size());
  for (Packet& packet : take_until(handle.get(), 99)) at.packets.push_back(std::move(packet));
  check_sequence(at.packets, 0, 99);
}

void break_before_reading() {
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  peer().send(0, 10);
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

pcap_t* g_to_break = nullptr;
std::atomic<int> g_count = 0;

void break_on_signal(int) { pcap_breakloop(g_to_break); }
void ignore_signal(int) {}
void count_packet(u_char*, const pcap_pkthdr*, const u_char*) { ++g_count; }

void break_from_signal() {
  const Handle handle = open_capture();
  g_to_break = handle.get();
  struct sigaction action = {};
  action.sa_handler = break_on_signal;
  sigaction(SIGUSR1, &action, nullptr);
  action.sa_handler = ignore_signal;
  sigaction(SIGUSR2, &action, nullptr);
  const Sender sender = peer();
  const pid_t reader = getpid();
  std::thread other([&] {
    wait_until_asleep(reader);
    syscall(SYS_tgkill, reader, reader, SIGUSR2);  // no reason to end a loop
    sender.send(0, 1);
    while (g_count == 0) std::this_thread::yield();
    wait_until_asleep(reader);
    syscall(SYS_tgkill, reader, reader, SIGUSR1);
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

/// Loops `rounds` times, each ended by another thread, wherever the reader is at that moment.
Packets break_repeatedly(pcap_t* p, int rounds) {
  Packets packets;
  std::atomic<int> round = 0;
  std::thread other([&] {
    for (int i = 1; i <= rounds; ++i) {
      while (round < i) std::this_thread::yield();
      pcap_breakloop(p);
    }
  });
  while (round < rounds) {
    ++round;
    const int status = pcap_loop(p, -1, keep, user(packets));
    CHECK(status == PCAP_ERROR_BREAK, "status %d in round %d", status, round.load());
  }
  other.join();
  return packets;
}

void break_under_traffic() {
  constexpr std::uint32_t kLast = 29999;
  const Handle handle = open_capture({.buffer_bytes = 32 << 20});
  const Sender sender = peer();
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
  peer().send(0, 5);
  check_sequence(take_until(handle.get(), 4), 0, 4);
}

// Filters.

void filter_before_traffic() {
  const Handle handle = open_capture();
  const Sender sender = peer();
  set_filter(handle.get(), kOdd);
  sender.send(0, 100);
  check_sequence(take_until(handle.get(), 99), 1, 99, 2);
  set_filter(handle.get(), "");
  sender.send(100, 100);
  check_sequence(take_until(handle.get(), 199), 100, 199);
}

void filter_after_arrival() {
  const Handle handle = open_capture();
  const Sender sender = peer();
  sender.send(0, 100);
  wait_until_received(handle.get(), 100);
  set_filter(handle.get(), kOdd);
  sender.send(100, 100);
  check_sequence(take_until(handle.get(), 199), 1, 199, 2);
}

void filter_under_traffic() {
  const Handle handle = open_capture();
  const Sender sender = peer();
  std::atomic<bool> enough = false;
  std::thread traffic([&] {
    for (std::uint32_t number = 0; !enough; ++number) sender.send({.number = number});
  });
  std::int64_t last = -1;
  for (std::uint32_t round = 0; round < 40; ++round) {
    set_filter(handle.get(), round % 2 == 1 ? kOdd : kEven);
    for (const Packet& packet : take_count(handle.get(), 50)) {
      const std::uint32_t number = number_of(packet.bytes);
      CHECK(number % 2 == round % 2, "frame %u after its kind was filtered out", number);
      CHECK(number > last, "frame %u after %lld", number, static_cast<long long>(last));
      check_frame(packet, {.number = number});
      last = number;
    }
  }
  enough = true;
  traffic.join();
}

struct FilterAt {
  pcap_t* handle;
  Packets packets;
};

void filter_at_ten(u_char* pointer, const pcap_pkthdr* header, const u_char* data) {
  auto* at = reinterpret_cast<FilterAt*>(pointer);
  at->packets.emplace_back(*header, data);
  if (number_of(at->packets.back().bytes) == 10) set_filter(at->handle, kOdd);
}

void filter_from_callback() {
  const Handle handle = open_capture();
  FilterAt at = {.handle = handle.get(), .packets = {}};
  peer().send(0, 100);
  // 0 to 10, and then the odd ones up to 99
  while (at.packets.empty() || number_of(at.packets.back().bytes) != 99) {
    const int taken =
        pcap_dispatch(handle.get(), -1, filter_at_ten, reinterpret_cast<u_char*>(&at));
    CHECK(taken >= 0, "status %d, %s", taken, pcap_geterr(handle.get()));
  }
  check_sequence(Packets(at.packets.begin(), at.packets.begin() + 11), 0, 10);
  check_sequence(Packets(at.packets.begin() + 11, at.packets.end()), 11, 99, 2);
}

void filter_too_long_for_kernel() {
  const Handle handle = open_capture();
  const Sender sender = peer();
  sender.send(0, 50);
  wait_until_received(handle.get(), 50);
  set_long_filter(handle.get());
  sender.send(50, 50);
  check_sequence(take_until(handle.get(), 99), 1, 99, 2);
  set_filter(handle.get(), kEven);  // and the kernel's filter is back
  sender.send(100, 101);
  check_sequence(take_until(handle.get(), 200), 100, 200, 2);
}

/// Sends four frames that only their tags tell apart, and one that ends each round.
void send_tagged(const Sender& sender, std::uint32_t first) {
  const std::vector<Tag> tags[] = {{}, {{.tci = 5}}, {{.tci = 6}}, {{.tci = 5}, {.tci = 6}}};
  for (std::uint32_t i = 0; i < 4; ++i) sender.send({.number = first + i, .tags = tags[i]});
}

void vlan_filters() {
  struct {
    const char* filter;
    std::vector<std::uint32_t> wanted;
  } const cases[] = {
      {"vlan", {1, 2, 3}},
      {"vlan 5", {1, 3}},
      {"not vlan", {0}},
      {"vlan 5 and vlan 6", {3}},
      {"vlan 6", {2}},
      {"vlan and ether proto 0x88b5", {1, 2}},
      {"ether proto 0x88b5", {0, 1, 2}},  // the kernel has taken the outer tag off
  };
  const Sender sender = peer();
  for (const auto& test : cases) {
    // Once for the frames that were in the ring already, once for those that the kernel filters.
    const Handle handle = open_capture();
    send_tagged(sender, 0);
    wait_until_received(handle.get(), 4);
    set_filter(handle.get(), test.filter);
    send_tagged(sender, 100);
    std::vector<std::uint32_t> wanted = test.wanted;
    for (const std::uint32_t number : test.wanted) wanted.push_back(number + 100);
    std::vector<std::uint32_t> came;
    for (const Packet& packet : take_until(handle.get(), wanted.back())) {
      came.push_back(number_of(packet.bytes));
    }
    CHECK(came == wanted, "%s: %zu packets, not %zu, or others", test.filter, came.size(),
          wanted.size());
  }
}

// Direction.

void direction() {
  const Sender in = peer();
  const Sender out = local();
  // A frame that the second handle has seen come in: what came in before it has passed the first.
  const Handle watch = open_capture();
  struct {
    pcap_direction_t direction;
    std::vector<std::uint32_t> wanted;
  } const cases[] = {{PCAP_D_IN, {2, 3}}, {PCAP_D_OUT, {0, 1, 4}}, {PCAP_D_INOUT, {0, 1, 2, 3, 4}}};
  for (const auto& test : cases) {
    const Handle handle = open_capture();
    set_direction(handle.get(), test.direction);
    out.send(0, 2);
    in.send(2, 2);
    take_until(watch.get(), 3);
    out.send(4, 1);
    std::vector<std::uint32_t> came;
    for (const Packet& packet : take_until(handle.get(), test.wanted.back())) {
      came.push_back(number_of(packet.bytes));
    }
    CHECK(came == test.wanted, "direction %d: %zu packets", test.direction, came.size());
  }
}

void direction_changed() {
  const Sender in = peer();
  const Sender out = local();
  const Handle handle = open_capture();
  out.send(0, 5);
  in.send(5, 5);
  wait_until_received(handle.get(), 10);
  set_direction(handle.get(), PCAP_D_IN);
  out.send(10, 5);
  in.send(15, 5);
  const Packets packets = take_until(handle.get(), 19);
  CHECK(packets.size() == 10, "%zu packets", packets.size());
  check_sequence(Packets(packets.begin(), packets.begin() + 5), 5, 9);
  check_sequence(Packets(packets.begin() + 5, packets.end()), 15, 19);
  set_direction(handle.get(), PCAP_D_INOUT);
  out.send(20, 5);
  in.send(25, 5);
  check_sequence(take_until(handle.get(), 29), 20, 29);
}

void direction_on_loopback() {
  // The kernel shows a frame on lo twice, going out and coming in; libpcap delivers the second, and
  // has none at all for somebody who wants what goes out.
  const Sender sender("lo");
  for (const pcap_direction_t direction : {PCAP_D_IN, PCAP_D_INOUT}) {
    const Handle handle = open_capture({.device = "lo"});
    set_direction(handle.get(), direction);
    sender.send(0, 50);
    check_sequence(take_until(handle.get(), 49), 0, 49);
  }
  const Handle watch = open_capture({.device = "lo"});
  const Handle handle = open_capture({.device = "lo"});
  set_direction(handle.get(), PCAP_D_OUT);
  set_nonblock(handle.get());
  sender.send(0, 50);
  take_until(watch.get(), 49);
  // Nothing marks the end of nothing: many times the time-out it is.
  for (const auto start = Clock::now(); seconds_since(start) < 0.3;) {
    Packets packets;
    const int taken = pcap_dispatch(handle.get(), -1, keep, user(packets));
    CHECK(taken == 0 && packets.empty(), "status %d, %zu packets", taken, packets.size());
  }
}

// Not blocking, and waiting outside.

void check_idle(pcap_t* p) {
  pcap_pkthdr copy;
  pcap_pkthdr* header = nullptr;
  const u_char* data = nullptr;
  const auto start = Clock::now();
  for (const int count : {1, 0, -1}) {
    const int taken = pcap_dispatch(p, count, count_packet, nullptr);
    CHECK(taken == 0, "status %d", taken);
  }
  const int status = pcap_next_ex(p, &header, &data);
  CHECK(status == 0, "status %d", status);
  CHECK(pcap_next(p, &copy) == nullptr, "a packet on an idle link");
  // 5 calls that waited for this time-out would take 15 s
  CHECK(seconds_since(start) < 2.5, "took %.3f s", seconds_since(start));
}

void nonblock() {
  for (const bool before : {true, false}) {
    const Handle handle = create({.timeout_ms = 3000});
    pcap_t* p = handle.get();
    if (before) set_nonblock(p);
    CHECK(pcap_activate(p) == 0, "%s", pcap_geterr(p));
    if (!before) set_nonblock(p);
    CHECK(pcap_getnonblock(p, nullptr) == 1, "it blocks");
    check_idle(p);
  }
}

void nonblock_and_back() {
  char error[PCAP_ERRBUF_SIZE] = "";
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  const Sender sender = peer();
  CHECK(pcap_getnonblock(p, error) == 0, "%s", error);
  set_nonblock(p);
  sender.send(0, 10);
  check_sequence(take_until(p, 9), 0, 9);
  check_idle(p);
  CHECK(pcap_setnonblock(p, 0, error) == 0, "%s", error);
  CHECK(pcap_getnonblock(p, error) == 0, "it does not block");
  const pid_t reader = getpid();
  std::thread other([&] {
    wait_until_asleep(reader);
    sender.send(10, 10);
    while (g_count < 10) std::this_thread::yield();
    pcap_breakloop(p);
  });
  const int status = pcap_loop(p, -1, count_packet, nullptr);
  CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
  CHECK(g_count == 10, "%d packets", g_count.load());
  other.join();
}

void wait_outside() {
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  set_nonblock(p);
  const int fd = pcap_get_selectable_fd(p);
  const Sender sender = peer();
  for (int round = 0; round < 20; ++round) {
    CHECK(!readable(fd, 0) && !selectable(fd, 0), "readable without packets, round %d", round);
    sender.send(0, 5);
    CHECK(selectable(fd, 5000) && readable(fd, 0), "not readable with packets, round %d", round);
    check_sequence(take_until(p, 4), 0, 4);
  }
  // Part of what came is read: a program that waits now must not miss the rest.
  sender.send(0, 5);
  for (std::uint32_t number = 0; number < 5; ++number) {
    CHECK(readable(fd, 5000), "not readable with frame %u to read", number);
    Packets packets;
    const int taken = pcap_dispatch(p, 1, keep, user(packets));
    CHECK(taken == 1, "status %d", taken);
    check_frame(packets.front(), {.number = number});
  }
  CHECK(!readable(fd, 0), "readable without packets");
}

// Counts.

void stats() {
  const Handle handle = open_capture();
  const Sender sender = peer();
  CHECK(stats_of(handle.get()).ps_recv == 0, "packets on an idle link");
  for (unsigned round = 1; round <= 3; ++round) {
    sender.send(0, 50);
    take_until(handle.get(), 49);
    const pcap_stat stats = stats_of(handle.get());
    CHECK(stats.ps_recv == 50 * round, "%u, not %u", stats.ps_recv, 50 * round);
    CHECK(stats.ps_drop == 0, "%u dropped", stats.ps_drop);
  }
  set_filter(handle.get(), kOdd);
  sender.send(0, 50);
  take_until(handle.get(), 49);
  const pcap_stat stats = stats_of(handle.get());
  CHECK(stats.ps_recv == 175, "%u: what a filter rejects must not count", stats.ps_recv);
}

void stats_after_overrun() {
  const Handle handle = open_capture({.buffer_bytes = 1 << 19});
  pcap_t* p = handle.get();
  set_nonblock(p);
  const std::uint32_t sent = overrun(p, peer(), 0);
  std::uint32_t delivered = 0;
  std::int64_t last = -1;
  // The frames in the ring, and then those that were dropped, make up what was sent.
  while (delivered + stats_of(p).ps_drop < sent) {
    readable(pcap_get_selectable_fd(p), 100);
    Packets packets;
    const int taken = pcap_dispatch(p, 64, keep, user(packets));
    CHECK(taken >= 0, "status %d, %s", taken, pcap_geterr(p));
    for (const Packet& packet : packets) {
      const std::uint32_t number = number_of(packet.bytes);
      CHECK(number > last, "frame %u after %lld", number, static_cast<long long>(last));
      check_frame(packet, {.number = number, .size = 1400});
      last = number;
    }
    delivered += static_cast<std::uint32_t>(packets.size());
  }
  const pcap_stat stats = stats_of(p);
  CHECK(stats.ps_recv == sent, "%u received of %u", stats.ps_recv, sent);
  CHECK(stats.ps_drop > 0 && delivered + stats.ps_drop == sent, "%u delivered, %u dropped, %u sent",
        delivered, stats.ps_drop, sent);
}

// Sending.

void inject() {
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  Handle other_end;
  in_namespace(link_arguments().peer, [&] { other_end = open_capture({.device = "play0"}); });
  set_direction(other_end.get(), PCAP_D_IN);
  const Sender sender = peer();
  for (std::uint32_t number = 0; number < 20; ++number) {
    sender.send(1000 + number, 1);
    const Bytes bytes = bytes_of({.number = number});
    const int size = static_cast<int>(bytes.size());
    const int status = number % 2 == 0 ? pcap_inject(p, bytes.data(), bytes.size())
                                       : pcap_sendpacket(p, bytes.data(), size);
    CHECK(status == (number % 2 == 0 ? size : 0), "status %d, %s", status, pcap_geterr(p));
  }
  check_sequence(take_until(other_end.get(), 19), 0, 19);
  check_sequence(take_until(p, 1019), 1000, 1019);  // a handle does not see what it sends itself
}

void inject_on_any() {
  const Handle handle = open_capture({.device = "any"});
  const Bytes bytes = bytes_of({});
  const int size = static_cast<int>(bytes.size());
  CHECK(pcap_inject(handle.get(), bytes.data(), bytes.size()) == PCAP_ERROR, "it was sent");
  CHECK(pcap_sendpacket(handle.get(), bytes.data(), size) == PCAP_ERROR, "it was sent");
  CHECK(std::string_view(pcap_geterr(handle.get())) ==
            "Sending packets isn't supported on the \"any\" device",
        "%s", pcap_geterr(handle.get()));
}

// Link types.

void ethernet_datalinks() {
  const Handle handle = open_capture();
  const Sender sender = peer();
  CHECK((datalinks_of(handle.get()) == std::vector<int>{DLT_EN10MB, DLT_DOCSIS}), "other types");
  for (const int type : {DLT_DOCSIS, DLT_EN10MB}) {
    set_datalink(handle.get(), type);
    sender.send(0, 10);
    check_sequence(take_until(handle.get(), 9), 0, 9);
  }
  CHECK(pcap_set_datalink(handle.get(), DLT_LINUX_SLL) == PCAP_ERROR, "a cooked device now");
  CHECK(pcap_datalink(handle.get()) == DLT_EN10MB, "%d", pcap_datalink(handle.get()));
}

struct Cooked {
  Frame frame;
  std::uint16_t packet_type;  // PACKET_HOST ...
  std::uint16_t hardware_type = ARPHRD_ETHER;
  unsigned interface_index = 0;
};

/// The frame as the cooked device delivers it.
Bytes cooked_bytes(const Cooked& cooked, int type) {
  Bytes bytes;
  Bytes address(kSomebody.begin(), kSomebody.end());
  address.resize(8);
  if (type == DLT_LINUX_SLL2) {
    append16(bytes, kEtherType);
    append16(bytes, 0);
    append32(bytes, cooked.interface_index);
    append16(bytes, cooked.hardware_type);
    bytes.push_back(static_cast<std::uint8_t>(cooked.packet_type));
    bytes.push_back(ETH_ALEN);
    bytes.insert(bytes.end(), address.begin(), address.end());
  } else {
    append16(bytes, cooked.packet_type);
    append16(bytes, cooked.hardware_type);
    append16(bytes, ETH_ALEN);
    bytes.insert(bytes.end(), address.begin(), address.end());
    for (const Tag& tag : cooked.frame.tags) {
      append16(bytes, tag.type);
      append16(bytes, tag.tci);
    }
    append16(bytes, kEtherType);
  }
  const Bytes sent = bytes_of(cooked.frame);
  const std::size_t header = ETH_HLEN + 4 * cooked.frame.tags.size();
  bytes.insert(bytes.end(), sent.begin() + static_cast<std::ptrdiff_t>(header), sent.end());
  return bytes;
}

void check_cooked(const Packet& packet, const Cooked& cooked, int type) {
  const Bytes wanted = cooked_bytes(cooked, type);
  CHECK(packet.header.len == wanted.size() && packet.header.caplen == wanted.size(),
        "len %u, caplen %u, not %zu", packet.header.len, packet.header.caplen, wanted.size());
  const auto at = std::mismatch(wanted.begin(), wanted.end(), packet.bytes.begin()).first;
  CHECK(at == wanted.end(), "frame %u, link type %d: another byte at offset %zd",
        cooked.frame.number, type, at - wanted.begin());
}

void cooked_headers() {
  const Handle handle = open_capture({.device = "any"});
  CHECK(pcap_datalink(handle.get()) == DLT_LINUX_SLL, "%d", pcap_datalink(handle.get()));
  CHECK((datalinks_of(handle.get()) == std::vector<int>{DLT_LINUX_SLL, DLT_LINUX_SLL2}),
        "other types");
  const Sender in = peer();
  const Sender out = local();
  const Sender loop("lo");
  constexpr Mac kMulticast = {0x01, 0, 0x5e, 0, 0, 1};
  const struct {
    const Sender& sender;
    Cooked cooked;
  } cases[] = {
      {in, {.frame = {.number = 0, .destination = out.mac()}, .packet_type = PACKET_HOST}},
      {in, {.frame = {.number = 1, .destination = kBroadcast}, .packet_type = PACKET_BROADCAST}},
      {in, {.frame = {.number = 2, .destination = kMulticast}, .packet_type = PACKET_MULTICAST}},
      {in, {.frame = {.number = 3}, .packet_type = PACKET_OTHERHOST}},
      {out, {.frame = {.number = 4}, .packet_type = PACKET_OUTGOING}},
      {loop,
       {.frame = {.number = 5, .destination = {}},
        .packet_type = PACKET_HOST,
        .hardware_type = ARPHRD_LOOPBACK}},
  };
  for (const int type : {DLT_LINUX_SLL, DLT_LINUX_SLL2}) {
    set_datalink(handle.get(), type);
    for (const auto& test : cases) {
      Cooked wanted = test.cooked;
      wanted.interface_index = &test.sender == &loop ? loop.index() : out.index();
      test.sender.send(wanted.frame);
      const Packets packets = take_until(handle.get(), wanted.frame.number);
      CHECK(packets.size() == 1, "%zu packets", packets.size());
      check_cooked(packets.front(), wanted, type);
    }
  }
}

void cooked_datalink_between_packets() {
  const Handle handle = open_capture({.device = "any"});
  const unsigned index = local().index();
  peer().send(0, 30);
  wait_until_received(handle.get(), 30);
  for (std::uint32_t number = 0; number < 30; ++number) {
    const int type = number / 5 % 2 == 0 ? DLT_LINUX_SLL : DLT_LINUX_SLL2;
    set_datalink(handle.get(), type);
    const Packets packets = take_count(handle.get(), 1);
    const Cooked wanted = {
        .frame = {.number = number}, .packet_type = PACKET_OTHERHOST, .interface_index = index};
    check_cooked(packets.front(), wanted, type);
  }
}

// VLAN tags, which the kernel takes out of a frame that comes in.

const std::vector<Frame> kTagged = {
    {.number = 0, .tags = {{.tci = 5}}},
    {.number = 1, .tags = {{.tci = 0}}},
    {.number = 2, .tags = {{.tci = 0xefff}}},
    {.number = 3, .tags = {{.type = 0x88a8, .tci = 100}, {.tci = 200}}},
    {.number = 4, .tags = {{.tci = 1}, {.tci = 2}, {.tci = 3}}},
    {.number = 5},
};

void vlan_tags() {
  const Handle handle = open_capture();
  const Sender in = peer();
  const Sender out = local();
  for (const Sender* sender : {&in, &out}) {
    for (const Frame& frame : kTagged) sender->send(frame);
    const Packets packets = take_count(handle.get(), kTagged.size());
    for (std::size_t i = 0; i < packets.size(); ++i) check_frame(packets[i], kTagged[i]);
  }
}

void vlan_tags_cut_off() {
  const Sender sender = peer();
  struct {
    int snaplen;
    const char* filter;  // with one, the kernel does the cutting, and before the tag is back
  } const cases[] = {{1, nullptr},  {14, nullptr}, {14, ""},      {16, ""},
                     {64, nullptr}, {64, ""},      {102, nullptr}};
  for (const auto& test : cases) {
    const Handle handle = open_capture({.snaplen = test.snaplen});
    if (test.filter != nullptr) set_filter(handle.get(), test.filter);
    for (const Frame& frame : kTagged) sender.send(frame);
    const Packets packets = take_count(handle.get(), kTagged.size());
    for (std::size_t i = 0; i < packets.size(); ++i) {
      check_frame(packets[i], kTagged[i], test.snaplen);
    }
  }
}

void vlan_tags_cooked() {
  const Handle handle = open_capture({.device = "any"});
  const Cooked wanted = {.frame = {.number = 7, .tags = {{.tci = 5}}},
                         .packet_type = PACKET_OTHERHOST};
  peer().send(wanted.frame);
  check_cooked(take_until(handle.get(), 7).front(), wanted, DLT_LINUX_SLL);
}

// What a packet's header says.

std::int64_t now_ns() {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * std::int64_t{1'000'000'000} + now.tv_nsec;
}

void time_stamps() {
  const Sender sender = peer();
  for (const bool nano : {false, true}) {
    const int precision = nano ? PCAP_TSTAMP_PRECISION_NANO : PCAP_TSTAMP_PRECISION_MICRO;
    const Handle handle = open_capture({.precision = precision});
    CHECK(pcap_get_tstamp_precision(handle.get()) == precision, "another precision");
    const std::int64_t unit_ns = nano ? 1 : 1000;
    long largest = 0;
    for (std::uint32_t number = 0; number < 50; ++number) {
      const std::int64_t before = now_ns();
      sender.send(number, 1);
      const timeval stamp = take_until(handle.get(), number).front().header.ts;
      const std::int64_t ns = stamp.tv_sec * std::int64_t{1'000'000'000} + stamp.tv_usec * unit_ns;
      CHECK(ns >= before - unit_ns && ns <= now_ns(), "%lld ns before it was sent, %lld ns ago",
            static_cast<long long>(before - ns), static_cast<long long>(now_ns() - ns));
      CHECK(stamp.tv_usec >= 0 && stamp.tv_usec * unit_ns < 1'000'000'000, "%ld",
            static_cast<long>(stamp.tv_usec));
      largest = std::max(largest, static_cast<long>(stamp.tv_usec));
    }
    // 50 stamps, 10 ms and more apart: not all of them in the first millisecond of a second
    CHECK(!nano || largest >= 1'000'000, "%ld is the largest: microseconds", largest);
  }
}

void snapshot_lengths() {
  const Sender sender = peer();
  const std::size_t sizes[] = {60, 1514, 9014, 65549};  // the MTU is 65535
  for (const int snaplen : {1, 64, 65535, kWhole}) {
    for (const char* filter : {static_cast<const char*>(nullptr), ""}) {
      const Handle handle = open_capture({.snaplen = snaplen});
      CHECK(pcap_snapshot(handle.get()) == snaplen, "%d", pcap_snapshot(handle.get()));
      if (filter != nullptr) set_filter(handle.get(), filter);
      for (const std::size_t size : sizes) sender.send({.size = size});
      const Packets packets = take_count(handle.get(), std::size(sizes));
      for (std::size_t i = 0; i < packets.size(); ++i) {
        check_frame(packets[i], {.size = sizes[i]}, snaplen);
      }
    }
  }
}

// When packets come.

double delivery_seconds(pcap_t* p, const Sender& sender) {
  sender.send(0, 1);
  const auto start = Clock::now();
  check_sequence(take_until(p, 0), 0, 0);
  return seconds_since(start);
}

void timeouts() {
  const Sender sender = peer();
  for (const int timeout_ms : {1, 100}) {
    const Handle handle = open_capture({.timeout_ms = timeout_ms});
    for (int i = 0; i < 5; ++i) {
      const double seconds = delivery_seconds(handle.get(), sender);
      CHECK(seconds < 1, "%.3f s with a time-out of %d ms", seconds, timeout_ms);
    }
  }
}

void no_timeout() {
  // Frames may then wait for as long as it pleases the ring, which can't be longer than it takes to
  // fill it.
  const Handle handle = open_capture({.timeout_ms = 0});
  const Sender sender = peer();
  std::atomic<bool> enough = false;
  std::thread traffic([&] {
    for (std::uint32_t number = 0; !enough; ++number) sender.send({.number = number, .size = 1400});
  });
  check_sequence(take_count(handle.get(), 20), 0, 19, 1, 1400);
  enough = true;
  traffic.join();
}

void immediate() {
  const Sender sender = peer();
  for (const int timeout_ms : {0, 8000}) {
    // Stock code takes TPACKET_V2 here, with a slot of the snapshot length for every packet.
    const Handle handle =
        open_capture({.snaplen = 2000, .timeout_ms = timeout_ms, .immediate = true});
    for (int i = 0; i < 20; ++i) {
      const double seconds = delivery_seconds(handle.get(), sender);
      CHECK(seconds < 1, "%.3f s with a time-out of %d ms", seconds, timeout_ms);
    }
    sender.send(1, 500);
    check_sequence(take_until(handle.get(), 500), 1, 500);
  }
}

// Several handles.

std::size_t count_mappings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) ++count;
  return count;
}

void no_leaks() {
  const Sender sender = peer();
  std::size_t descriptors = 0;
  std::size_t mappings = 0;
  for (std::uint32_t i = 0; i < 100; ++i) {
    const Handle handle = open_capture({.immediate = i % 4 == 1, .buffer_bytes = 4 << 20});
    sender.send(i, 1);
    take_until(handle.get(), i);
    if (i % 4 == 2) set_nonblock(handle.get());
    if (i == 11) {  // what is set up once has been, and as many are immediate as at the end
      descriptors = count_descriptors();
      mappings = count_mappings();
    }
    if (i == 99) {
      CHECK(count_descriptors() == descriptors, "%zu, not %zu", count_descriptors(), descriptors);
      CHECK(count_mappings() == mappings, "%zu, not %zu", count_mappings(), mappings);
    }
  }
}

void two_threads() {
  constexpr std::uint32_t kLast = 9999;
  const Handle handles[] = {open_capture({.buffer_bytes = 16 << 20}),
                            open_capture({.buffer_bytes = 16 << 20})};
  std::vector<std::thread> threads;
  for (const Handle& handle : handles) {
    threads.emplace_back([&] { check_sequence(take_until(handle.get(), kLast), 0, kLast); });
  }
  peer().send(0, kLast + 1);
  for (std::thread& thread : threads) thread.join();
}

// ---- Reading within a callback

struct Nest {
  pcap_t* handle;
  Packets packets = {};
};

void keep_and_read_on(u_char* at, const pcap_pkthdr* header, const u_char* bytes) {
  auto* nest = reinterpret_cast<Nest*>(at);
  nest->packets.emplace_back(*header, bytes);
  if (nest->packets.size() == 1) pcap_dispatch(nest->handle, -1, keep, user(nest->packets));
}

/// The callback reads the rest of its block itself; the next block is nobody's to skip.
void read_in_callback() {
  if (std::strcmp(link_arguments().library, "ours") != 0) skip("stock libpcap crashes");
  const Handle handle = open_capture();
  set_nonblock(handle.get());
  Nest nest{handle.get()};
  const Sender sender = peer();
  for (std::uint32_t first = 0; first < 60; first += 20) {
    sender.send(first, 20);
    wait_until_received(handle.get(), first + 20);
    while (nest.packets.size() < first + 20) {
      CHECK(
          pcap_dispatch(handle.get(), -1, keep_and_read_on, reinterpret_cast<u_char*>(&nest)) >= 0,
          "%s", pcap_geterr(handle.get()));
    }
  }
  check_sequence(nest.packets, 0, 59);
}

constexpr Test kTests[] = {
    {"pcap_lib_version names the library", version},
    {"pcap_open_live", open_live},
    {"pcap_create and pcap_activate", create_and_activate},
    {"pcap_dispatch with each kind of count", dispatch_counts},
    {"pcap_loop with a count", loop_count},
    {"a read within a callback", read_in_callback},
    {"pcap_next and pcap_next_ex", next_and_next_ex},
    {"pcap_next_ex: data stay valid until the next call", next_ex_stays_valid},
    {"one handle read by all functions in turn", mixed_reading},
    {"pcap_breakloop from the callback", break_from_callback},
    {"pcap_breakloop before reading", break_before_reading},
    {"pcap_breakloop from a signal handler", break_from_signal},
    {"pcap_breakloop from a thread, idle link", break_from_thread},
    {"pcap_breakloop from a thread, under traffic", break_under_traffic},
    {"pcap_breakloop from a thread, 200 times", break_200_times},
    {"pcap_setfilter before traffic, and an empty one", filter_before_traffic},
    {"pcap_setfilter after packets have arrived", filter_after_arrival},
    {"pcap_setfilter under traffic", filter_under_traffic},
    {"pcap_setfilter from the callback", filter_from_callback},
    {"pcap_setfilter too long for the kernel", filter_too_long_for_kernel},
    {"filters on VLAN tags", vlan_filters},
    {"pcap_setdirection", direction},
    {"pcap_setdirection after packets have arrived", direction_changed},
    {"pcap_setdirection on lo", direction_on_loopback},
    {"pcap_setnonblock on an idle link", nonblock},
    {"pcap_setnonblock and back", nonblock_and_back},
    {"poll and select on pcap_get_selectable_fd", wait_outside},
    {"pcap_stats", stats},
    {"pcap_stats after an overrun", stats_after_overrun},
    {"pcap_inject and pcap_sendpacket while capturing", inject},
    {"pcap_inject on any is an error", inject_on_any},
    {"link types of Ethernet", ethernet_datalinks},
    {"cooked headers", cooked_headers},
    {"pcap_set_datalink between packets", cooked_datalink_between_packets},
    {"VLAN tags are put back", vlan_tags},
    {"VLAN tags and the snapshot length", vlan_tags_cut_off},
    {"VLAN tags in cooked packets", vlan_tags_cooked},
    {"time stamps", time_stamps},
    {"snapshot lengths", snapshot_lengths},
    {"time-outs", timeouts},
    {"no time-out", no_timeout},
    {"immediate mode", immediate},
    {"100 handles leave nothing behind", no_leaks, 40},
    {"two threads with a handle each", two_threads},
};

const Registration kRegistration({.name = "api",
                                  .tests = kTests,
                                  .modes = "ours off distribution"});

}  // namespace
}  // namespace pcapv3::live
