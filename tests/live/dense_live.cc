// What our handles do better than stock ones: nothing stored in vain, nothing lost when filters
// change, when the reader stalls or when the capture ends. Run as ours only; for each of the first
// kind dense.test shows that stock fails it.
#include <sys/syscall.h>

#include <atomic>
#include <chrono>
#include <string_view>

#include "capture.h"
#include "interposed.h"

namespace pcapv3::live {
namespace {

/// Sends what see0 receives.
Sender peer() { return Sender("play0", link_arguments().peer); }

void set_direction(pcap_t* p, pcap_direction_t direction) {
  CHECK(pcap_setdirection(p, direction) == 0, "%s", pcap_geterr(p));
}

/// One read that finds nothing, after which a handle is set up for good.
void first_read(pcap_t* p) {
  set_nonblock(p);
  CHECK(pcap_dispatch(p, -1, keep, nullptr) == 0, "packets on an idle link");
}

// ---- Nothing stored in vain

void loopback_once() {
  const Handle handle = open_capture({.device = "lo"});
  const Sender sender("lo");
  sender.send(0, 100);
  check_sequence(take_until(handle.get(), 99), 0, 99);
  const pcap_stat stats = stats_of(handle.get());
  CHECK(stats.ps_recv == 100, "ps_recv %u for 100 packets", stats.ps_recv);
}

void outgoing_not_stored() {
  const Handle handle = open_capture();
  set_direction(handle.get(), PCAP_D_IN);
  const Sender in = peer();
  const Sender out("see0");
  for (std::uint32_t i = 0; i < 50; ++i) {
    out.send(1000 + i, 1);
    in.send(i, 1);
  }
  check_sequence(take_until(handle.get(), 49), 0, 49);
  const pcap_stat stats = stats_of(handle.get());
  CHECK(stats.ps_recv == 50, "ps_recv %u for 50 incoming packets", stats.ps_recv);
  set_direction(handle.get(), PCAP_D_INOUT);
  out.send(2000, 1);
  check_sequence(take_until(handle.get(), 2000), 2000, 2000);
}

constexpr std::uint32_t kFrames = 6000;  // of 1500 bytes: three times the ring

/// Frames fit into a ring of 3 MiB if they are cut at the snapshot length.
void check_cut(pcap_t* p, int snaplen) {
  peer().send(0, kFrames, 1500);
  set_nonblock(p);
  const Packets packets = take_until(p, kFrames - 1);
  CHECK(packets.size() == kFrames, "%zu of %u packets", packets.size(), kFrames);
  for (const Packet& packet : packets) {
    const std::uint32_t number = number_of(packet.bytes);
    check_frame(packet, {.number = number, .size = 1500}, snaplen);
  }
  CHECK(stats_of(p).ps_drop == 0, "ps_drop %u", stats_of(p).ps_drop);
}

void cut_in_kernel() {
  const Handle handle = open_capture({.snaplen = 96, .buffer_bytes = 3 << 20});
  first_read(handle.get());
  check_cut(handle.get(), 96);
}

void cut_after_filter() {
  const Handle handle = open_capture({.snaplen = 96, .buffer_bytes = 3 << 20});
  first_read(handle.get());
  set_filter(handle.get(), "ether proto 0x88b5");
  check_cut(handle.get(), 96);
}

void filter_sees_whole_packets() {
  const Handle handle = open_capture({.snaplen = 96});
  first_read(handle.get());
  set_filter(handle.get(), "ether[1499] & 1 = 1");
  const Sender sender = peer();
  sender.send(0, 10, 1500);
  std::size_t expected = 0;
  for (std::uint32_t i = 0; i < 10; ++i) {
    expected += bytes_of({.number = i, .size = 1500})[1499] & 1;
  }
  CHECK(take_count(handle.get(), expected).size() == expected, "not %zu packets", expected);
}

void tiny_snapshot_lengths() {
  for (const int snaplen : {1, 11, 14, 20}) {
    const Handle handle = open_capture({.snaplen = snaplen});
    pcap_t* p = handle.get();
    first_read(p);
    peer().send({.number = 1, .size = 200, .tags = {{.tci = 5}}});
    pollfd ready = {.fd = pcap_get_selectable_fd(p), .events = POLLIN, .revents = 0};
    CHECK(poll(&ready, 1, 5000) == 1, "no packet");
    const Packets packets = take_count(p, 1);
    const Bytes sent = bytes_of({.number = 1, .size = 200, .tags = {{.tci = 5}}});
    CHECK(packets[0].header.len == sent.size(), "len %u", packets[0].header.len);
    CHECK(packets[0].header.caplen == static_cast<unsigned>(snaplen), "caplen %u",
          packets[0].header.caplen);
    CHECK(std::equal(packets[0].bytes.begin(), packets[0].bytes.end(), sent.begin()),
          "other bytes at snapshot length %d", snaplen);
  }
}

void unmapped_once() {
  Handle handle = open_capture();
  interposed::large_unmaps = 0;
  handle.reset();
  CHECK(interposed::large_unmaps == 1, "%d times", interposed::large_unmaps.load());
}

// ---- Nothing lost on the way

void filters_lose_nothing() {
  constexpr std::uint32_t kLast = 49999;
  const Handle handle = open_capture();
  const Sender sender = peer();
  std::thread traffic([&] { sender.send(0, kLast + 1); });
  Packets packets;
  for (unsigned i = 0; packets.empty() || number_of(packets.back().bytes) != kLast; ++i) {
    set_filter(handle.get(), i % 2 == 0 ? "ether proto 0x88b5" : "len > 20");
    const int taken = pcap_dispatch(handle.get(), 50, keep, user(packets));
    CHECK(taken >= 0, "%s", pcap_geterr(handle.get()));
  }
  traffic.join();
  check_sequence(packets, 0, kLast);
}

void sixteen_handles() {
  std::vector<Handle> handles;
  for (int i = 0; i < 16; ++i) handles.push_back(open_capture());
  peer().send(0, 1000);
  for (const Handle& handle : handles) check_sequence(take_until(handle.get(), 999), 0, 999);
}

void stall_in_immediate_mode() {
  const Handle handle = open_capture({.immediate = true});
  const Sender sender = peer();
  // A block is used up for each of these, being more than a retire timeout apart: nobody reads for
  // 250 ms at 100 packets/s.
  for (std::uint32_t i = 0; i < 25; ++i) {
    sender.send(i, 1);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  check_sequence(take_until(handle.get(), 24), 0, 24);
  CHECK(stats_of(handle.get()).ps_drop == 0, "ps_drop %u", stats_of(handle.get()).ps_drop);
}

// ---- Nothing lost at the end

pcap_t* g_to_break = nullptr;
void break_on_signal(int) { pcap_breakloop(g_to_break); }

void break_by_signal(pcap_t* p) {
  g_to_break = p;
  struct sigaction action = {};
  action.sa_handler = break_on_signal;
  sigaction(SIGUSR1, &action, nullptr);
}

/// Keeps packets, and does something at the one with a number.
struct Act {
  Packets packets;
  std::uint32_t at;
  void (*act)();
};

void act_at(u_char* pointer, const pcap_pkthdr* header, const u_char* data) {
  auto* act = reinterpret_cast<Act*>(pointer);
  act->packets.emplace_back(*header, data);
  if (number_of(act->packets.back().bytes) == act->at) act->act();
}

void check_books(pcap_t* p, const Packets& packets) {
  const pcap_stat stats = stats_of(p);
  CHECK(stats.ps_recv == packets.size() + stats.ps_drop, "ps_recv %u, ps_drop %u, %zu packets",
        stats.ps_recv, stats.ps_drop, packets.size());
}

void loop_until_break(pcap_t* p, Act& act) {
  const int status = pcap_loop(p, -1, act_at, reinterpret_cast<u_char*>(&act));
  CHECK(status == PCAP_ERROR_BREAK, "status %d, %s", status, pcap_geterr(p));
}

void signal_in_callback() {
  const Handle handle = open_capture({.timeout_ms = 1000});
  break_by_signal(handle.get());
  peer().send(0, 300);
  Act act{.packets = {}, .at = 10, .act = [] { raise(SIGUSR1); }};
  loop_until_break(handle.get(), act);
  check_sequence(act.packets, 0, 299);
  check_books(handle.get(), act.packets);
}

void two_signals_in_callback() {
  const Handle handle = open_capture();
  break_by_signal(handle.get());
  peer().send(0, 300);
  Act act{.packets = {}, .at = 10, .act = [] {
            raise(SIGUSR1);
            raise(SIGUSR1);
          }};
  loop_until_break(handle.get(), act);
  check_sequence(act.packets, 0, 10);
  check_sequence(take_until(handle.get(), 299), 11, 299);
}

void second_break_in_drain() {
  const Handle handle = open_capture();
  break_by_signal(handle.get());
  peer().send(0, 300);
  Act act{.packets = {}, .at = 10, .act = [] { raise(SIGUSR1); }};
  // The drain delivers the packets after the 10th; at the 20th, the callback itself has enough.
  static std::uint32_t stop_at;
  stop_at = 20;
  const auto callback = [](u_char* pointer, const pcap_pkthdr* header, const u_char* data) {
    act_at(pointer, header, data);
    const auto* a = reinterpret_cast<Act*>(pointer);
    if (number_of(a->packets.back().bytes) == stop_at) pcap_breakloop(g_to_break);
  };
  const int status = pcap_loop(handle.get(), -1, callback, reinterpret_cast<u_char*>(&act));
  CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
  check_sequence(act.packets, 0, 20);
  check_sequence(take_until(handle.get(), 299), 21, 299);
}

void signal_in_wait() {
  const Handle handle = open_capture({.timeout_ms = 10000});
  break_by_signal(handle.get());
  const Sender sender = peer();
  const pid_t reader = getpid();
  std::thread other([&] {
    wait_until_asleep(reader);
    sender.send(0, 5);
    syscall(SYS_tgkill, reader, reader, SIGUSR1);
  });
  Act act{.packets = {}, .at = ~0u, .act = [] {}};
  loop_until_break(handle.get(), act);
  other.join();
  check_sequence(act.packets, 0, 4);
  check_books(handle.get(), act.packets);
}

void signal_in_loop() {
  const Handle handle = open_capture();
  break_by_signal(handle.get());
  const Sender sender = peer();
  const pid_t reader = getpid();
  std::atomic<std::uint32_t> sent = 0;
  std::uint32_t sent_by_then = 0;
  std::atomic<bool> done = false;
  std::thread traffic([&] {
    while (!done) sender.send(sent, 1), ++sent;
  });
  std::thread other([&] {
    while (sent < 20000) std::this_thread::yield();
    sent_by_then = sent;
    syscall(SYS_tgkill, reader, reader, SIGUSR1);
  });
  Act act{.packets = {}, .at = ~0u, .act = [] {}};
  loop_until_break(handle.get(), act);
  done = true;
  other.join();
  traffic.join();
  CHECK(act.packets.size() >= sent_by_then, "%zu packets, %u had been sent", act.packets.size(),
        sent_by_then);
  check_sequence(act.packets, 0, static_cast<std::uint32_t>(act.packets.size()) - 1);
  check_books(handle.get(), act.packets);
}

void signal_and_on() {
  const Handle handle = open_capture({.timeout_ms = 10000});
  break_by_signal(handle.get());
  const Sender sender = peer();
  const pid_t reader = getpid();
  std::thread other([&] {
    wait_until_asleep(reader);
    sender.send(0, 5);
    syscall(SYS_tgkill, reader, reader, SIGUSR1);
  });
  Act act{.packets = {}, .at = ~0u, .act = [] {}};
  loop_until_break(handle.get(), act);
  other.join();
  check_sequence(act.packets, 0, 4);
  // The books stay closed until the next read, which misses nothing that came in between.
  sender.send(5, 5);
  check_books(handle.get(), act.packets);
  check_sequence(take_until(handle.get(), 9), 5, 9);
  const pcap_stat stats = stats_of(handle.get());
  CHECK(stats.ps_recv == 10, "ps_recv %u", stats.ps_recv);
}

void one_at_a_time() {
  const Handle handle = open_capture({.timeout_ms = 10000});
  break_by_signal(handle.get());
  const Sender sender = peer();
  const pid_t reader = getpid();
  std::thread other([&] {
    wait_until_asleep(reader);
    sender.send(0, 5);
    syscall(SYS_tgkill, reader, reader, SIGUSR1);
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

void callback_break_stays_prompt() {
  const Handle handle = open_capture();
  g_to_break = handle.get();
  peer().send(0, 300);
  Act act{.packets = {}, .at = 10, .act = [] { pcap_breakloop(g_to_break); }};
  loop_until_break(handle.get(), act);
  check_sequence(act.packets, 0, 10);
  check_sequence(take_until(handle.get(), 299), 11, 299);
}

constexpr Test kTests[] = {
    {"lo holds each packet once", loopback_once, 20, Stock::kFails},
    {"outgoing packets stay out of the ring of an incoming capture", outgoing_not_stored, 20,
     Stock::kFails},
    {"packets are cut at the snapshot length in the kernel", cut_in_kernel, 20, Stock::kFails},
    {"the same after a filter was set", cut_after_filter, 20, Stock::kNone},
    {"a filter judges whole packets whatever the snapshot length", filter_sees_whole_packets, 20,
     Stock::kNone},
    {"tiny snapshot lengths with a VLAN tag", tiny_snapshot_lengths, 20, Stock::kNone},
    {"a ring is unmapped once", unmapped_once, 20, Stock::kNone},
    {"filters replaced under traffic lose no packet", filters_lose_nothing, 30, Stock::kFails},
    {"sixteen handles at once all get every packet", sixteen_handles, 30, Stock::kNone},
    {"a reader that stalls for 250 ms in immediate mode loses nothing", stall_in_immediate_mode, 20,
     Stock::kNone},
    {"a signal during the callback drains", signal_in_callback, 20, Stock::kFails},
    {"a second signal ends at once", two_signals_in_callback, 20, Stock::kNone},
    {"a break in the callback ends a drain", second_break_in_drain, 20, Stock::kNone},
    {"a signal during the wait drains", signal_in_wait, 20, Stock::kFails},
    {"a signal under traffic drains all that had come", signal_in_loop, 20, Stock::kNone},
    {"a drain, and the next read goes on", signal_and_on, 20, Stock::kFails},
    {"pcap_next_ex drains packet by packet", one_at_a_time, 20, Stock::kFails},
    {"a break in the callback is prompt", callback_break_stays_prompt, 20, Stock::kNone},
};

const Registration kRegistration({.name = "dense", .tests = kTests, .modes = "ours off"});

}  // namespace
}  // namespace pcapv3::live
