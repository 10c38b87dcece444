// SPDX-License-Identifier: BSD-3-Clause
// What the program's callback gets for a packet in a block: headers, tags, lengths, times, and
// which packets it does not get. The expected values are those that stock libpcap makes of the same
// packet (pcap-linux.c: pcap_handle_packet_mmap).
#include "pcap-linux-v3/delivery.h"

#include <arpa/inet.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <sys/mman.h>

#include <cstring>
#include <functional>
#include <memory>

#include "catch.h"
#include "test_block.h"

namespace pcapv3::test {
namespace {

struct Got {
  pcap_pkthdr header;
  Bytes bytes;
};

/// A handle's delivery over one block, and what its callback got.
class Fixture {
 public:
  explicit Fixture(std::uint32_t headroom = kFrameHeadroom) : block(65536, headroom) {
    plan.snapshot = 262144;
    plan.ifindex = 3;
    plan.lo_ifindex = 1;
    plan.vlan_offset = 12;
  }

  int run(int max = 1 << 30) {
    start();
    return delivery.run(cursor, max, keep, reinterpret_cast<u_char*>(this));
  }
  int run(Merge& merge, int max = 1 << 30) {
    start();
    return delivery.run(merge, max, keep, reinterpret_cast<u_char*>(this));
  }

  TestBlock block;
  PacketCursor cursor;
  Plan plan;
  Counters counters;
  volatile std::sig_atomic_t break_flag = 0;
  Delivery delivery{&break_flag, counters};
  std::vector<Got> got;
  std::function<void()> in_callback;

 private:
  void start() {
    if (started_) return;
    cursor = block.cursor();
    delivery.follow(plan);
    started_ = true;
  }
  static void keep(u_char* user, const pcap_pkthdr* h, const u_char* bytes) {
    auto* self = reinterpret_cast<Fixture*>(user);
    self->got.push_back({*h, Bytes(bytes, bytes + h->caplen)});
    if (self->in_callback) self->in_callback();
  }

  bool started_ = false;
};

/// A port of a merge, with one block.
struct Port {
  bool join(Merge& merge, unsigned number) {
    ring = std::make_unique<Ring>(
        mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
        Geometry{65536, 1, 8});
    std::memcpy(static_cast<void*>(ring->block(0)), block.desc(), 65536);
    position = std::make_unique<RingPosition>(*ring);
    return merge.add(number, *position, counters, filter);
  }

  TestBlock block{65536, kFrameHeadroom};
  Counters counters;
  UserlandFilter filter;
  std::unique_ptr<Ring> ring;
  std::unique_ptr<RingPosition> position;
};

/// An Ethernet frame: two addresses, a type, a payload.
Bytes frame(std::size_t length = 60) {
  Bytes bytes = counting(length);
  if (length >= 14) {
    bytes[12] = 0x08;
    bytes[13] = 0x00;
  }
  return bytes;
}

Bytes with_tag(Bytes bytes, std::size_t offset, Bytes tag) {
  bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(offset), tag.begin(), tag.end());
  return bytes;
}

sockaddr_ll address(int ifindex = 3, unsigned char type = PACKET_HOST) {
  sockaddr_ll from{};
  from.sll_family = AF_PACKET;
  from.sll_protocol = htons(ETH_P_IP);
  from.sll_ifindex = ifindex;
  from.sll_hatype = ARPHRD_ETHER;
  from.sll_pkttype = type;
  from.sll_halen = 6;
  for (int i = 0; i < 8; ++i) from.sll_addr[i] = static_cast<unsigned char>(0xa0 + i);
  return from;
}

}  // namespace

TEST_CASE("a frame is delivered as it is, with its lengths and time") {
  Fixture f;
  REQUIRE(f.block.add({.bytes = frame(60), .wire_length = 1500, .sec = 7, .nsec = 123456789}));
  CHECK(f.run() == 1);
  REQUIRE(f.got.size() == 1);
  CHECK(f.got[0].bytes == frame(60));
  CHECK(f.got[0].header.caplen == 60);
  CHECK(f.got[0].header.len == 1500);
  CHECK(f.got[0].header.ts.tv_sec == 7);
  CHECK(f.got[0].header.ts.tv_usec == 123456);
  CHECK(f.counters.delivered == 1);
}

TEST_CASE("nanosecond precision keeps the nanoseconds") {
  Fixture f;
  f.plan.nanoseconds = true;
  REQUIRE(f.block.add({.bytes = frame(), .nsec = 999999999}));
  f.run();
  CHECK(f.got.at(0).header.ts.tv_usec == 999999999);
}

