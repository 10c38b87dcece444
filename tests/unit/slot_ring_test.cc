// SPDX-License-Identifier: BSD-3-Clause
// A ring of TPACKET_V2 slots, filled as the kernel does it (kernel_ring.h): what becomes of the
// packets in them, and when the kernel gets the slots back.
#include "pcap-linux-v3/adaptive/slot_ring.h"

#include <sys/mman.h>

#include <cstring>
#include <vector>

#include "catch.h"
#include "test_block.h"

namespace pcapv3::test {
namespace {

constexpr std::uint32_t kFrameBytes = 2048;
constexpr std::uint32_t kHeadroom = 24;
constexpr std::uint32_t kMac = KernelFrames::kMac;

constexpr std::uint8_t kAlike = 9;

class TestFrames {
 public:
  explicit TestFrames(std::uint32_t count) : kernel_(count, kFrameBytes) {
    REQUIRE(ring_.adopt(kernel_.map(), count, kFrameBytes));
  }

  SlotRing& ring() { return ring_; }
  tpacket2_hdr& header(unsigned index) { return kernel_.slot(index); }
  /// Returns how many slots the kernel could fill.
  unsigned room() {
    unsigned room = 0;
    for (unsigned i = 0; i < kernel_.count(); ++i) {
      room += header(i).tp_status == TP_STATUS_KERNEL ? 1 : 0;
    }
    return room;
  }
  bool is_open() const { return kernel_.has_room(); }

  /// Receives the next packet, stamped `nsec`. Returns false if it is passed on.
  bool fill(std::uint32_t nsec, std::uint32_t bytes = 60, std::uint32_t status = 0) {
    if (!kernel_.has_room()) return false;
    sockaddr_ll from{};
    from.sll_ifindex = 7;
    // Where the kernel gives a ring a packet that it has no room for, the packet is lost.
    REQUIRE(kernel_.receive({.bytes = counting(bytes, static_cast<std::uint8_t>(nsec)),
                             .wire_length = bytes + 1,
                             .nsec = nsec,
                             .status = status,
                             .tci = 5,
                             .tpid = 0x88a8,
                             .from = from}));
    return true;
  }

  /// Receives one that no packet's bytes tell from others like it.
  bool fill_alike(std::uint32_t nsec) {
    if (!fill(nsec)) return false;
    auto* bytes = reinterpret_cast<std::uint8_t*>(&header(ring_.came() - 1));
    std::memcpy(bytes + kMac, counting(60, kAlike).data(), 60);
    return true;
  }

  /// Reads everything that was taken in; returns the stamps.
  std::vector<std::uint32_t> read() {
    std::vector<std::uint32_t> stamps;
    while (ring_.position().open()) {
      PacketCursor& cursor = ring_.position().cursor();
      for (; cursor.has_packet(); cursor.next()) {
        stamps.push_back(cursor.packet().header().tp_nsec);
      }
      REQUIRE_FALSE(cursor.corrupt());
      ring_.position().close();
    }
    return stamps;
  }

