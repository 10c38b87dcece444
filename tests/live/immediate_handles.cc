// SPDX-License-Identifier: BSD-3-Clause
// Immediate mode: several ports, blocks, settings that give one ring, other groups on the
// interface, several handles, forked children.
#include <linux/if_packet.h>
#include <net/if.h>
#include <pcap/linux-v3.h>
#include <sys/wait.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "blocks.h"
#include "immediate.h"
#include "switching.h"

namespace pcapv3::live {
namespace {

// ---- A port that comes back

/// One of two ports goes and comes back.
void port_comes_back() {
  constexpr char kPorts[] = "see2,see3";
  if (is_off()) skip("stock has no such handle");
  if (if_nametoindex("see3") == 0) make_port(3);
  Record debug("PCAPV3_DEBUG");
  Packets packets;
  {
    const Handle handle = open_capture({.device = kPorts, .immediate = true});
    pcap_t* p = handle.get();
    set_nonblock(p);
    const auto read_until = [&](const auto& done) {
      while (!done()) {
        readable(pcap_get_selectable_fd(p), 20);
        dispatch(p, -1, packets);
      }
    };
    const auto told = [&](const char* text) {
      return debug.text().find(std::string("see3: the interface is ") + text) != std::string::npos;
    };
    const auto send = [&](std::uint32_t first) {
      const Players players(2, 2);
      for (std::uint32_t i = first; i < first + 20; ++i) {  // quiet
        const std::size_t count = packets.size() + 2;
        players.send(i, 1);
        read_until([&] { return packets.size() == count; });
      }
      players.send(first + 20, kFlood);
    };
    send(0);
    ip("link delete see3");  // with much unread
    read_until([&] { return told("gone"); });
    read_until([&] { return packets.size() == 2 * (kFlood + 20); });
    make_port(3);
    read_until([&] { return told("back"); });
    send(kFlood + 20);
    read_until([&] { return packets.size() == 4 * (kFlood + 20); });
    const pcap_stat counts = stats_of(p);
    CHECK(counts.ps_recv == packets.size() && counts.ps_drop == 0, "%u received, %u dropped",
          counts.ps_recv, counts.ps_drop);
  }
  for (Packet& packet : packets) {  // as if of ports 0 and 1
    const std::uint32_t number = number_of(packet.bytes);
    for (std::size_t i = 0; i < 4; ++i) {
      packet.bytes[18 + i] = static_cast<std::uint8_t>((number - marked(2, 0)) >> (24 - 8 * i));
    }
  }
  check_numbers(packets, 2, 0, 2 * (kFlood + 20));
}

// ---- Blocks

/// Takes blocks until the frame `last` has come. Packets that came as frames have to be read
/// before.
void take_until_by_blocks(pcap_t* p, std::uint32_t last, bool has_frames, Packets& packets) {
  while (packets.empty() || number_of(packets.back().bytes) != last) {
    const int status = take_and_walk(p, 5000, packets);
    if (status == 1) continue;
    const std::string_view text = pcap_geterr(p);
    CHECK(has_frames && status == PCAP_ERROR && text.find("were read") != text.npos,
          "status %d after %zu packets, %s", status, packets.size(), pcap_geterr(p));
    dispatch(p, -1, packets);
  }
}

/// A program that takes blocks after having read `before` packets, with `unread` to be read.
void blocks(std::uint32_t before, std::uint32_t unread) {
  if (is_off()) skip("stock has no blocks");
  Capture capture;
  const Sender sender = remote();
  if (before != 0) trickle(capture, sender, 0, before);
  if (unread != 0) sender.send(before, unread);
  Packets packets;
  const std::uint32_t end = before + unread;
  if (unread != 0) take_until_by_blocks(capture, end - 1, true, packets);
  pcap_v3_block_t* block = nullptr;
  const int status = pcap_v3_next_block(capture, 0, &block);
  CHECK(status == 0, "status %d, %s", status, pcap_geterr(capture));
  for (std::uint32_t i = end; i < end + 20; ++i) {
    sender.send({.number = i});
    take_until_by_blocks(capture, i, false, packets);
  }
  sender.send(end + 20, kFlood);
  take_until_by_blocks(capture, end + 20 + kFlood - 1, false, packets);
  check_sequence(packets, before, end + 20 + kFlood - 1);
  const pcap_stat stats = stats_of(capture);
  CHECK(stats.ps_recv == end + 20 + kFlood && stats.ps_drop == 0, "%u received, %u dropped",
        stats.ps_recv, stats.ps_drop);
  capture.close(before, before + std::min(unread, 100u));
}

// ---- Settings, and others on the same interface

/// A handle that has one ring although immediate mode was asked for.
void one_ring(const char* variable, const char* value, const char* mode = "adaptive") {
  if (is_off()) skip("stock has no settings");
  const Setting immediate("PCAPV3_IMMEDIATE", mode);
  const Setting other(variable, value);
  Record stats("PCAPV3_STATS");
  {
    const Handle handle = open_capture({.snaplen = 2000, .immediate = true});
    const Sender sender = remote();
    trickle(handle.get(), sender, 0, 20);
    sender.send(20, 200);
    check_sequence(take_until(handle.get(), 219), 20, 219);
  }
  CHECK(stats.text().find("frames") == std::string::npos, "%s", stats.text().c_str());
}

void not_immediate() {
  Record stats("PCAPV3_STATS");
  {
    const Handle handle = open_capture();
    trickle(handle.get(), remote(), 0, 5);
  }
  CHECK(stats.text().find("frames") == std::string::npos, "%s", stats.text().c_str());
}

void unknown_value() {
  if (is_off()) skip("stock has no settings");
  const Setting bad("PCAPV3_IMMEDIATE", "sometimes");
  const Handle handle = create({.immediate = true});
  const int status = pcap_activate(handle.get());
  const std::string text = pcap_geterr(handle.get());
  CHECK(status == PCAP_ERROR, "status %d", status);
  for (const char* part : {"PCAPV3_IMMEDIATE", "sometimes", "adaptive", "v3", "v2"}) {
    CHECK(text.find(part) != text.npos, "%s", text.c_str());
  }
}

/// Groups of other programs have the numbers that these like, before and after.
void strangers() {
  const auto join = [](int group) {
    const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETH_P_ALL));
    sockaddr_ll address = {};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(if_nametoindex("see0"));
    const int mode = PACKET_FANOUT_HASH << 16 | group;
    CHECK(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
              setsockopt(fd, SOL_PACKET, PACKET_FANOUT, &mode, sizeof(mode)) == 0,
          "group %d: %s", group, std::strerror(errno));
    return fd;
  };
  const Sender sender = remote();
  for (const bool before : {false, true}) {
    std::vector<int> groups;
    if (before) groups = {join(0), join(1), join(7)};
    Capture capture;
    if (!before) groups = {join(0), join(1), join(7)};
    trickle(capture, sender, 0, 20);
    sender.send(0, kFlood);
    check_sequence(take_until(capture, kFlood - 1), 0, kFlood - 1);
    for (const int fd : groups) {
      int packets = 0;
      for (char byte; recv(fd, &byte, 1, 0) > 0;) ++packets;
      CHECK(packets >= 20, "%d packets came to another's group", packets);
      close(fd);
    }
    capture.close(20, kFlood / 2);
  }
}