TEST_CASE("a packet longer than the snapshot length is cut, its length on the wire stays") {
  Fixture f;
  f.plan.snapshot = 20;
  REQUIRE(f.block.add({.bytes = frame(60)}));
  f.run();
  CHECK(f.got.at(0).header.caplen == 20);
  CHECK(f.got.at(0).header.len == 60);
}

TEST_CASE("a VLAN tag that the kernel took off is put back") {
  Fixture f;
  REQUIRE(f.block.add({.bytes = frame(60),
                       .status = TP_STATUS_VLAN_VALID | TP_STATUS_VLAN_TPID_VALID,
                       .tci = 0x6123,
                       .tpid = ETH_P_8021AD}));
  f.run();
  CHECK(f.got.at(0).bytes == with_tag(frame(60), 12, {0x88, 0xa8, 0x61, 0x23}));
  CHECK(f.got[0].header.caplen == 64);
  CHECK(f.got[0].header.len == 64);
}

TEST_CASE("a priority tag, VLAN 0, is a tag") {
  Fixture f;
  REQUIRE(f.block.add({.bytes = frame(60), .status = TP_STATUS_VLAN_VALID}));
  f.run();
  CHECK(f.got.at(0).bytes == with_tag(frame(60), 12, {0x81, 0x00, 0x00, 0x00}));
}

TEST_CASE("a tag without a type, as kernels before 3.14 give it, is 802.1Q") {
  Fixture f;
  REQUIRE(f.block.add({.bytes = frame(60), .status = TP_STATUS_VLAN_VALID, .tci = 5}));
  f.run();
  CHECK(f.got.at(0).bytes == with_tag(frame(60), 12, {0x81, 0x00, 0x00, 0x05}));
}

TEST_CASE("the tag counts against the snapshot length") {
  Fixture f;
  f.plan.snapshot = 62;
  REQUIRE(f.block.add({.bytes = frame(60), .status = TP_STATUS_VLAN_VALID, .tci = 5}));
  f.run();
  CHECK(f.got.at(0).header.caplen == 62);
  CHECK(f.got.at(0).header.len == 64);
}

TEST_CASE("a packet cut before the place of the tag gets none") {
  Fixture f;
  REQUIRE(f.block.add(
      {.bytes = frame(11), .wire_length = 60, .status = TP_STATUS_VLAN_VALID, .tci = 5}));
  f.run();
  CHECK(f.got.at(0).bytes == frame(11));
  CHECK(f.got.at(0).header.len == 60);
}

TEST_CASE("a link type with no place for a tag gets none") {
  Fixture f;
  f.plan.vlan_offset = -1;
  REQUIRE(f.block.add({.bytes = frame(60), .status = TP_STATUS_VLAN_VALID, .tci = 5}));
  f.run();
  CHECK(f.got.at(0).bytes == frame(60));
}

TEST_CASE("an SLL header is made") {
  Fixture f(kCookedHeadroom);
  f.plan.link_header = LinkHeader::kSll;
  f.plan.ifindex = -1;
  f.plan.vlan_offset = 14;
  REQUIRE(f.block.add({.bytes = counting(40), .from = address(9, PACKET_BROADCAST)}));
  f.run();
  const Bytes header{
      0, PACKET_BROADCAST, 0, 1, 0, 6, 0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0, 0, 0x08, 0x00};
  Bytes expected = header;
  for (auto b : counting(40)) expected.push_back(b);
  CHECK(f.got.at(0).bytes == expected);
  CHECK(f.got[0].header.caplen == 56);
  CHECK(f.got[0].header.len == 56);
}

TEST_CASE("an SLL header with a VLAN tag has the tag before its protocol") {
  Fixture f(kCookedHeadroom);
  f.plan.link_header = LinkHeader::kSll;
  f.plan.ifindex = -1;
  f.plan.vlan_offset = 14;
  REQUIRE(f.block.add(
      {.bytes = counting(40), .status = TP_STATUS_VLAN_VALID, .tci = 42, .from = address()}));
  f.run();
  const Bytes& got = f.got.at(0).bytes;
  REQUIRE(got.size() == 60);
  CHECK(Bytes(got.begin() + 14, got.begin() + 20) == Bytes{0x81, 0x00, 0x00, 42, 0x08, 0x00});
  CHECK(Bytes(got.begin() + 20, got.end()) == counting(40));
}

