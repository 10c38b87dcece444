// SPDX-License-Identifier: BSD-3-Clause
// What two rings have both got is removed from the first: all of it, and nothing else.
#include "pcap-linux-v3/growth/copies.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "catch.h"
#include "test_block.h"

namespace pcapv3::test {
namespace {

constexpr std::uint32_t kBlockBytes = 4096;
constexpr std::uint32_t kHeadroom = 4;
constexpr std::uint64_t kStartNs = 1'000'000'000;

/// The number lies in the first bytes; the stamp is the caller's, and the same for all sockets.
TestPacket packet(std::uint32_t number, std::uint64_t ns, std::size_t bytes = 60) {
  TestPacket packet{.bytes = Bytes(bytes),
                    .sec = static_cast<std::uint32_t>((kStartNs + ns) / 1'000'000'000),
                    .nsec = static_cast<std::uint32_t>((kStartNs + ns) % 1'000'000'000),
                    .status = TP_STATUS_TS_SOFTWARE};
  std::memcpy(packet.bytes.data(), &number, sizeof(number));
  return packet;
}

struct TestRing {
  explicit TestRing(std::uint32_t blocks)
      : kernel(Geometry{kBlockBytes, blocks, 10}, kHeadroom, kStartNs),
        ring(kernel.map(), kernel.geometry()) {
    position.set_headroom(kHeadroom);
  }
  bool add(const TestPacket& packet) { return kernel.receive(packet, kStartNs); }

  KernelRing kernel;
  Ring ring;
  RingPosition position{ring};
};

/// Two rings, as resize.h has them: the first is sealed, and the second goes on.
struct Pair {
  TestRing first;
  TestRing second;

  explicit Pair(std::uint32_t count = 32) : first(count), second(2 * count) {}

  void both(const TestPacket& packet) {
    REQUIRE(first.add(packet));
    REQUIRE(second.add(packet));
  }
  /// Removes the copies from the blocks from `from` on. Returns how many those are.
  unsigned remove(unsigned from = 0) {
    second.position.set_end(second.position.mark());
    const RingPosition::Mark rest = first.position.mark();
    blocks = rest.blocks + (rest.packets != 0 ? 1 : 0);
    if (rest.packets != 0) {
      close_block(first.ring.block(first.position.index(rest.blocks)), kBlockBytes, kHeadroom);
    }
    return remove_copies({first.ring, first.position.index(from), blocks - from}, second.position,
                         kHeadroom);
  }
  /// Returns the numbers of the packets left in the first ring.
  std::vector<std::uint32_t> left() {
    std::vector<std::uint32_t> numbers;
    for (unsigned i = 0; i < blocks; ++i) {
      REQUIRE(first.position.open());
      for (; first.position.cursor().has_packet(); first.position.cursor().next()) {
        std::uint32_t number = 0;
        std::memcpy(&number, first.position.cursor().packet().bytes(), sizeof(number));
        numbers.push_back(number);
      }
      REQUIRE_FALSE(first.position.cursor().corrupt());
      first.position.close();
    }
    return numbers;
  }
  unsigned blocks = 0;
};

using Numbers = std::vector<std::uint32_t>;

}  // namespace

TEST_CASE("copies: what only the first ring has stays") {
  Pair p;
  for (std::uint32_t i = 0; i < 100; ++i) REQUIRE(p.first.add(packet(i, i)));
  SECTION("with nothing in the second") { CHECK(p.remove() == 0); }
  SECTION("with other packets in the second") {
    for (std::uint32_t i = 100; i < 150; ++i) REQUIRE(p.second.add(packet(i, i)));
    CHECK(p.remove() == 0);
  }
  CHECK(p.left().size() == 100);
}

TEST_CASE("copies: what both rings have is removed from the first") {
  Pair p;
  std::uint64_t ns = 0;
  Numbers due;
  const std::uint32_t only = GENERATE(0u, 1u, 40u);
  for (std::uint32_t i = 0; i < only; ++i) {
    REQUIRE(p.first.add(packet(i, ns++)));
    due.push_back(i);
  }
  for (std::uint32_t i = only; i < 200; ++i) p.both(packet(i, ns++, 60 + i));
  for (std::uint32_t i = 200; i < 300; ++i) REQUIRE(p.second.add(packet(i, ns++)));
  CHECK(p.remove() == 200 - only);
  CHECK(p.left() == due);
  // The second ring is as it was.
  p.second.position.clear_end();
  p.second.kernel.expire(kStartNs);
  std::size_t count = 0;
  while (p.second.position.open()) {
    count += p.second.position.cursor().left();
    p.second.position.close();
  }
  CHECK(count == 300 - only);
}

TEST_CASE("copies: a block all of whose packets are removed is empty, wherever it lies") {
  Pair p;
  std::uint64_t ns = 0;
  // Of three blocks, the first, the middle or the last has copies.
  const unsigned copied = GENERATE(0u, 1u, 2u);
  std::uint32_t number = 0;
  Numbers due;
  for (unsigned block = 0; block < 3; ++block) {
    for (; p.first.position.handed_over() == block; ++number) {
      const TestPacket next = packet(number, ns++, 500);
      REQUIRE(p.first.add(next));
      // (A packet that does not fit any more is in the next block.)
      const unsigned in = p.first.position.handed_over();
      if (in == copied) {
        REQUIRE(p.second.add(next));
      } else {
        due.push_back(number);
      }
    }
  }
  CHECK(p.remove() == number - due.size());
  CHECK(p.first.ring.block(copied)->hdr.bh1.num_pkts == 0);
  CHECK(p.left() == due);
}

TEST_CASE("copies: packets in between stay, at a block's start, in its midst and at its end") {
  Pair p;
  std::uint64_t ns = 0;
  Numbers due;
  const unsigned divisor = GENERATE(2u, 3u, 7u);
  const unsigned rest = GENERATE(0u, 1u);
  for (std::uint32_t i = 0; i < 300; ++i) {
    const TestPacket next = packet(i, ns++, 60 + i % 11 * 20);
    REQUIRE(p.first.add(next));
    if (i % divisor == rest) {
      due.push_back(i);
    } else {
      REQUIRE(p.second.add(next));
    }
  }
  CHECK(p.remove() == 300 - due.size());
  CHECK(p.left() == due);
}

TEST_CASE("copies: packets of several CPUs are found in whatever order the rings have them") {
  std::mt19937 random(GENERATE(range(0u, 20u)));
  Pair p(64);
  // Each packet is late by up to 50 places, in each ring by another number.
  std::vector<std::pair<std::uint32_t, std::uint32_t>> orders[2];
  for (std::uint32_t i = 0; i < 800; ++i) {
    for (auto& order : orders) order.emplace_back(i + random() % 50, i);
  }
  Numbers due;
  for (auto& order : orders) std::sort(order.begin(), order.end());
  for (const auto& [place, i] : orders[0]) {
    REQUIRE(p.first.add(packet(i, i * 10, 60 + i % 100)));
    if (i < 100 || i % 97 == 0) due.push_back(i);
  }
  for (const auto& [place, i] : orders[1]) {
    if (i >= 100 && i % 97 != 0) REQUIRE(p.second.add(packet(i, i * 10, 60 + i % 100)));
  }
  CHECK(p.remove() == 800 - due.size());
  CHECK(p.left() == due);
}

TEST_CASE("copies: of packets that are all alike, as many are removed as the second ring has") {
  Pair p;
  for (unsigned i = 0; i < 20; ++i) REQUIRE(p.first.add(packet(7, 5)));
  for (unsigned i = 0; i < 12; ++i) REQUIRE(p.second.add(packet(7, 5)));
  CHECK(p.remove() == 12);
  CHECK(p.left().size() == 8);
}

TEST_CASE(
    "copies: what each socket has stamped is removed as well, the second ring's stamp first") {
  const auto waiting = [](std::uint32_t number, std::uint64_t ns) {
    TestPacket unstamped = packet(number, ns);
    unstamped.status = 0;
    return unstamped;
  };
  Pair pair;
  REQUIRE(pair.first.add(waiting(1, 10)));     // before the second socket was bound
  for (const std::uint64_t ns : {20u, 30u}) {  // alike
    REQUIRE(pair.second.add(waiting(1, ns)));
    REQUIRE(pair.first.add(waiting(1, ns + 5)));
  }
  pair.both(packet(2, 40));
  REQUIRE(pair.second.add(waiting(3, 50)));  // after the first was bound to nothing
  REQUIRE(pair.first.add(packet(3, 55)));    // another one
  CHECK(pair.remove() == 3);
  CHECK(pair.left() == std::vector<std::uint32_t>{1, 3});
}

TEST_CASE("copies: a packet that differs in anything is none") {
  const TestPacket one = packet(1, 5);
  TestPacket other = one;
  SECTION("seconds") { ++other.sec; }
  SECTION("nanoseconds") { ++other.nsec; }
  SECTION("length") { other.wire_length = 61; }
  SECTION("bytes that were stored") {
    other.wire_length = 60;
    other.bytes.resize(59);
  }
  SECTION("the last byte") { ++other.bytes[59]; }
  SECTION("the tag") { other.tci = 5; }
  SECTION("direction") { other.from.sll_pkttype = PACKET_OUTGOING; }
  SECTION("interface") { other.from.sll_ifindex = 9; }
  Pair p;
  REQUIRE(p.first.add(one));
  REQUIRE(p.second.add(other));
  CHECK(p.remove() == 0);
  CHECK(p.left() == Numbers{1});
}

TEST_CASE("copies: blocks before those that are given are left alone") {
  Pair p;
  std::uint64_t ns = 0;
  std::uint32_t i = 0;
  for (; p.first.position.handed_over() < 3; ++i) p.both(packet(i, ns++, 400));
  const std::uint32_t in_first = p.first.position.header(0).num_pkts;
  CHECK(p.remove(1) == i - in_first);
  CHECK(p.left().size() == in_first);
}

TEST_CASE("copies: blocks lie around the ring's end") {
  Pair p(4);
  std::uint64_t ns = 0;
  std::uint32_t i = 0;
  for (; p.first.position.handed_over() < 3; ++i) REQUIRE(p.first.add(packet(i, ns++, 400)));
  for (unsigned n = 0; n < 3; ++n) {
    REQUIRE(p.first.position.open());
    p.first.position.close();
  }
  const std::uint32_t begun = i - 1;  // it is in the block that is filled
  for (unsigned n = 0; n < 20; ++n, ++i) p.both(packet(i, ns++, 400));
  REQUIRE(p.first.position.handed_over() >= 2);
  CHECK(p.remove() == 20);
  CHECK(p.left() == Numbers{begun});
}

TEST_CASE("copies: packets behind a corrupt one stay, and so does its block's length") {
  Pair p;
  for (std::uint32_t i = 0; i < 10; ++i) {
    p.both(packet(i, i));
    if (i == 5) p.first.kernel.last_packet().tp_snaplen = 1 << 20;
  }
  CHECK(p.remove() == 5);
  REQUIRE(p.first.position.open());
  CHECK(p.first.position.cursor().corrupt());
  CHECK(p.first.position.cursor().left() == 5);
}

TEST_CASE("copies: a block that was being filled is closed as the kernel closes it") {
  TestRing ring(4);
  for (std::uint32_t i = 0; i < 3; ++i) REQUIRE(ring.add(packet(i, i * 100)));
  REQUIRE_FALSE(ring.position.open());
  close_block(ring.ring.block(0), kBlockBytes, kHeadroom);
  CHECK(ring.ring.block(0)->hdr.bh1.ts_last_pkt.ts_nsec == 200);
  REQUIRE(ring.position.open());
  CHECK(ring.position.cursor().left() == 3);
}

}  // namespace pcapv3::test
