// SPDX-License-Identifier: BSD-3-Clause
// Several ports as one handle: filters, direction, each function that reads, counts.
#include <atomic>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "capture.h"
#include "ports.h"

namespace pcapv3::live {
namespace {

// ---- Filters and direction

void filter_before_traffic() {
  const Handle handle = open_capture({.device = "see0,see1"});
  const Players players(2);
  set_filter(handle.get(), kOdd);
  players.send(0, 100);
  check_ports(take_count(handle.get(), 100), 2, 1, 50, 2);
  set_filter(handle.get(), "");
  players.send(100, 100);
  check_ports(take_count(handle.get(), 200), 2, 100, 100);
}

void filter_after_arrival() {
  const Handle handle = open_capture({.device = "see0,see1"});
  const Players players(2);
  players.send(0, 100);
  wait_until_received(handle.get(), 200);
  set_filter(handle.get(), kOdd);
  players.send(100, 100);
  check_ports(take_count(handle.get(), 200), 2, 1, 100, 2);
}

void filter_under_traffic() {
  const Handle handle = open_capture({.device = "see0,see1"});
  std::atomic<bool> enough = false;
  std::thread traffic([&] {
    const Players players(2);
    for (std::uint32_t number = 0; !enough; ++number) players.send(number, 1);
  });
  std::uint32_t last[2] = {};
  for (std::uint32_t round = 0; round < 40; ++round) {
    set_filter(handle.get(), round % 2 == 1 ? kOdd : kEven);
    for (const Packet& packet : take_count(handle.get(), 50)) {
      const std::uint32_t mark = number_of(packet.bytes);
      const std::uint32_t number = unmarked(mark);
      CHECK(number % 2 == round % 2, "frame %u after its kind was filtered out", number);
      CHECK(number + 1 > last[sender_of(mark)], "frame %u after its follower", number);
      last[sender_of(mark)] = number + 1;
      check_frame(packet, {.number = mark});
    }
  }
  enough = true;
  traffic.join();
}

void filter_too_long_for_kernel() {
  const Handle handle = open_capture({.device = "see0,see1"});
  const Players players(2);
  players.send(0, 50);
  wait_until_received(handle.get(), 100);
  set_long_filter(handle.get());
  players.send(50, 50);
  check_ports(take_count(handle.get(), 100), 2, 1, 50, 2);
  set_filter(handle.get(), kEven);  // and the kernel's filter is back
  players.send(100, 100);
  check_ports(take_count(handle.get(), 100), 2, 100, 50, 2);
}

void vlan_filter() {
  const struct {
    const char* filter;
    std::vector<std::uint32_t> wanted;
  } cases[] = {{"vlan", {1, 2}}, {"vlan 5", {1}}, {"not vlan", {0}}};
  const std::vector<Tag> tags[] = {{}, {{.tci = 5}}, {{.tci = 6}}};
  const Players players(2);
  for (const auto& test : cases) {
    // Once for the frames that were in the ring already, once for those that the kernel filters.
    const Handle handle = open_capture({.device = "see0,see1"});
    std::vector<std::uint32_t> wanted;
    for (const std::uint32_t first : {0u, 100u}) {
      for (std::uint32_t i = 0; i < 3; ++i) players.send({.number = first + i, .tags = tags[i]});
      for (const std::uint32_t i : test.wanted) {
        wanted.insert(wanted.end(), {marked(0, first + i), marked(1, first + i)});
      }
      if (first == 0) wait_until_received(handle.get(), 6);
      if (first == 0) set_filter(handle.get(), test.filter);
    }
    std::vector<std::uint32_t> came;
    for (const Packet& packet : take_count(handle.get(), wanted.size())) {
      const std::uint32_t number = number_of(packet.bytes);
      check_frame(packet, {.number = number, .tags = tags[unmarked(number) % 100]});
      came.push_back(number);
    }
    CHECK(came == wanted, "%s: others", test.filter);
  }
}

void direction() {
  const Players players(2);
  const Sender out[] = {Sender("see0"), Sender("see1")};
  const struct {
    pcap_direction_t direction;
    std::vector<std::uint32_t> wanted;
  } cases[] = {{PCAP_D_IN, {1}}, {PCAP_D_OUT, {0, 2}}, {PCAP_D_INOUT, {0, 1, 2}}};
  const Handle watch = open_capture({.device = "see0,see1"});
  for (const int type : {DLT_EN10MB, DLT_LINUX_SLL2}) {
    for (const auto& test : cases) {
      const Handle handle = open_capture({.device = "see0,see1"});
      set_direction(handle.get(), test.direction);
      set_datalink(handle.get(), type);  // must not undo it
      // One handle has seen what came in: what went out before, and comes in later, is not mixed.
      for (const unsigned port : {0u, 1u}) out[port].send(marked(port, 0), 1);
      players.send(1, 1);
      take_count(watch.get(), 4);
      for (const unsigned port : {0u, 1u}) out[port].send(marked(port, 2), 1);
      take_count(watch.get(), 2);
      std::vector<std::uint32_t> wanted;
      for (const std::uint32_t i : test.wanted) {
        wanted.insert(wanted.end(), {marked(0, i), marked(1, i)});
      }
      std::vector<std::uint32_t> came;
      for (const Packet& packet : take_count(handle.get(), wanted.size())) {
        came.push_back(number_of(packet.bytes));
      }
      CHECK(came == wanted, "direction %d, link type %d: others", test.direction, type);
    }
  }
}

// ---- Reading

void dispatch_counts() {
  const Handle handle = open_capture({.device = "see0,see1"});
  const Players players(2);
  for (const int count : {1, 7, 0, -1}) {
    players.send(0, 100);
    Packets packets;
    while (packets.size() < 200) {
      const std::size_t before = packets.size();
      const int taken = pcap_dispatch(handle.get(), count, keep, user(packets));
      CHECK(taken >= 0 && static_cast<std::size_t>(taken) == packets.size() - before,
            "status %d, %zu callbacks", taken, packets.size() - before);
      CHECK(count <= 0 || taken <= count, "%d packets, but at most %d are wanted", taken, count);
    }
    check_ports(packets, 2, 0, 100);
  }
}

void mixed_reading() {
  const Handle handle = open_capture({.device = "see0,see1"});
  pcap_t* p = handle.get();
  const Players players(2);
  players.send(0, 60);
  Packets packets;
  while (packets.size() < 120) {
    pcap_pkthdr* header = nullptr;
    pcap_pkthdr copy;
    const u_char* data = nullptr;
    if (pcap_next_ex(p, &header, &data) == 1) packets.emplace_back(*header, data);
    if (packets.size() < 120) {
      CHECK(pcap_dispatch(p, 2, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
    }
    if (packets.size() < 120 && (data = pcap_next(p, &copy)) != nullptr) {
      packets.emplace_back(copy, data);
    }
    if (packets.size() < 117) {
      CHECK(pcap_loop(p, 3, keep, user(packets)) == 0, "%s", pcap_geterr(p));
    }
  }
  check_ports(packets, 2, 0, 60);
}

void next_ex_stays_valid() {
  // Whatever the rings go through until the next call. The first frame is alone in its block.
  const Handle handle = open_capture({.device = "see0,see1", .buffer_bytes = 1 << 19});
  pcap_t* p = handle.get();
  const Players players(2);
  players.send(0, 1);
  for (const std::uint32_t wanted : {marked(0, 0), marked(1, 0)}) {
    pcap_pkthdr* header = nullptr;
    const u_char* data = nullptr;
    int status = 0;
    while (status == 0) status = pcap_next_ex(p, &header, &data);
    CHECK(status == 1, "status %d, %s", status, pcap_geterr(p));
    for (const unsigned port : {0u, 1u}) overrun(p, players[port], marked(port, 1));
    check_frame(Packet(*header, data), {.number = wanted});
  }
}

void stats_add_up() {
  const Handle handle = open_capture({.device = "see0,see1,see2", .buffer_bytes = 1 << 19});
  pcap_t* p = handle.get();
  const Players players(3);
  CHECK(stats_of(p).ps_recv == 0, "packets on idle links");
  for (unsigned round = 1; round <= 3; ++round) {
    for (unsigned port = 0; port < 3; ++port) players[port].send(0, 10 * (port + 1));
    take_count(p, 60);
    CHECK(stats_of(p).ps_recv == 60 * round, "%u", stats_of(p).ps_recv);
    CHECK(stats_of(p).ps_drop == 0, "%u dropped", stats_of(p).ps_drop);
  }
  // And when two of the rings overflow.
  std::uint32_t sent = 180;
  for (const unsigned port : {0u, 2u}) sent += overrun(p, players[port], 0);
  std::uint32_t delivered = 180;
  set_nonblock(p);
  while (delivered + stats_of(p).ps_drop < sent) {
    readable(pcap_get_selectable_fd(p), 100);
    Packets packets;
    CHECK(pcap_dispatch(p, -1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
    delivered += static_cast<std::uint32_t>(packets.size());
  }
  const pcap_stat stats = stats_of(p);
  CHECK(stats.ps_recv == sent && stats.ps_drop > 0 && delivered + stats.ps_drop == sent,
        "%u received, %u dropped, %u delivered, %u sent", stats.ps_recv, stats.ps_drop, delivered,
        sent);
}

void inject() {
  const Handle handle = open_capture({.device = "see0,see1"});
  const Bytes bytes = bytes_of({});
  const int size = static_cast<int>(bytes.size());
  for (const bool inject : {true, false}) {
    const int status = inject ? pcap_inject(handle.get(), bytes.data(), bytes.size())
                              : pcap_sendpacket(handle.get(), bytes.data(), size);
    CHECK(status == PCAP_ERROR, "status %d", status);
    const std::string_view text = pcap_geterr(handle.get());
    CHECK(text.find("several ports") != text.npos && text.find("see0,see1") != text.npos, "%s",
          pcap_geterr(handle.get()));
  }
}

const Test kTests[] = {
    {"a filter set before the traffic", filter_before_traffic},
    {"a filter set after the traffic", filter_after_arrival},
    {"filters replaced under traffic", filter_under_traffic},
    {"a filter too long for the kernel", filter_too_long_for_kernel},
    {"VLAN filters", vlan_filter},
    {"direction", direction},
    {"pcap_dispatch's counts", dispatch_counts},
    {"all ways of reading, mixed", mixed_reading},
    {"pcap_next_ex's packet is valid until the next call", next_ex_stays_valid},
    {"pcap_stats adds up", stats_add_up},
    {"injecting is refused, with the reason", inject},
};
const Registration kRegistration(
    {.name = "ports_reading", .tests = kTests, .links = 3, .settings = "PCAPV3_WINDOW=2000"});

}  // namespace
}  // namespace pcapv3::live
