// SPDX-License-Identifier: BSD-3-Clause
// Several handles that share an interface's packets: who gets which, and that each comes once. In
// one process, where every function can be watched; whole programs and real traffic are
// fanout_programs.test's.
#include "fanout.h"

#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>

#include <set>
#include <string>
#include <vector>

namespace pcapv3::live {
namespace {

/// Frames 0 to `count` have come, each to one of the handles; the last is sent now. By the kernel's
/// counts there is nothing else for them, but for `rejected` packets.
void take_all_once(const Handles& handles, const Sender& sender, std::uint32_t count,
                   Shares& shares, unsigned rejected = 0) {
  sender.send({.number = count});
  take(handles, count + 1, shares);
  const auto owners = owners_of(shares);
  CHECK(owners.size() == count + 1 && owners.rbegin()->first == count, "%zu frames up to %u",
        owners.size(), owners.rbegin()->first);
  unsigned received = 0;
  for (const Handle& handle : handles) received += stats_of(handle.get()).ps_recv;
  CHECK(received == count + 1 + rejected, "%u packets in the rings for %u frames", received,
        count + 1);
}

/// Whether the kernel keeps outgoing packets from a group: by a group of another socket's.
bool knows_flag() {
  const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
  sockaddr_ll address = {};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(if_nametoindex("lo"));
  constexpr int kIgnoreOutgoing = 0x4000;  // PACKET_FANOUT_FLAG_IGNORE_OUTGOING
  const int group = (PACKET_FANOUT_HASH | kIgnoreOutgoing) << 16 | 99;
  CHECK(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
            setsockopt(fd, SOL_PACKET, PACKET_FANOUT, &group, sizeof(group)) == 0,
        "%s", std::strerror(errno));
  Sender("lo").send({});
  int copies = 0;
  for (char byte; copies < 2 && recv(fd, &byte, 1, 0) > 0;) ++copies;
  close(fd);
  return copies == 1;
}

// ---- Frames that belong to flows

struct Flow {
  bool six = false;  // IP version
  std::uint8_t protocol = IPPROTO_UDP;
  std::uint16_t number = 0;
};

void append_address(Bytes& bytes, const Flow& flow, bool far) {
  if (flow.six) {
    append32(bytes, 0xfd000000);
    append32(bytes, 0);
    append32(bytes, 0);
  }
  append32(bytes, 0x0a000000u + (far ? 0x10000u : 0) + flow.number);
}

/// A packet of the flow, from one end of it or `back` from the other.
Bytes packet_of(const Flow& flow, bool back, std::uint32_t number) {
  constexpr std::uint16_t kLength = 28;  // of what follows the IP header
  Bytes bytes(kNobody.begin(), kNobody.end());
  bytes.insert(bytes.end(), kSomebody.begin(), kSomebody.end());
  append16(bytes, flow.six ? 0x86dd : 0x0800);
  if (flow.six) {
    append32(bytes, 0x60000000);
    append16(bytes, kLength);
    append16(bytes, static_cast<std::uint16_t>(flow.protocol << 8 | 64));
  } else {
    append16(bytes, 0x4500);
    append16(bytes, 20 + kLength);
    append32(bytes, 0);
    append16(bytes, static_cast<std::uint16_t>(64 << 8 | flow.protocol));
    append16(bytes, 0);
  }
  append_address(bytes, flow, back);
  append_address(bytes, flow, !back);
  const bool is_icmp = flow.protocol == IPPROTO_ICMP || flow.protocol == IPPROTO_ICMPV6;
  if (is_icmp) {
    append32(bytes, flow.six ? (back ? 0x81000000 : 0x80000000) : (back ? 0 : 0x08000000));
  } else {
    append16(bytes, static_cast<std::uint16_t>(back ? 53 : 4000 + flow.number));
    append16(bytes, static_cast<std::uint16_t>(back ? 4000 + flow.number : 53));
  }
  if (flow.protocol != IPPROTO_TCP) append32(bytes, 0);
  append32(bytes, kMagic);  // TCP's sequence numbers
  append32(bytes, number);
  while (bytes.size() < 14u + (flow.six ? 40 : 20) + kLength) bytes.push_back(0x50);
  return bytes;
}

void test_hash_keeps_flows() {
  join("7");
  const Handles handles = open_members(3);
  const Sender sender = remote();
  constexpr std::uint16_t kFlows = 60;  // of each kind
  std::vector<Flow> flows;
  for (std::uint16_t i = 0; i < kFlows; ++i) {
    for (const bool six : {false, true}) {
      flows.push_back({six, IPPROTO_TCP, i});
      flows.push_back({six, IPPROTO_UDP, i});
      const std::uint8_t icmp[] = {IPPROTO_ICMP, IPPROTO_ICMPV6};
      flows.push_back({six, icmp[six], i});
    }
  }
  const auto count = static_cast<std::uint32_t>(flows.size());
  for (std::uint32_t i = 0; i < 4 * count; ++i) {
    CHECK(sender.try_send(packet_of(flows[i % count], i / count % 2 == 1, i)), "%s",
          std::strerror(errno));
  }
  Shares shares;
  take_all_once(handles, sender, 4 * count, shares);
  const auto owners = owners_of(shares);
  std::set<std::size_t> used;
  for (std::uint32_t i = 0; i < 4 * count; ++i) {
    const Flow& flow = flows[i % count];
    CHECK(owners.at(i) == owners.at(i % count), "IPv%d protocol %u flow %u: packet %u is apart",
          flow.six ? 6 : 4, flow.protocol, flow.number, i / count);
    used.insert(owners.at(i));
  }
  CHECK(used.size() == handles.size(), "only %zu handles got something", used.size());
}

void test_fragments() {
  join("7:hash");
  const Handles handles = open_members(3);
  const Sender sender = remote();
  constexpr std::uint16_t kFlows = 20;
  for (std::uint16_t i = 0; i < kFlows; ++i) {
    const Flow flow = {false, IPPROTO_UDP, i};
    const Bytes whole = packet_of(flow, false, i);
    CHECK(sender.try_send(whole), "%s", std::strerror(errno));
    // The same datagram in three parts of 8, 8 and 12 bytes; only the first has the ports.
    Bytes numbered = packet_of(flow, true, i + 1000u);
    for (std::uint16_t part = 0; part < 3; ++part) {
      Bytes bytes(numbered.begin(), numbered.begin() + 34);
      const auto from = numbered.begin() + 34 + 8 * part;
      bytes.insert(bytes.end(), from, part == 2 ? numbered.end() : from + 8);
      bytes[17] = static_cast<std::uint8_t>(bytes.size() - 14);
      bytes[19] = static_cast<std::uint8_t>(i);  // identification
      bytes[20] = part == 2 ? 0 : 0x20;          // more fragments
      bytes[21] = static_cast<std::uint8_t>(part);
      CHECK(sender.try_send(bytes), "%s", std::strerror(errno));
    }
  }
  Shares shares;
  take(handles, 2 * kFlows, shares);
  const auto owners = owners_of(shares);
  for (std::uint16_t i = 0; i < kFlows; ++i) {
    CHECK(owners.count(i) == 1 && owners.count(i + 1000u) == 1, "datagram %u did not come", i);
    CHECK(owners.at(i) == owners.at(i + 1000u), "the fragments of flow %u came to another", i);
  }
  for (const Packets& share : shares) {
    for (const Packet& packet : share) {
      CHECK(packet.header.len == 62, "a packet of %u bytes", packet.header.len);
    }
  }
}

// ---- Modes and what goes with them

void test_modes() {
  const Sender sender = remote();
  for (const char* mode : {"7:lb", "7:cpu", "7:rollover", "7:random", "7:qm"}) {
    join(mode);
    const Handles handles = open_members(2);
    constexpr std::uint32_t kCount = 400;
    sender.send(0, kCount - 1);
    Shares shares;
    take_all_once(handles, sender, kCount - 1, shares);
    std::printf("# %s: %zu and %zu\n", mode, shares[0].size(), shares[1].size());
    const bool half = shares[0].size() == kCount / 2;
    if (std::strcmp(mode, "7:lb") == 0) CHECK(half, "lb: %zu frames", shares[0].size());
    if (std::strcmp(mode, "7:random") == 0) {
      CHECK(!shares[0].empty() && !shares[1].empty(), "random: one got nothing");
    }
    // Only one CPU sends, the ring of the first has room, and the interface has one queue.
    if (std::strcmp(mode, "7:rollover") == 0 || std::strcmp(mode, "7:qm") == 0) {
      CHECK(shares[0].empty() || shares[1].empty(), "%s: both got some", mode);
    }
  }
}

std::string why_not(const Options& options) {
  const Handle handle = create(options);
  const int status = pcap_activate(handle.get());
  CHECK(status == PCAP_ERROR, "status %d", status);
  return pcap_geterr(handle.get());
}

void test_errors() {
  join("7:hash");
  const Handle first = open_capture();
  const std::size_t descriptors = count_descriptors();
  join("7:lb");
  const std::string text = why_not({});
  for (const char* part : {"PCAPV3_FANOUT=7:lb", "group 7 on see0", "another mode"}) {
    CHECK(text.find(part) != text.npos, "%s", text.c_str());
  }
  const std::string of_port = why_not({.device = "see1,see0"});
  CHECK(of_port.starts_with("see0: PCAPV3_FANOUT=7:lb: "), "%s", of_port.c_str());
  join("7:heap");
  const std::string wanted = why_not({});
  CHECK(wanted.find("rollover") != wanted.npos, "%s", wanted.c_str());
  CHECK(count_descriptors() == descriptors, "%zu descriptors, not %zu", count_descriptors(),
        descriptors);
  // Another group, another interface, all interfaces.
  join("8:lb");
  const Handle other_group = open_capture();
  join("7:lb");
  const Handle other_device = open_capture({.device = "see1"});
  const Handle any = open_capture({.device = "any"});
  // The group goes with its last member.
  pcap_close(const_cast<Handle&>(first).release());
  const Handle again = open_capture();
}

void test_stranger() {
  join("7:hash");
  const Handle handle = open_capture();
  int group = 0;
  socklen_t length = sizeof(group);
  CHECK(getsockopt(pcap_fileno(handle.get()), SOL_PACKET, PACKET_FANOUT, &group, &length) == 0,
        "%s", std::strerror(errno));
  CHECK((group & 0xffff) >= 0x8000, "group %d", group & 0xffff);
  constexpr int kMode = PACKET_FANOUT_HASH | PACKET_FANOUT_FLAG_DEFRAG;
  CHECK((group >> 16 & 0xffff) == kMode, "mode %x", group >> 16 & 0xffff);
  // A group of the same number that another program has made is not joined.
  join("8:hash");
  Handle mine = open_capture();
  CHECK(getsockopt(pcap_fileno(mine.get()), SOL_PACKET, PACKET_FANOUT, &group, &length) == 0, "%s",
        std::strerror(errno));
  mine.reset();
  const int stranger = socket(AF_PACKET, SOCK_RAW, 0);
  sockaddr_ll address = {};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(if_nametoindex("see0"));
  CHECK(bind(stranger, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
            setsockopt(stranger, SOL_PACKET, PACKET_FANOUT, &group, sizeof(group)) == 0,
        "%s", std::strerror(errno));
  const std::string text = why_not({});
  CHECK(text.find("another program's group has the same number") != text.npos, "%s", text.c_str());
  close(stranger);
}

void test_loopback() {
  const bool flag = knows_flag();
  // The two copies of a packet come to one handle; by lb, each to another.
  for (const char* mode : {"7:hash", "7:lb"}) {
    join(mode);
    for (const char* device : {"lo", "any"}) {
      const Handles handles = open_members(2, {.device = device});
      const Sender sender("lo");
      Shares shares;
      sender.send(0, 300);
      // Of all interfaces, or by a kernel that does not know the flag, both are in the ring.
      const bool twice = std::strcmp(device, "any") == 0 || !flag;
      take_all_once(handles, sender, 300, shares, twice ? 301 : 0);
    }
  }
}

void test_wishes() {
  join("7:lb");
  const Sender sender = remote();
  // A snapshot length, first with no filter, and on all interfaces.
  for (const char* device : {"see0", "any"}) {
    const Handles handles = open_members(2, {.device = device, .snaplen = 60});
    Shares shares;
    sender.send(0, 300);
    take_all_once(handles, sender, 300, shares);
    for (const Packets& share : shares) {
      for (const Packet& packet : share) {
        CHECK(packet.header.caplen == 60 && packet.header.len > 60, "%u of %u bytes",
              packet.header.caplen, packet.header.len);
      }
    }
  }
  // A filter, that the kernel runs, or that the library does.
  for (const bool in_kernel : {true, false}) {
    const Handles handles = open_members(2);
    for (const Handle& handle : handles) {
      if (in_kernel) set_filter(handle.get(), kOdd);
      if (!in_kernel) set_long_filter(handle.get());
    }
    Shares shares;
    sender.send(0, 300);
    take(handles, 150, shares);
    for (const auto& [number, owner] : owners_of(shares)) CHECK(number % 2 == 1, "%u", number);
  }
  // A direction, which is set when the handle is in its group.
  const Handles in = open_members(2);
  const Sender outward("see0");
  for (const Handle& handle : in) set_direction(handle.get(), PCAP_D_IN);
  for (std::uint32_t i = 0; i < 200; ++i) {
    outward.send({.number = 1000 + i});
    sender.send({.number = i});
  }
  Shares shares;
  take_all_once(in, sender, 200, shares, 200);
}

void test_immediate_v2() {
  setenv("PCAPV3_IMMEDIATE", "v2", 1);
  join("7:lb");
  const Record debug("PCAPV3_DEBUG");
  const Handles handles = open_members(2, {.snaplen = 200, .immediate = true});
  CHECK(debug.text().find("V2") != std::string::npos, "%s", debug.text().c_str());
  const Sender sender = remote();
  Shares shares;
  sender.send(0, 300);
  take_all_once(handles, sender, 300, shares);
}

void test_off() {
  setenv("PCAPV3", "off", 1);
  join("7:lb");
  const Handles handles = open_members(2);
  const Sender sender = remote();
  sender.send(0, 100);
  for (const Handle& handle : handles) check_sequence(take_until(handle.get(), 99), 0, 99);
}

const Test kTests[] = {
    {"hash keeps both directions of a flow together", test_hash_keeps_flows},
    {"fragments come whole, where their flow goes", test_fragments},
    {"every mode hands out each packet once", test_modes},
    {"what can't be joined is an error", test_errors},
    {"strangers' groups are left alone", test_stranger},
    {"each packet of loopback comes once", test_loopback},
    {"snapshot length, filter and direction", test_wishes},
    {"immediate mode on V2", test_immediate_v2},
    {"PCAPV3=off: no group", test_off},
};
const Registration kRegistration({.name = "fanout", .tests = kTests, .links = 2});

}  // namespace
}  // namespace pcapv3::live
