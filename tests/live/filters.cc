// SPDX-License-Identifier: BSD-3-Clause
// Filters and directions: set before and under traffic, in the kernel and in the library.
#include <atomic>
#include <thread>
#include <vector>

#include "breaks.h"
#include "capture.h"
#include "traffic.h"

namespace pcapv3::live {
namespace {

// ---- Filters

void filter_before_traffic() {
  const Handle handle = open_capture();
  const Sender sender = remote();
  set_filter(handle.get(), kOdd);
  sender.send(0, 100);
  check_sequence(take_until(handle.get(), 99), 1, 99, 2);
  set_filter(handle.get(), "");
  sender.send(100, 100);
  check_sequence(take_until(handle.get(), 199), 100, 199);
}

void filter_after_arrival() {
  const Handle handle = open_capture();
  const Sender sender = remote();
  sender.send(0, 100);
  wait_until_received(handle.get(), 100);
  set_filter(handle.get(), kOdd);
  sender.send(100, 100);
  check_sequence(take_until(handle.get(), 199), 1, 199, 2);
}

void filter_under_traffic() {
  const Handle handle = open_capture();
  const Traffic traffic({});
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
}

void filter_from_callback() {
  const Handle handle = open_capture();
  Keeper at = {.handle = handle.get(), .then = [&](std::size_t packets) {
                 if (packets == 11) set_filter(handle.get(), kOdd);
               }};
  remote().send(0, 100);
  // 0 to 10, and then the odd ones up to 99
  while (at.packets.empty() || number_of(at.packets.back().bytes) != 99) {
    const int taken = at.dispatch();
    CHECK(taken >= 0, "status %d, %s", taken, pcap_geterr(handle.get()));
  }
  check_sequence(Packets(at.packets.begin(), at.packets.begin() + 11), 0, 10);
  check_sequence(Packets(at.packets.begin() + 11, at.packets.end()), 11, 99, 2);
}

void filter_too_long_for_kernel() {
  const Handle handle = open_capture();
  const Sender sender = remote();
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
  const Sender sender = remote();
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

/// One read that finds nothing, after which a handle is set up for good.
void first_read(pcap_t* p) {
  set_nonblock(p);
  CHECK(pcap_dispatch(p, -1, keep, nullptr) == 0, "packets on an idle link");
}

void filter_sees_whole_packets() {
  const Handle handle = open_capture({.snaplen = 96});
  first_read(handle.get());
  set_filter(handle.get(), "ether[1499] & 1 = 1");
  const Sender sender = remote();
  sender.send(0, 10, 1500);
  std::size_t expected = 0;
  for (std::uint32_t i = 0; i < 10; ++i) {
    expected += bytes_of({.number = i, .size = 1500})[1499] & 1;
  }
  CHECK(take_count(handle.get(), expected).size() == expected, "not %zu packets", expected);
}

void filters_lose_nothing() {
  constexpr std::uint32_t kLast = 49999;
  const Handle handle = open_capture();
  const Sender sender = remote();
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

// ---- Directions

void direction() {
  const Sender in = remote();
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
  const Sender in = remote();
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
  const Sender in = remote();
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

const Test kTests[] = {
    {"pcap_setfilter before traffic, and an empty one", filter_before_traffic},
    {"pcap_setfilter after packets have arrived", filter_after_arrival},
    {"pcap_setfilter under traffic", filter_under_traffic},
    {"pcap_setfilter from the callback", filter_from_callback},
    {"pcap_setfilter too long for the kernel", filter_too_long_for_kernel},
    {"filters on VLAN tags", vlan_filters},
    {"pcap_setdirection", direction},
    {"pcap_setdirection after packets have arrived", direction_changed},
    {"pcap_setdirection on lo", direction_on_loopback},
    {"lo holds each packet once", loopback_once, 20, Stock::kFails},
    {"outgoing packets stay out of the ring of an incoming capture", outgoing_not_stored, 20,
     Stock::kFails},
    {"a filter judges whole packets whatever the snapshot length", filter_sees_whole_packets, 20,
     Stock::kNone},
    {"filters replaced under traffic lose no packet", filters_lose_nothing, 30, Stock::kFails},
};
const Registration kRegistration({.name = "filters",
                                  .tests = kTests,
                                  .modes = "ours off distribution"});

}  // namespace
}  // namespace pcapv3::live
