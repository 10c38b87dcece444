// SPDX-License-Identifier: BSD-3-Clause
// Reading packets: by each function, in turn, within a callback, without blocking, waiting outside
// of the library, and when packets come.
#include <atomic>
#include <chrono>
#include <thread>

#include "breaks.h"
#include "capture.h"
#include "traffic.h"

namespace pcapv3::live {
namespace {

// ---- By each function

void dispatch_counts() {
  const Handle handle = open_capture();
  const Sender sender = remote();
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
  remote().send(0, 100);
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
  remote().send(0, 20);
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
  const Sender sender = remote();
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
  remote().send(0, 60);
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

/// The callback reads the rest of its block itself; the next block is nobody's to skip.
void read_in_callback() {
  if (!is_ours()) skip("stock libpcap crashes");
  const Handle handle = open_capture();
  set_nonblock(handle.get());
  Keeper nest = {.handle = handle.get()};
  nest.then = [&](std::size_t packets) {
    if (packets == 1) pcap_dispatch(handle.get(), -1, keep, user(nest.packets));
  };
  const Sender sender = remote();
  for (std::uint32_t first = 0; first < 60; first += 20) {
    sender.send(first, 20);
    wait_until_received(handle.get(), first + 20);
    while (nest.packets.size() < first + 20) {
      CHECK(nest.dispatch() >= 0, "%s", pcap_geterr(handle.get()));
    }
  }
  check_sequence(nest.packets, 0, 59);
}

// ---- Not blocking, and waiting outside

std::atomic<int> g_count = 0;

void count_packet(u_char*, const pcap_pkthdr*, const u_char*) { ++g_count; }

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
  const Sender sender = remote();
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
  const Sender sender = remote();
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

// ---- When packets come

double delivery_seconds(pcap_t* p, const Sender& sender) {
  sender.send(0, 1);
  const auto start = Clock::now();
  check_sequence(take_until(p, 0), 0, 0);
  return seconds_since(start);
}

void timeouts() {
  const Sender sender = remote();
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
  const Traffic traffic({.size = 1400});
  check_sequence(take_count(handle.get(), 20), 0, 19, 1, 1400);
}

void immediate() {
  const Sender sender = remote();
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

void stall_in_immediate_mode() {
  const Handle handle = open_capture({.immediate = true});
  const Sender sender = remote();
  // A block is used up for each of these, being more than a retire timeout apart: nobody reads for
  // 250 ms at 100 packets/s.
  for (std::uint32_t i = 0; i < 25; ++i) {
    sender.send(i, 1);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  check_sequence(take_until(handle.get(), 24), 0, 24);
  CHECK(stats_of(handle.get()).ps_drop == 0, "ps_drop %u", stats_of(handle.get()).ps_drop);
}

const Test kTests[] = {
    {"pcap_dispatch with each kind of count", dispatch_counts},
    {"pcap_loop with a count", loop_count},
    {"a read within a callback", read_in_callback},
    {"pcap_next and pcap_next_ex", next_and_next_ex},
    {"pcap_next_ex: data stay valid until the next call", next_ex_stays_valid},
    {"one handle read by all functions in turn", mixed_reading},
    {"pcap_setnonblock on an idle link", nonblock},
    {"pcap_setnonblock and back", nonblock_and_back},
    {"poll and select on pcap_get_selectable_fd", wait_outside},
    {"time-outs", timeouts},
    {"no time-out", no_timeout},
    {"immediate mode", immediate},
    {"a reader that stalls for 250 ms in immediate mode loses nothing", stall_in_immediate_mode, 20,
     Stock::kNone},
};
const Registration kRegistration({.name = "reading",
                                  .tests = kTests,
                                  .modes = "ours off distribution"});

}  // namespace
}  // namespace pcapv3::live
