// SPDX-License-Identifier: BSD-3-Clause
// The walk over a block: sound blocks, and every way in which a block can be corrupt.
#include <random>

#include "catch.h"
#include "test_block.h"

namespace pcapv3::test {
namespace {

constexpr std::uint32_t kHeadroom = 4;

/// Walks to the end or to where the walk breaks off; returns the packets seen.
std::vector<Bytes> walk(PacketCursor& cursor) {
  std::vector<Bytes> seen;
  while (!cursor.done() && !cursor.corrupt()) {
    const PacketView p = cursor.packet();
    seen.emplace_back(p.bytes(), p.bytes() + p.header().tp_snaplen);
    cursor.next();
  }
  return seen;
}

TestBlock block_of(std::size_t packets, std::uint32_t block_bytes = 65536) {
  TestBlock block(block_bytes, kHeadroom);
  for (std::size_t i = 0; i < packets; ++i) {
    REQUIRE(block.add({.bytes = counting(60 + i % 7, static_cast<std::uint8_t>(i))}));
  }
  return block;
}

/// Does step by step what extend() must do.
Stamp extended(PacketCursor& cursor, std::uint32_t most) {
  for (;;) {
    const Stamp last = cursor.packet().stamp();
    cursor.next();
    if (--most == 0 || !cursor.has_packet() || cursor.packet().stamp() < last) return last;
  }
}

}  // namespace

TEST_CASE("a cursor over nothing is done") {
  PacketCursor cursor;
  CHECK(cursor.done());
  CHECK_FALSE(cursor.corrupt());
}

TEST_CASE("a block with no packets is done at once, whatever its lengths say") {
  TestBlock block = block_of(0);
  block.header().offset_to_first_pkt = 0xffffffff;
  block.header().blk_len = 0xffffffff;
  PacketCursor cursor = block.cursor();
  CHECK(cursor.done());
  CHECK_FALSE(cursor.corrupt());
}

TEST_CASE("one packet is walked") {
  TestBlock block = block_of(1);
  PacketCursor cursor = block.cursor();
  CHECK(cursor.left() == 1);
  CHECK(walk(cursor) == std::vector<Bytes>{counting(60, 0)});
  CHECK(cursor.done());
  CHECK_FALSE(cursor.corrupt());
}

TEST_CASE("many packets are walked in order") {
  TestBlock block = block_of(100);
  PacketCursor cursor = block.cursor();
  const auto seen = walk(cursor);
  REQUIRE(seen.size() == 100);
  for (std::size_t i = 0; i < seen.size(); ++i) {
    CHECK(seen[i] == counting(60 + i % 7, static_cast<std::uint8_t>(i)));
  }
  CHECK(cursor.done());
}

TEST_CASE("a block filled to its last byte is walked whole") {
  TestBlock block(4096, kHeadroom);
  while (block.add({.bytes = counting(60)})) {
  }
  // One packet of just the right size fills what is left.
  const std::uint32_t left = 4096 - block.header().blk_len;
  const std::uint32_t overhead = 96 + kHeadroom;
  if (left > overhead) REQUIRE(block.add({.bytes = counting(left - overhead)}));
  PacketCursor cursor = block.cursor();
  const std::uint32_t packets = block.header().num_pkts;
  CHECK(walk(cursor).size() == packets);
  CHECK_FALSE(cursor.corrupt());
}

TEST_CASE("a packet of no bytes is a packet") {
  TestBlock block(4096, kHeadroom);
  REQUIRE(block.add({.bytes = {}, .wire_length = 1500}));
  PacketCursor cursor = block.cursor();
  CHECK(walk(cursor) == std::vector<Bytes>{Bytes{}});
}

TEST_CASE("the kernel's address comes with the packet") {
  TestBlock block(4096, kHeadroom);
  TestPacket packet{.bytes = counting(60)};
  packet.from.sll_ifindex = 7;
  packet.from.sll_pkttype = PACKET_OTHERHOST;
  REQUIRE(block.add(packet));
  PacketCursor cursor = block.cursor();
  CHECK(cursor.packet().address().sll_ifindex == 7);
  CHECK(cursor.packet().address().sll_pkttype == PACKET_OTHERHOST);
}

TEST_CASE("packets begin behind the private area, wherever that ends") {
  const std::uint32_t bytes = GENERATE(1u, 8u, 9u, 100u, 4096u, 40000u);
  TestBlock block(65536, kHeadroom, bytes);
  for (std::uint8_t i = 0; i < 20; ++i) REQUIRE(block.add({.bytes = counting(60, i)}));
  void* const area = private_area(block.desc(), bytes);
  REQUIRE(area != nullptr);
  CHECK(reinterpret_cast<std::uintptr_t>(area) % 8 == 0);
  std::memset(area, 0xff, bytes);
  PacketCursor whole = block.cursor();
  CHECK(whole.packet().bytes() > static_cast<std::uint8_t*>(area) + bytes);
  // The kernel's block, whose length is not final, is read in the same way.
  PacketCursor part(block.desc(), block.block_bytes(), kHeadroom, 20);
  for (PacketCursor* cursor : {&whole, &part}) {
    const auto seen = walk(*cursor);
    REQUIRE(seen.size() == 20);
    for (std::uint8_t i = 0; i < 20; ++i) CHECK(seen[i] == counting(60, i));
    CHECK_FALSE(cursor->corrupt());
  }
}

TEST_CASE("a private area fills a block up to its last byte with the packet behind it") {
  // The summands are BLK_PLUS_PRIV, and a packet as TestBlock makes it.
  constexpr std::uint32_t kPacket = 96 + kHeadroom + 60;
  TestBlock block(4096, kHeadroom, 4096 - 48 - kPacket);
  REQUIRE(block.add({.bytes = counting(60)}));
  CHECK(block.header().blk_len == 4096);
  PacketCursor cursor = block.cursor();
  CHECK(walk(cursor) == std::vector<Bytes>{counting(60)});
}

TEST_CASE("a private area that does not lie between header and packets is none") {
  TestBlock block(4096, kHeadroom, 100);
  CHECK(private_area(block.desc(), 100) != nullptr);
  CHECK(private_area(block.desc(), 104) != nullptr);
  CHECK(private_area(block.desc(), 105) == nullptr);
  CHECK(private_area(block.desc(), 0) == nullptr);
  block.desc()->offset_to_priv = GENERATE(0u, 40u, 47u, 49u, 56u, 152u, 160u, 0xfffffff8u);
  CHECK(private_area(block.desc(), 100) == nullptr);
}

TEST_CASE("a first packet outside the block is corrupt") {
  TestBlock block = block_of(3);
  const std::uint32_t offset =
      GENERATE(0u, 8u, 44u, 49u, 65536u, 65536u - 8u, 0x7fffffffu, 0xfffffff8u);
  block.header().offset_to_first_pkt = offset;
  PacketCursor cursor = block.cursor();
  CHECK(cursor.corrupt());
  CHECK(walk(cursor).empty());
}

TEST_CASE("a block that says it is longer than it can be is corrupt") {
  TestBlock block = block_of(3);
  block.header().blk_len = GENERATE(65537u, 0x80000000u, 0xffffffffu);
  CHECK(block.cursor().corrupt());
}

TEST_CASE("a step that leads outside the block, nowhere or askew is corrupt") {
  TestBlock block = block_of(4);
  const std::uint32_t from = GENERATE(0u, 1u, 2u);
  block.packet(from).tp_next_offset =
      GENERATE(0u, 8u, 64u, 68u, 161u, 65536u, 0x7ffffff8u, 0xfffffff8u, 0xffffffffu);
  PacketCursor cursor = block.cursor();
  CHECK(walk(cursor).size() == from + 1);
  CHECK(cursor.corrupt());
  CHECK_FALSE(cursor.done());
  CHECK(cursor.left() == 3 - from);
}

TEST_CASE("more packets promised than there are is corrupt") {
  TestBlock block = block_of(3);
  block.header().num_pkts = 4;
  PacketCursor cursor = block.cursor();
  CHECK(walk(cursor).size() == 3);
  CHECK(cursor.corrupt());
}

TEST_CASE("a packet whose bytes reach past the block is corrupt") {
  TestBlock block = block_of(3);
  block.packet(2).tp_snaplen = GENERATE(69u, 200u, 65536u, 0x80000000u, 0xffffffffu);
  PacketCursor cursor = block.cursor();
  CHECK(walk(cursor).size() == 2);
  CHECK(cursor.corrupt());
}

TEST_CASE("a frame that begins in its own header or past the block is corrupt") {
  TestBlock block = block_of(3);
  const std::uint16_t mac =
      GENERATE(std::uint16_t{0}, std::uint16_t{48},
               std::uint16_t{kPacketHeaderBytes + kHeadroom - 1}, std::uint16_t{0xffff});
  block.packet(1).tp_mac = mac;
  PacketCursor cursor = block.cursor();
  CHECK(walk(cursor).size() == 1);
  CHECK(cursor.corrupt());
}

TEST_CASE("the room promised in front of a packet is checked") {
  TestBlock block = block_of(1);
  block.packet(0).tp_mac = kPacketHeaderBytes + kHeadroom;
  CHECK_FALSE(PacketCursor(block.desc(), block.block_bytes(), kHeadroom).corrupt());
  CHECK(PacketCursor(block.desc(), block.block_bytes(), kHeadroom + 1).corrupt());
}

TEST_CASE("what has been walked can be walked again, without checks") {
  TestBlock block = block_of(5);
  const PacketCursor start = block.cursor();
  PacketCursor end = start;
  end.next();
  end.next();
  Run walked = start.up_to(end);
  REQUIRE(walked.left() == 2);
  CHECK(walked.packet().bytes() == start.packet().bytes());
  walked.next();
  walked.next();
  CHECK(walked.done());
  while (!end.done()) end.next();
  CHECK(start.up_to(end).left() == 5);
}

TEST_CASE("a walk that met a corrupt packet ends before it") {
  TestBlock block = block_of(5);
  block.packet(3).tp_snaplen = 0xffffff;
  const PacketCursor start = block.cursor();
  PacketCursor end = start;
  while (!end.done() && !end.corrupt()) end.next();
  CHECK(start.up_to(end).left() == 3);
  CHECK(end.up_to(end).done());
}

TEST_CASE("a extend goes on to where stamps fall, and checks what a step checks") {
  std::mt19937 random(GENERATE(range(0u, 200u)));
  const auto below = [&](std::size_t bound) {
    return static_cast<std::uint32_t>(random() % bound);
  };
  TestBlock block(65536, kHeadroom);
  const std::uint32_t packets = 1 + below(60);
  const std::uint32_t sizes = 1 + below(3);
  const std::uint32_t falls = 2 + below(20);
  std::uint64_t ns = 1'700'000'000'999'990'000;
  for (std::uint32_t i = 0; i < packets; ++i) {
    ns = below(falls) == 0 ? ns - 1500 : ns + below(3) * 1000;
    REQUIRE(block.add({.bytes = counting(60 + 100 * below(sizes)),
                       .sec = static_cast<std::uint32_t>(ns / 1'000'000'000),
                       .nsec = static_cast<std::uint32_t>(ns % 1'000'000'000)}));
  }
  if (below(2) == 0) {
    tpacket3_hdr& hit = block.packet(below(packets));
    switch (below(4)) {
      case 0:
        hit.tp_next_offset = std::vector<std::uint32_t>{0, 8, 72, 65536, 0xfffffff8}[below(5)];
        break;
      case 1:
        hit.tp_snaplen = 0xffffffff;
        break;
      case 2:
        hit.tp_mac = 0;
        break;
      default:
        block.header().num_pkts += 1 + below(100);
    }
  }
  PacketCursor cursor = block.cursor();
  PacketCursor stepping = cursor;
  while (cursor.has_packet()) {
    const std::uint32_t most = 1 + below(packets);
    CHECK(cursor.extend(most) == extended(stepping, most));
    REQUIRE(cursor.left() == stepping.left());
    CHECK(cursor.has_packet() == stepping.has_packet());
    CHECK(cursor.offset() == stepping.offset());
  }
}

TEST_CASE("stamps are times, and compare as times do") {
  constexpr std::uint64_t kTime = 1'700'000'000'999'999'999;
  CHECK(ns_of(stamp_of(kTime)) == kTime);
  CHECK(stamp_of(kTime) < stamp_of(kTime + 1));
  CHECK(stamp_of(kTime - 1) < stamp_of(kTime));
}

TEST_CASE("corruption tells where it is") {
  TestBlock block = block_of(3);
  block.packet(1).tp_snaplen = 0xffffff;
  PacketCursor cursor = block.cursor();
  walk(cursor);
  CHECK(cursor.offset() == 48 + block.packet(0).tp_next_offset);
}

}  // namespace pcapv3::test
