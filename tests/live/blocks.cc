// SPDX-License-Identifier: BSD-3-Clause
// Blocks taken by a program (pcap/linux-v3.h): what is in them, compared with what a callback of
// another handle gets; blocks of several ports, blocks and packets in turn, and handles that have
// none.
#include "blocks.h"

#include <net/if.h>
#include <pcap/linux-v3.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "ports.h"

namespace pcapv3::live {
namespace {

// ---- What is in a block

/// What a test of fidelity does to both handles, and to the link.
struct Likeness {
  Options options;
  void (*prepare)(pcap_t*) = [](pcap_t*) {};
  std::size_t packets = 60;  // of those sent
};

void check_likeness(const Likeness& likeness) {
  for (const auto how : {walk, walk_all}) {
    const Handle reference = open_capture(likeness.options);
    const Handle handle = open_capture(likeness.options);
    likeness.prepare(reference.get());
    likeness.prepare(handle.get());
    send_variety();
    const Packets wanted = take_count(reference.get(), likeness.packets);
    const Packets got = take_packets(handle.get(), likeness.packets, how);
    check_alike(got, wanted);
    const bool finer = std::any_of(got.begin(), got.end(), [](const Packet& packet) {
      return packet.header.ts.tv_usec >= 1'000'000;
    });
    const bool nano = likeness.options.precision == PCAP_TSTAMP_PRECISION_NANO;
    CHECK(finer == nano, "stamps in %s", finer ? "nanoseconds" : "microseconds");
    take_packets(handle.get(), 0);
  }
}

void like_callbacks() { check_likeness({}); }

void like_callbacks_nanoseconds() {
  check_likeness({.options = {.precision = PCAP_TSTAMP_PRECISION_NANO}});
}

void like_callbacks_cut() { check_likeness({.options = {.snaplen = 70}}); }

void like_callbacks_one_way() {
  check_likeness(
      {.options = {}, .prepare = [](pcap_t* p) { set_direction(p, PCAP_D_OUT); }, .packets = 20});
}

void like_callbacks_filtered() {
  check_likeness({.options = {}, .prepare = set_long_filter, .packets = 30});
  check_likeness(
      {.options = {}, .prepare = [](pcap_t* p) { set_filter(p, "vlan 5"); }, .packets = 20});
}

void like_callbacks_cooked() {
  check_likeness({.options = {.device = "any"}});
  check_likeness({.options = {.device = "any"},
                  .prepare = [](pcap_t* p) { set_datalink(p, DLT_LINUX_SLL2); }});
}

void info_of_blocks() {
  const Handle handle = open_capture({.precision = PCAP_TSTAMP_PRECISION_NANO});
  const Sender sender = remote();
  for (std::uint64_t sequence = 1; sequence <= 5; ++sequence) {
    sender.send(0, 10);
    Packets packets;
    std::uint64_t number = 0;
    while (packets.size() < 10) {
      const Block block = take(handle.get());
      const pcap_v3_info& i = info(block);
      CHECK(number == 0 || i.sequence == number + 1, "a gap before block %u",
            static_cast<unsigned>(i.sequence));
      CHECK(sequence > 1 || number != 0 || i.sequence == 1, "the first is not number 1");
      number = i.sequence;
      const std::size_t before = packets.size();
      walk(block.get(), packets);
      CHECK(i.packets == packets.size() - before, "%u, not %zu", i.packets,
            packets.size() - before);
      const timeval& first = packets[before].header.ts;
      const timeval& last = packets.back().header.ts;
      CHECK(i.first.tv_sec == first.tv_sec && i.first.tv_nsec == first.tv_usec, "first");
      CHECK(i.last.tv_sec == last.tv_sec && i.last.tv_nsec == last.tv_usec, "last");
      CHECK(i.lost == 0 && i.port == 0, "lost %d, port %u", i.lost, i.port);
      CHECK(std::string_view(i.interface) == "see0", "%s", i.interface);
      CHECK(i.ifindex == static_cast<int>(if_nametoindex("see0")), "%d", i.ifindex);
    }
  }
}

void stopped_walk_goes_on() {
  const Handle handle = open_capture();
  std::vector<Block> blocks;
  while (blocks.size() != 1) {  // all in one
    remote().send(0, 10);
    blocks = take_blocks(handle.get(), 10);
  }
  const Block& block = blocks[0];
  Packets packets;
  const pcap_pkthdr* header = nullptr;
  const u_char* bytes = nullptr;
  CHECK(pcap_v3_dispatch_block(block.get(), 3, keep, user(packets)) == 3, "not 3");
  CHECK(pcap_v3_next_packet(block.get(), &header, &bytes) == 1, "not 1");
  packets.emplace_back(*header, bytes);
  CHECK(pcap_v3_dispatch_block(block.get(), 3, keep, user(packets)) == 3, "not 3");
  walk(block.get(), packets);
  check_sequence(packets, 0, 9);
}

/// An Ethernet frame with a UDP datagram from port `port`.
Bytes datagram(std::uint16_t port) {
  Bytes bytes(kNobody.begin(), kNobody.end());
  bytes.insert(bytes.end(), kSomebody.begin(), kSomebody.end());
  append16(bytes, ETHERTYPE_IP);
  for (const int word : {0x4500, 36, 0, 0, 0x0111, 0, 0xc633, 0x6401, 0xc633, 0x6402}) {
    append16(bytes, static_cast<std::uint16_t>(word));
  }
  for (const std::uint16_t word : {port, std::uint16_t{9}, std::uint16_t{16}, std::uint16_t{0}}) {
    append16(bytes, word);
  }
  append32(bytes, kMagic);
  append32(bytes, port);
  return bytes;
}

struct Hashes {
  pcap_v3_block_t* block;
  std::vector<std::uint32_t> all;
};

void keep_hash(u_char* pointer, const pcap_pkthdr*, const u_char*) {
  auto* hashes = reinterpret_cast<Hashes*>(pointer);
  hashes->all.push_back(pcap_v3_packet_hash(hashes->block));
  const int index = pcap_v3_packet_ifindex(hashes->block);
  CHECK(index == static_cast<int>(if_nametoindex("see0")), "interface %d", index);
}

/// The hashes of `flows` flows, each sent twice.
std::vector<std::uint32_t> hashes(pcap_t* p, std::uint16_t flows) {
  const Sender sender = remote();
  for (int i = 0; i < 2; ++i) {
    for (std::uint16_t flow = 0; flow < flows; ++flow) sender.try_send(datagram(flow));
  }
  Hashes by_callback = {nullptr, {}};
  std::vector<std::uint32_t> all;
  while (all.size() < 2u * flows) {
    const Block block = take(p);
    const pcap_pkthdr* header = nullptr;
    const u_char* bytes = nullptr;
    if (all.size() % 2 == 0 && pcap_v3_next_packet(block.get(), &header, &bytes) == 1) {
      all.push_back(pcap_v3_packet_hash(block.get()));
      CHECK(pcap_v3_packet_ifindex(block.get()) == static_cast<int>(if_nametoindex("see0")),
            "interface %d", pcap_v3_packet_ifindex(block.get()));
    }
    by_callback = {block.get(), {}};
    pcap_v3_dispatch_block(block.get(), 0, keep_hash, reinterpret_cast<u_char*>(&by_callback));
    all.insert(all.end(), by_callback.all.begin(), by_callback.all.end());
  }
  return all;
}

void flow_hash() {
  constexpr std::uint16_t kFlows = 50;
  const Handle without = open_capture();
  for (const std::uint32_t hash : hashes(without.get(), kFlows)) CHECK(hash == 0, "%x", hash);
  for (const char* device : {"see0", "see0,see1"}) {
    const Handle with = create({.device = device});
    CHECK(pcap_v3_set_flow_hash(with.get(), 1) == 0, "%s", pcap_geterr(with.get()));
    CHECK(pcap_activate(with.get()) == 0, "%s", pcap_geterr(with.get()));
    const int again = pcap_v3_set_flow_hash(with.get(), 1);
    CHECK(again == PCAP_ERROR_ACTIVATED, "status %d after activation", again);
    std::vector<std::uint32_t> all = hashes(with.get(), kFlows);
    for (std::size_t i = 0; i < kFlows; ++i) {
      CHECK(all[i] == all[i + kFlows], "flow %zu has two hashes", i);
    }
    all.resize(kFlows);
    std::sort(all.begin(), all.end());
    const auto different = std::unique(all.begin(), all.end()) - all.begin();
    CHECK(different >= kFlows - 2 && all[0] != 0, "%td hashes of %u flows", different, kFlows);
  }
}

// ---- Blocks and packets on one handle

void mixed() {
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  const Sender sender = remote();
  Packets packets;
  std::vector<Block> held;
  std::uint32_t next = 0;
  for (int round = 0; round < 20; ++round) {
    sender.send(next, 10);
    next += 10;
    wait_until_received(p, next);
    // Into the middle of a block, or to its end.
    const int count = round % 3 == 0 ? 10 : 3;
    while (packets.size() < next - 10 + static_cast<unsigned>(count)) {
      CHECK(pcap_dispatch(p, count, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
    }
    while (packets.size() < next) {
      held.push_back(take(p));
      const std::size_t before = packets.size();
      walk(held.back().get(), packets);
      CHECK(info(held.back()).packets == packets.size() - before, "%u, not %zu",
            info(held.back()).packets, packets.size() - before);
      if (round % 2 == 0) held.clear();
    }
  }
  check_sequence(packets, 0, next - 1);
}

// ---- Several ports

void several_ports() {
  const Handle handle = open_capture({.device = "see0,see1"});
  pcap_t* p = handle.get();
  CHECK(take(p, 0) == nullptr, "a block on idle links");
  const auto start = Clock::now();
  CHECK(take(p, 100) == nullptr, "a block on idle links");
  CHECK(seconds_since(start) >= 0.09, "%.3f s", seconds_since(start));
  const Players players(2);
  Packets packets[2];
  players.send(0, 100);
  std::vector<Block> held;
  const auto take_all = [&](std::size_t count) {
    while (packets[0].size() < count || packets[1].size() < count) {
      held.push_back(take(p));
      const pcap_v3_info& i = info(held.back());
      CHECK(i.port < 2, "port %u", i.port);
      CHECK(i.interface == see(i.port), "%s is port %u", i.interface, i.port);
      CHECK(i.ifindex == static_cast<int>(if_nametoindex(i.interface)), "%d", i.ifindex);
      walk(held.back().get(), packets[i.port]);
    }
  };
  take_all(100);
  // Packets next, with all the blocks outstanding, and blocks again.
  players.send(100, 100);
  const Packets merged = take_count(p, 200);
  check_ports(merged, 2, 100, 100);
  players.send(200, 100);
  pcap_v3_block_t* block = nullptr;
  int status = 0;
  while ((status = pcap_v3_next_block(p, -1, &block)) == PCAP_ERROR) {
    // What the merge has opened since goes to who reads packets.
    CHECK(std::string_view(pcap_geterr(p)).find("time order") != std::string::npos, "%s",
          pcap_geterr(p));
    Packets rest;
    CHECK(pcap_dispatch(p, -1, keep, user(rest)) >= 0, "%s", pcap_geterr(p));
    for (Packet& packet : rest) {
      packets[sender_of(number_of(packet.bytes))].push_back(std::move(packet));
    }
  }
  held.emplace_back(block);
  walk(block, packets[info(held.back()).port]);
  take_all(200);
  for (unsigned port = 0; port < 2; ++port) {
    std::uint32_t due = 0;
    for (const Packet& packet : packets[port]) {
      const std::uint32_t number = number_of(packet.bytes);
      CHECK(number == marked(port, due), "frame %u of port %u where %u was due", unmarked(number),
            sender_of(number), due);
      if (++due == 100) due = 200;
    }
  }
  held.clear();
  players.send(300, 100);
  check_ports(take_count(p, 200), 2, 300, 100);
}

// ---- No blocks

void check_none(pcap_t* p, const char* part) {
  pcap_v3_block_t* block = reinterpret_cast<pcap_v3_block_t*>(p);
  const int status = pcap_v3_next_block(p, 0, &block);
  CHECK(status == PCAP_ERROR && block == nullptr, "status %d", status);
  const std::string_view text = pcap_geterr(p);
  CHECK(text.find("no blocks") != text.npos && text.find(part) != text.npos, "%s", pcap_geterr(p));
}

void no_blocks() {
  check_none(create().get(), "not been activated");
  const Handle dead(pcap_open_dead(DLT_EN10MB, 100));
  check_none(dead.get(), "libpcap's own");
  CHECK(pcap_v3_set_flow_hash(dead.get(), 1) < 0, "a flow hash of a dead handle");
  FILE* file = std::tmpfile();
  {
    pcap_dumper_t* dumper = pcap_dump_fopen(dead.get(), file);
    pcap_dump_flush(dumper);
    std::rewind(file);
    char error[PCAP_ERRBUF_SIZE] = "";
    const Handle offline(pcap_fopen_offline(file, error));
    CHECK(offline != nullptr, "%s", error);
    check_none(offline.get(), "file");
  }
  setenv("PCAPV3_IMMEDIATE", "v2", 1);
  check_none(open_capture({.immediate = true}).get(), "libpcap's own");
  setenv("PCAPV3", "off", 1);
  const Handle stock = create();
  CHECK(pcap_v3_set_flow_hash(stock.get(), 1) == PCAP_ERROR, "a flow hash of a stock handle");
  check_none(open_capture().get(), "libpcap's own");
}

const Test kTests[] = {
    {"a walk brings what a callback gets", like_callbacks},
    {"in nanoseconds", like_callbacks_nanoseconds},
    {"with a snapshot length", like_callbacks_cut},
    {"of one direction", like_callbacks_one_way},
    {"filtered here, and in the kernel", like_callbacks_filtered},
    {"on any, with LINUX_SLL and LINUX_SLL2", like_callbacks_cooked},
    {"what a block tells of itself", info_of_blocks},
    {"a walk that was stopped goes on", stopped_walk_goes_on},
    {"flow hash, if it is asked for", flow_hash},
    {"blocks and packets in turn", mixed},
    {"several ports", several_ports},
    {"handles without blocks", no_blocks},
};
const Registration kRegistration(
    {.name = "blocks", .tests = kTests, .links = 2, .instruments = "thread valgrind"});

}  // namespace
}  // namespace pcapv3::live