TEST_CASE("an SLL2 header is made") {
  Fixture f(kCookedHeadroom);
  f.plan.link_header = LinkHeader::kSll2;
  f.plan.ifindex = -1;
  f.plan.vlan_offset = -1;
  REQUIRE(f.block.add({.bytes = counting(40), .from = address(0x01020304, PACKET_OTHERHOST)}));
  f.run();
  const Bytes header{0x08, 0x00, 0,    0,    1,    2,    3,    4, 0, 1, PACKET_OTHERHOST,
                     6,    0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0, 0};
  Bytes expected = header;
  for (auto b : counting(40)) expected.push_back(b);
  CHECK(f.got.at(0).bytes == expected);
  CHECK(f.got[0].header.len == 60);
}

TEST_CASE("of an address, no byte past its length is shown") {
  const auto length = static_cast<unsigned char>(GENERATE(range(0, 10)));
  Fixture f(kCookedHeadroom);
  f.plan.link_header = LinkHeader::kSll2;
  f.plan.ifindex = -1;
  sockaddr_ll from = address();
  from.sll_halen = length;
  REQUIRE(f.block.add({.bytes = counting(40), .from = from}));
  f.run();
  for (unsigned i = 0; i < 8; ++i) {
    CHECK(f.got.at(0).bytes[12 + i] == (i < length ? from.sll_addr[i] : 0));
  }
}

TEST_CASE("direction decides which packets are delivered") {
  Fixture f;
  f.plan.direction = GENERATE(PCAP_D_INOUT, PCAP_D_IN, PCAP_D_OUT);
  REQUIRE(f.block.add({.bytes = frame(60), .from = address(3, PACKET_HOST)}));
  REQUIRE(f.block.add({.bytes = frame(61), .from = address(3, PACKET_OUTGOING)}));
  REQUIRE(f.block.add({.bytes = frame(62), .from = address(3, PACKET_OTHERHOST)}));
  f.run();
  std::vector<unsigned> lengths;
  for (const Got& g : f.got) lengths.push_back(g.header.caplen);
  switch (f.plan.direction) {
    case PCAP_D_INOUT:
      CHECK(lengths == std::vector<unsigned>{60, 61, 62});
      break;
    case PCAP_D_IN:
      CHECK(lengths == std::vector<unsigned>{60, 62});
      break;
    case PCAP_D_OUT:
      CHECK(lengths == std::vector<unsigned>{61});
      break;
  }
  CHECK(f.counters.other_way == 3 - lengths.size());
}

TEST_CASE("lo's packets are delivered once, as received") {
  Fixture f;
  f.plan.ifindex = GENERATE(1, -1);
  REQUIRE(f.block.add({.bytes = frame(60), .from = address(1, PACKET_OUTGOING)}));
  REQUIRE(f.block.add({.bytes = frame(60), .from = address(1, PACKET_HOST)}));
  CHECK(f.run() == 1);
  CHECK(f.counters.other_way == 1);
}

TEST_CASE("a CAN frame on all interfaces is delivered once") {
  Fixture f(kCookedHeadroom);
  f.plan.link_header = LinkHeader::kSll;
  f.plan.ifindex = -1;
  sockaddr_ll from = address(5, PACKET_OUTGOING);
  from.sll_hatype = ARPHRD_CAN;
  REQUIRE(f.block.add({.bytes = counting(16), .from = from}));
  CHECK(f.run() == 0);
}

TEST_CASE("a filter here sees the packet before its tag is put back, and the tag beside it") {
  static std::vector<Bytes> seen;
  static std::vector<std::pair<bool, unsigned>> tags;
  seen.clear();
  tags.clear();
  Fixture f;
  f.plan.filter.run = [](void*, const std::uint8_t* bytes, std::uint32_t wire,
                         std::uint32_t captured, int tagged, std::uint16_t tci) {
    seen.emplace_back(bytes, bytes + captured);
    tags.emplace_back(tagged != 0, tci);
    return wire == 1000 ? 1 : 0;
  };
  REQUIRE(f.block.add(
      {.bytes = frame(60), .wire_length = 1000, .status = TP_STATUS_VLAN_VALID, .tci = 0xf005}));
  REQUIRE(f.block.add({.bytes = frame(61)}));
  CHECK(f.run() == 1);
  CHECK(seen == std::vector<Bytes>{frame(60), frame(61)});
  CHECK(tags == std::vector<std::pair<bool, unsigned>>{{true, 5}, {false, 0}});
  CHECK(f.got.at(0).header.len == 1004);
  CHECK(f.counters.filtered == 1);
}

