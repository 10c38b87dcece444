// SPDX-License-Identifier: BSD-3-Clause
// Link types: which there are, cooked headers, and the VLAN tags that the kernel takes out of a
// frame.
#include <net/if_arp.h>

#include <vector>

#include "capture.h"

namespace pcapv3::live {
namespace {

void ethernet_datalinks() {
  const Handle handle = open_capture();
  const Sender sender = remote();
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
  const Sender in = remote();
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
  remote().send(0, 30);
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

// ---- VLAN tags, which the kernel takes out of a frame that comes in

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
  const Sender in = remote();
  const Sender out = local();
  for (const Sender* sender : {&in, &out}) {
    for (const Frame& frame : kTagged) sender->send(frame);
    const Packets packets = take_count(handle.get(), kTagged.size());
    for (std::size_t i = 0; i < packets.size(); ++i) check_frame(packets[i], kTagged[i]);
  }
}

void vlan_tags_cut_off() {
  const Sender sender = remote();
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
  remote().send(wanted.frame);
  check_cooked(take_until(handle.get(), 7).front(), wanted, DLT_LINUX_SLL);
}

const Test kTests[] = {
    {"link types of Ethernet", ethernet_datalinks},
    {"cooked headers", cooked_headers},
    {"pcap_set_datalink between packets", cooked_datalink_between_packets},
    {"VLAN tags are put back", vlan_tags},
    {"VLAN tags and the snapshot length", vlan_tags_cut_off},
    {"VLAN tags in cooked packets", vlan_tags_cooked},
};
const Registration kRegistration({.name = "link_types",
                                  .tests = kTests,
                                  .modes = "ours off distribution"});

}  // namespace
}  // namespace pcapv3::live