 private:
  KernelFrames kernel_;
  SlotRing ring_{kHeadroom};
};

}  // namespace

TEST_CASE("at first no packet gets a slot") {
  TestFrames frames(8);
  CHECK_FALSE(frames.is_open());
  CHECK_FALSE(frames.ring().used());
  CHECK(frames.ring().take() == 0);
  frames.ring().open_gate();
  CHECK(frames.room() == 8);
}

TEST_CASE("a frame becomes a packet in a block, and the kernel's again at once") {
  TestFrames frames(8);
  frames.ring().open_gate();
  REQUIRE(frames.fill(9, 100, TP_STATUS_VLAN_VALID | TP_STATUS_VLAN_TPID_VALID));
  CHECK(frames.ring().has_packets());
  CHECK(frames.ring().take() == 1);
  CHECK(frames.room() == 8);
  REQUIRE(frames.ring().position().open());
  const PacketView packet = frames.ring().position().cursor().packet();
  const tpacket3_hdr& h = packet.header();
  CHECK(packet.stamp() == (Stamp{1} << 32 | 9));
  CHECK(h.tp_snaplen == 100);
  CHECK(h.tp_len == 101);
  CHECK(h.hv1.tp_vlan_tci == 5);
  CHECK(h.hv1.tp_vlan_tpid == 0x88a8);
  CHECK((h.tp_status & TP_STATUS_VLAN_VALID) != 0);
  CHECK(packet.address().sll_ifindex == 7);
  CHECK(h.tp_mac >= kPacketHeaderBytes + kHeadroom);
  CHECK(std::memcmp(packet.bytes(), counting(100, 9).data(), 100) == 0);
  CHECK(frames.ring().has_packets());
  CHECK(frames.read() == std::vector<std::uint32_t>{9});
  CHECK_FALSE(frames.ring().has_packets());
}

TEST_CASE("frames come in order, round and round") {
  TestFrames frames(12);
  frames.ring().open_gate();
  std::uint32_t sent = 0;
  std::uint32_t got = 0;
  for (unsigned round = 0; round < 50; ++round) {
    for (unsigned i = 0; i < round % 13; ++i) sent += frames.fill(sent) ? 1 : 0;
    frames.ring().take();
    for (const std::uint32_t stamp : frames.read()) CHECK(stamp == got++);
  }
  CHECK(sent == got);
  CHECK(sent > 100);
}

TEST_CASE("when the gate is closed, a few packets more get slots, and each is taken once") {
  for (const unsigned count : {4u, 8u, 40u, 400u}) {
    CAPTURE(count);
    TestFrames frames(count);
    std::uint32_t sent = 0;
    std::uint32_t got = 0;
    const auto take = [&] {
      while (frames.ring().take() != 0) {
        for (const std::uint32_t stamp : frames.read()) CHECK(stamp == got++);
      }
    };
    // Wherever the kernel is in the ring, and however much of it is not read yet.
    for (unsigned round = 0; round < 3 * count; ++round) {
      frames.ring().open_gate();
      REQUIRE(frames.room() == count);
      for (unsigned i = 0; i < round % count; ++i) REQUIRE(frames.fill(sent++));
      if (round % 3 == 0) take();
      frames.ring().close_gate();
      if (round % 2 == 0) take();
      unsigned more = 0;
      for (; frames.fill(sent); ++more) ++sent;
      take();
      for (; frames.fill(sent); ++more) ++sent;
      CHECK(more <= 64);
      take();
      REQUIRE_FALSE(frames.is_open());
      CHECK_FALSE(frames.ring().has_packets());
      CHECK(got == sent);
    }
  }
}

TEST_CASE("a gate that is opened a little lets so many packets in") {
  for (const unsigned count : {8u, 64u, 80u, 400u}) {
    CAPTURE(count);
    TestFrames frames(count);
    // It can be tried again from anywhere.
    for (unsigned round = 0; round < count; ++round) {
      const unsigned most = frames.ring().open_gate_a_little();
      CHECK(most <= 64);
      unsigned came = 0;
      while (came < count && frames.fill(came)) ++came;
      CHECK(came == most);
      frames.ring().drop_all();
      REQUIRE_FALSE(frames.is_open());
      if (round % 2 == 0) continue;
      frames.ring().open_gate();
      REQUIRE(frames.fill(1));
      CHECK(frames.ring().take() == 1);
      CHECK(frames.read().size() == 1);
      frames.ring().drop_all();
    }
  }
}

TEST_CASE("no more blocks are made than a merge can hold, and the rest is announced") {
  TestFrames frames(8);
  frames.ring().open_gate();
  for (std::uint32_t i = 0; i < 4; ++i) {
    REQUIRE(frames.fill(10 + i));
    CHECK(frames.ring().take() == (i < 2 ? 1 : 0));
  }
  RingPosition& position = frames.ring().position();
  CHECK(position.has(1));
  CHECK_FALSE(position.has(2));
  const tpacket_hdr_v1& next = position.header(2);
  CHECK(next.seq_num == position.header(1).seq_num + 1);
  CHECK(next.num_pkts != 0);
  CHECK(frames.read() == std::vector<std::uint32_t>{10, 11});
  CHECK(frames.ring().take() == 2);
  CHECK(position.header(1).num_pkts == 0);
  CHECK(frames.read() == std::vector<std::uint32_t>{12, 13});
}

TEST_CASE("a block that is full leaves the rest for the next") {
  constexpr unsigned kCount = 256;
  TestFrames frames(kCount);
  frames.ring().open_gate();
  for (std::uint32_t i = 0; i < kCount; ++i) REQUIRE(frames.fill(i, kFrameBytes - kMac));
  const unsigned first = frames.ring().take();
  CHECK(first < kCount);
  CHECK(first > kCount / 4);
  CHECK(frames.ring().position().header(1).num_pkts != 0);
  unsigned taken = first;
  std::vector<std::uint32_t> stamps = frames.read();
  while (const unsigned more = frames.ring().take()) {
    taken += more;
    for (const std::uint32_t stamp : frames.read()) stamps.push_back(stamp);
  }
  CHECK(taken == kCount);
  REQUIRE(stamps.size() == kCount);
  for (std::uint32_t i = 0; i < kCount; ++i) CHECK(stamps[i] == i);
}

TEST_CASE("a frame whose bytes are not in it is corrupt, not read") {
  struct {
    std::uint16_t mac;
    std::uint32_t bytes;
  } const spoilt[] = {{0, 60},          {51, 60},           {kFrameBytes - 59, 60},
                      {0xffff, 60},     {kMac, 0xffffffff}, {kMac, kFrameBytes - kMac + 1},
                      {kFrameBytes, 1}, {kMac, 0x80000000}};
  for (const auto& [mac, bytes] : spoilt) {
    CAPTURE(mac, bytes);
    TestFrames frames(4);
    frames.ring().open_gate();
    REQUIRE(frames.fill(0));
    REQUIRE(frames.fill(1));
    frames.header(1).tp_mac = mac;
    frames.header(1).tp_snaplen = bytes;
    CHECK(frames.ring().take() == 2);
    REQUIRE(frames.ring().position().open());
    PacketCursor& cursor = frames.ring().position().cursor();
    REQUIRE(cursor.has_packet());
    cursor.next();
    CHECK(cursor.corrupt());
    CHECK(frames.room() == 4);
  }
}

namespace {

constexpr Stamp at(std::uint32_t nsec) { return Stamp{1} << 32 | nsec; }

/// Stamps, each of a packet as TestFrames::fill() makes it, in a ring of blocks: the kernel is
/// filling the last one.
class TestCopies {
 public:
  explicit TestCopies(const std::vector<std::vector<std::uint32_t>>& blocks, std::uint8_t alike = 0)
      : ring_(mmap(nullptr, geometry_.ring_bytes(), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
              geometry_) {
    for (unsigned i = 0; i < blocks.size(); ++i) {
      TestBlock block(geometry_.block_bytes, kHeadroom);
      block.header().seq_num = i + 1;
      if (i + 1 == blocks.size()) block.header().block_status = TP_STATUS_KERNEL;
      for (const std::uint32_t nsec : blocks[i]) {
        sockaddr_ll from{};
        from.sll_ifindex = 7;
        REQUIRE(block.add(
            {.bytes = counting(60, alike != 0 ? alike : static_cast<std::uint8_t>(nsec / 10 * 10)),
             .wire_length = 61,
             .nsec = nsec,
             .tci = 5,
             .from = from}));
      }
      std::memcpy(static_cast<void*>(ring_.block(i)), block.desc(), geometry_.block_bytes);
    }
    position_.set_headroom(kHeadroom);
  }
  const RingPosition& position() const { return position_; }

 private:
  Geometry geometry_{4096, 4, 10};
  Ring ring_;
  RingPosition position_{ring_};
};

}  // namespace

TEST_CASE("frames that the blocks have a copy of are dropped") {
  TestFrames frames(8);
  frames.ring().open_gate_a_little();
  for (const std::uint32_t nsec : {20u, 30u, 40u, 50u, 60u}) REQUIRE(frames.fill(nsec));
  // Copies may be out of order, and behind what is still to come.
  const TestCopies copies({{10, 21}, {42, 31}, {70}});
  CHECK(frames.ring().came() == 5);
  CHECK(frames.ring().drop_copies(copies.position(), 0, 0) == 3);
  CHECK(frames.ring().take() == 2);
  CHECK(frames.read() == std::vector<std::uint32_t>{50, 60});
  CHECK(frames.room() == 8);
  CHECK_FALSE(frames.ring().has_packets());
}

TEST_CASE("a copy can be in the block that the kernel is filling, and in none before a place") {
  for (const unsigned ahead : {0u, 1u}) {
    TestFrames frames(8);
    frames.ring().open_gate_a_little();
    for (const std::uint32_t nsec : {20u, 30u}) REQUIRE(frames.fill(nsec));
    const TestCopies copies(std::vector<std::vector<std::uint32_t>>{{21}, {31}});
    CHECK(frames.ring().drop_copies(copies.position(), ahead, 0) == 2 - ahead);
    CHECK(frames.ring().take() == ahead);
    CHECK(frames.read().size() == ahead);
  }
}

TEST_CASE("frames that are all alike lose as many as there are copies") {
  TestFrames frames(8);
  frames.ring().open_gate_a_little();
  for (const std::uint32_t nsec : {20u, 30u, 40u, 50u, 60u, 70u}) REQUIRE(frames.fill_alike(nsec));
  // One packet comes from before, three are copies, and two found too few free slots.
  const TestCopies copies({{11, 21, 31}, {41, 75, 85}}, kAlike);
  CHECK(frames.ring().drop_copies(copies.position(), 0, 0) == 3);
  CHECK(frames.ring().take() == 3);
  CHECK(frames.read() == std::vector<std::uint32_t>{50, 60, 70});
}

TEST_CASE("a copy that was long under way is one, though frames are all alike") {
  TestFrames frames(8);
  frames.ring().open_gate_a_little();
  for (const std::uint32_t nsec : {20u, 30u}) REQUIRE(frames.fill_alike(nsec));
  const TestCopies copies({{21, 900'000'000}}, kAlike);
  CHECK(frames.ring().drop_copies(copies.position(), 0, at(30)) == 2);
  CHECK(frames.ring().take() == 0);
}

TEST_CASE("frames that are all alike and ran full before the rings were joined are all copies") {
  TestFrames frames(8);
  frames.ring().open_gate_a_little();
  for (std::uint32_t nsec = 20; nsec < 100; nsec += 10) REQUIRE(frames.fill_alike(nsec));
  const TestCopies copies({{21, 31, 41, 51, 61, 71, 81, 91, 95}}, kAlike);
  CHECK(frames.ring().drop_copies(copies.position(), 0, at(96)) == 8);
  CHECK(frames.ring().take() == 0);
}

TEST_CASE("when all are dropped, the ring is as at first") {
  TestFrames frames(8);
  frames.ring().open_gate();
  for (std::uint32_t i = 0; i < 4; ++i) REQUIRE(frames.fill(i));
  frames.ring().drop_all();
  CHECK_FALSE(frames.is_open());
  CHECK_FALSE(frames.ring().used());
  CHECK(frames.ring().take() == 0);
  frames.ring().open_gate();
  CHECK(frames.room() == 8);
  for (std::uint32_t i = 10; i < 18; ++i) REQUIRE(frames.fill(i));
  CHECK(frames.ring().take() == 8);
  CHECK(frames.read() == std::vector<std::uint32_t>{10, 11, 12, 13, 14, 15, 16, 17});
}

}  // namespace pcapv3::test