TEST_CASE("a packet cut off after the kernel got the filter is not filtered once more") {
  Fixture f;
  f.plan.filter.run = [](void*, const std::uint8_t*, std::uint32_t, std::uint32_t, int,
                         std::uint16_t) { return 0; };
  f.plan.filter.until = stamp_of(5'000'000'000);
  REQUIRE(f.block.add({.bytes = frame(60), .wire_length = 1500, .sec = 5}));
  REQUIRE(f.block.add({.bytes = frame(61), .wire_length = 1500, .sec = 5, .nsec = 1}));
  REQUIRE(f.block.add({.bytes = frame(62), .sec = 5, .nsec = 1}));  // the packet is whole, so it
                                                                    // can be filtered
  CHECK(f.run() == 1);
  CHECK(f.got.at(0).header.caplen == 61);
  CHECK(f.counters.filtered == 2);
}

TEST_CASE("what only the kernel can filter is not filtered here after it has") {
  Fixture f;
  f.plan.filter.run = [](void*, const std::uint8_t*, std::uint32_t, std::uint32_t, int,
                         std::uint16_t) { return 0; };
  f.plan.filter.until = stamp_of(5'000'000'000);
  f.plan.filter.is_whole = false;
  REQUIRE(f.block.add({.bytes = frame(60), .sec = 5}));
  REQUIRE(f.block.add({.bytes = frame(61), .sec = 5, .nsec = 1}));
  CHECK(f.run() == 1);
  CHECK(f.got.at(0).header.caplen == 61);
}

TEST_CASE("no more packets than asked for, and the next call goes on") {
  Fixture f;
  for (unsigned i = 0; i < 10; ++i) REQUIRE(f.block.add({.bytes = frame(60 + i)}));
  CHECK(f.run(3) == 3);
  CHECK(f.run(0) == 0);
  CHECK(f.run(100) == 7);
  CHECK(f.cursor.done());
  for (unsigned i = 0; i < 10; ++i) CHECK(f.got.at(i).header.caplen == 60 + i);
}

TEST_CASE("the break flag stops before the next packet, which is not lost") {
  Fixture f;
  for (unsigned i = 0; i < 5; ++i) REQUIRE(f.block.add({.bytes = frame(60 + i)}));
  f.in_callback = [&f] {
    if (f.got.size() == 2) f.break_flag = 1;
  };
  CHECK(f.run() == 2);
  CHECK(f.run() == 0);
  f.break_flag = 0;
  CHECK(f.run() == 3);
  CHECK(f.got.at(2).header.caplen == 62);
}

TEST_CASE("a plan changed in the callback holds from the next packet on") {
  Fixture f;
  for (unsigned i = 0; i < 4; ++i) REQUIRE(f.block.add({.bytes = frame(60)}));
  f.in_callback = [&f] {
    if (f.got.size() != 2) return;
    f.plan.snapshot = 10;
    f.plan.direction = PCAP_D_IN;
    f.delivery.follow(f.plan);
  };
  CHECK(f.run() == 2);
  CHECK(f.run() == 2);
  CHECK(f.got.at(1).header.caplen == 60);
  CHECK(f.got.at(2).header.caplen == 10);
}

TEST_CASE("delivery stops at a corrupt packet") {
  Fixture f;
  for (unsigned i = 0; i < 3; ++i) REQUIRE(f.block.add({.bytes = frame(60)}));
  f.block.packet(1).tp_snaplen = 0xffffff;
  CHECK(f.run() == 1);
  CHECK(f.cursor.corrupt());
  CHECK(f.run() == 0);
}

TEST_CASE("packets of several ports are delivered in order, and counted for each port") {
  Fixture f;
  Port other;
  const auto add = [](TestBlock& block, std::uint32_t sec, std::uint8_t first) {
    REQUIRE(block.add({.bytes = counting(60, first), .sec = sec}));
  };
  add(f.block, 1, 1);
  add(f.block, 3, 3);
  add(other.block, 2, 2);
  add(other.block, 4, 4);
  Port port;
  std::memcpy(static_cast<void*>(port.block.desc()), f.block.desc(), 65536);
  Merge merge;
  REQUIRE(port.join(merge, 0));
  REQUIRE(other.join(merge, 1));
  merge.look(100'000'000'000);
  CHECK(f.run(merge, 3) == 3);
  CHECK(f.run(merge) == 1);
  CHECK(merge.done());
  REQUIRE(f.got.size() == 4);
  for (std::uint8_t i = 0; i < 4; ++i) CHECK(f.got[i].bytes == counting(60, i + 1));
  CHECK(port.counters.delivered == 2);
  CHECK(other.counters.delivered == 2);
  CHECK(f.counters.delivered == 0);
}

}  // namespace pcapv3::test