void thirty_handles() {
  std::vector<Handle> handles;
  for (int i = 0; i < 30; ++i) {
    handles.push_back(open_capture({.snaplen = 2000, .immediate = true, .buffer_bytes = 4 << 20}));
  }
  const Sender sender = remote();
  for (std::uint32_t i = 0; i < 20; ++i) {
    sender.send({.number = i});
    for (const Handle& handle : handles) check_sequence(take_until(handle.get(), i), i, i);
  }
  sender.send(0, 1000);
  for (const Handle& handle : handles) {
    check_sequence(take_until(handle.get(), 999), 0, 999);
    const pcap_stat stats = stats_of(handle.get());
    CHECK(stats.ps_recv == 1020 && stats.ps_drop == 0, "%u received, %u dropped", stats.ps_recv,
          stats.ps_drop);
  }
}

void two_threads() {
  Seen seen[2];
  const Options options = {.snaplen = 2000,
                           .immediate = true,
                           .buffer_bytes = 64 << 20,
                           .precision = PCAP_TSTAMP_PRECISION_NANO};
  const Handle handles[2] = {open_capture(options), open_capture(options)};
  std::vector<std::thread> threads;
  for (const int i : {0, 1}) {
    threads.emplace_back([&, i] {
      while (!seen[i].ended()) {
        CHECK(pcap_dispatch(handles[i].get(), -1, Seen::callback,
                            reinterpret_cast<u_char*>(&seen[i])) >= 0,
              "%s", pcap_geterr(handles[i].get()));
      }
    });
  }
  { const Load load({.seconds = 0.7}, seen[0]); }
  for (std::thread& thread : threads) thread.join();
  CHECK(seen[0].count() == seen[1].count(), "%u and %u", seen[0].count(), seen[1].count());
}

/// A child closes its copy of the handle, before the first read or later; the parent goes on.
void forked() {
  for (const std::uint32_t before : {0u, 20u}) {
    Capture capture;
    const Sender sender = remote();
    trickle(capture, sender, 0, before);
    sender.send(before, 5);
    const pid_t child = fork();
    if (child == 0) {
      pcap_close(capture);
      _exit(EXIT_SUCCESS);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0, "the child's status is %d", status);
    check_sequence(take_until(capture, before + 4), before, before + 4);
    trickle(capture, sender, 0, 50);
    sender.send(0, kFlood);
    check_sequence(take_until(capture, kFlood - 1), 0, kFlood - 1);
    CHECK(stats_of(capture).ps_drop == 0, "%u dropped", stats_of(capture).ps_drop);
  }
}

const Test kTests[] = {
    {"a port of two goes and comes back", port_comes_back},
    {"blocks, as the first thing", [] { blocks(0, 0); }},
    {"blocks, after reads", [] { blocks(20, 0); }},
    {"blocks, with packets in the frame ring", [] { blocks(20, 5); }},
    {"blocks, with packets in both rings", [] { blocks(20, 500); }},
    {"with PCAPV3_FANOUT there is one ring", [] { one_ring("PCAPV3_FANOUT", "5"); }},
    {"PCAPV3_IMMEDIATE=v3 has one ring", [] { one_ring("PCAPV3_RETIRE", nullptr, "v3"); }},
    {"PCAPV3_IMMEDIATE=v2 has one ring", [] { one_ring("PCAPV3_RETIRE", nullptr, "v2"); }},
    {"a handle that is not in immediate mode has one ring", not_immediate},
    {"other values are refused", unknown_value},
    {"strangers' groups are left alone", strangers},
    {"thirty handles all get every packet", thirty_handles},
    {"two handles in two threads", two_threads},
    {"a child closes its copy of the handle", forked},
};
const Registration kRegistration({.name = "immediate_handles", .tests = kTests, .links = 4});

}  // namespace
}  // namespace pcapv3::live
