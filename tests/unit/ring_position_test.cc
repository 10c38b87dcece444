// SPDX-License-Identifier: BSD-3-Clause
// The ring position: blocks in order, round and round, none before the kernel hands it over.
#include "pcap-linux-v3/ring_position.h"

#include <sys/mman.h>

#include <cstring>
#include <vector>

#include "catch.h"
#include "test_block.h"

namespace pcapv3::test {
namespace {

constexpr std::uint32_t kBlockBytes = 4096;
constexpr std::uint32_t kHeadroom = 4;

/// A ring in memory, whose blocks the test fills in the kernel's place.
class TestRing {
 public:
  explicit TestRing(std::uint32_t blocks)
      : geometry_{kBlockBytes, blocks, 10},
        ring_(mmap(nullptr, geometry_.ring_bytes(), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
              geometry_) {}

  /// Hands over block `index` with `packets` packets whose first bytes count from `first`.
  void hand_over(unsigned index, unsigned packets, std::uint8_t first, std::uint64_t number = 1) {
    TestBlock block(kBlockBytes, kHeadroom);
    block.header().seq_num = number;
    for (unsigned i = 0; i < packets; ++i) {
      REQUIRE(block.add({.bytes = counting(60, static_cast<std::uint8_t>(first + i))}));
    }
    std::memcpy(static_cast<void*>(ring_.block(index)), block.desc(), kBlockBytes);
  }
  bool is_kernels(unsigned index) {
    return ring_.block(index)->hdr.bh1.block_status == TP_STATUS_KERNEL;
  }
  Ring& ring() { return ring_; }

 private:
  Geometry geometry_;
  Ring ring_;
};

}  // namespace

TEST_CASE("a position over a ring that holds nothing has no block") {
  TestRing ring(3);
  RingPosition position(ring.ring());
  CHECK_FALSE(position.open());
  CHECK(position.index() == 0);
}

TEST_CASE("a block is the reader's until it is closed") {
  TestRing ring(3);
  RingPosition position(ring.ring());
  ring.hand_over(0, 2, 10);
  REQUIRE(position.open());
  CHECK(position.cursor().left() == 2);
  position.cursor().next();
  REQUIRE(position.open());  // the same block, where it was left
  CHECK(position.cursor().left() == 1);
  CHECK_FALSE(ring.is_kernels(0));
  position.close();
  CHECK(ring.is_kernels(0));
  CHECK(position.index() == 1);
  CHECK_FALSE(position.open());
}

TEST_CASE("blocks are read in ring order and again from the first") {
  TestRing ring(3);
  RingPosition position(ring.ring());
  std::uint8_t number = 0;
  for (unsigned round = 0; round < 7; ++round) {
    ring.hand_over(round % 3, 1, number);
    REQUIRE(position.open());
    CHECK(position.cursor().packet().bytes()[0] == number++);
    position.close();
  }
  CHECK(position.index() == 1);
}

TEST_CASE("a later block waits for its turn") {
  TestRing ring(3);
  RingPosition position(ring.ring());
  ring.hand_over(1, 1, 1);
  CHECK_FALSE(position.open());
  ring.hand_over(0, 1, 0);
  REQUIRE(position.open());
  position.close();
  REQUIRE(position.open());
  CHECK(position.cursor().packet().bytes()[0] == 1);
}

TEST_CASE("a status other than the kernel's with bits beside it is a block handed over") {
  TestRing ring(2);
  RingPosition position(ring.ring());
  ring.hand_over(0, 1, 0);
  ring.ring().block(0)->hdr.bh1.block_status = TP_STATUS_USER | TP_STATUS_BLK_TMO;
  CHECK(position.open());
}

TEST_CASE("a lent block is not read again before it is handed over anew") {
  TestRing ring(2);
  RingPosition position(ring.ring());
  ring.hand_over(0, 1, 10, 1);
  ring.hand_over(1, 1, 20, 2);
  REQUIRE(position.open());
  position.lend();
  CHECK_FALSE(ring.is_kernels(0));
  CHECK(position.filling() == 3);
  REQUIRE(position.open());
  CHECK(position.cursor().packet().bytes()[0] == 20);
  position.close();

  // The position has come round again, and the block is still outstanding.
  CHECK(position.index() == 0);
  CHECK_FALSE(position.open());
  CHECK_FALSE(position.has(0));
  CHECK_FALSE(position.kernel_has_packets());
  CHECK(position.filling() == 3);

  // The block is released and filled, but not yet handed over.
  ring.hand_over(0, 1, 30, 3);
  ring.ring().give_back(0);
  CHECK_FALSE(position.open());
  CHECK(position.kernel_has_packets());
  CHECK(position.filling() == 3);

  ring.hand_over(0, 1, 30, 3);
  CHECK(position.has(0));
  CHECK(position.filling() == 4);
  REQUIRE(position.open());
  CHECK(position.cursor().packet().bytes()[0] == 30);
}

// The kernel's block, read in place.

namespace {

/// The rings in which the test plays the kernel: block 0 is handed over, block 1 is being filled.
struct Filling {
  TestRing ring{4};
  RingPosition position{ring.ring()};

  Filling() {
    position.set_headroom(kHeadroom);
    ring.hand_over(0, 2, 0, 1);
    fill(3);
  }
  /// Gives block 1, which is the kernel's, `packets` packets.
  void fill(unsigned packets) {
    ring.hand_over(1, packets, 2, 2);
    ring.ring().give_back(1);
  }
  /// Reads what there is and returns the packets' first bytes.
  std::vector<int> read() {
    std::vector<int> read;
    while (position.open()) {
      for (; position.cursor().has_packet(); position.cursor().next()) {
        read.push_back(position.cursor().packet().bytes()[0]);
      }
      if (!position.close() && !position.has(0)) break;
    }
    return read;
  }
};
using Numbers = std::vector<int>;

}  // namespace

TEST_CASE("a mark counts the blocks that are there and the packets in the kernel's") {
  Filling f;
  const RingPosition::Mark mark = f.position.mark();
  CHECK(mark.blocks == 1);
  CHECK(mark.packets == 3);
  CHECK(f.position.is_final(mark));
  f.fill(5);
  CHECK(f.position.is_final(mark));
  // The count was an old one, of a block that was just being opened.
  f.ring.ring().block(1)->hdr.bh1.num_pkts = 2;
  CHECK_FALSE(f.position.is_final(mark));
  f.fill(5);
  f.ring.ring().block(1)->hdr.bh1.ts_first_pkt.ts_nsec += 1;
  CHECK_FALSE(f.position.is_final(mark));
}

TEST_CASE("a block that the kernel has not opened anew counts for nothing") {
  Filling f;
  f.ring.ring().block(1)->hdr.bh1.seq_num = 1;
  CHECK(f.position.mark().packets == 0);
}

TEST_CASE("up to its end the kernel's block is read, not given back, and gone on with") {
  Filling f;
  f.position.set_end(f.position.mark());
  f.fill(5);  // more has come since
  CHECK(f.read() == Numbers{0, 1, 2, 3, 4});
  CHECK(f.position.at_end());
  CHECK(f.position.ends_before(0));
  CHECK(f.ring.is_kernels(0));
  CHECK(f.position.index() == 1);
  f.position.clear_end();
  CHECK_FALSE(f.position.has(0));
  CHECK(f.position.kernel_has_packets());
  SECTION("by another drain") {
    f.position.set_end(f.position.mark());
    CHECK(f.read() == Numbers{5, 6});
    f.position.clear_end();
    CHECK_FALSE(f.position.kernel_has_packets());
    f.ring.hand_over(1, 6, 2, 2);
    CHECK(f.read() == Numbers{7});
  }
  SECTION("when it is handed over") {
    f.ring.hand_over(1, 6, 2, 2);
    CHECK(f.read() == Numbers{5, 6, 7});
  }
  SECTION("when it is handed over with nothing more") {
    f.ring.hand_over(1, 3, 2, 2);
    CHECK(f.read() == Numbers{});
    CHECK(f.position.index() == 2);
  }
  CHECK(f.position.begun(0) == 0);
}

TEST_CASE("what a drain has left comes when the block is handed over") {
  Filling f;
  f.position.set_end(f.position.mark());
  REQUIRE(f.position.open());
  f.position.close();
  REQUIRE(f.position.open());
  f.position.cursor().next();
  f.position.clear_end();
  CHECK_FALSE(f.position.is_open());
  CHECK_FALSE(f.position.open());
  f.ring.hand_over(1, 4, 2, 2);
  CHECK(f.read() == Numbers{3, 4, 5});
}

TEST_CASE("what was lost in the kernel's block is not lost again when that is handed over") {
  KernelRing kernel(Geometry{kBlockBytes, 4, 10}, kHeadroom, 0);
  Ring ring(kernel.map(), kernel.geometry());
  RingPosition position(ring);
  position.set_headroom(kHeadroom);
  kernel.receive({.bytes = counting(60)}, 0);
  kernel.receive({.bytes = counting(60)}, 0);
  kernel.last_packet().tp_snaplen = 1 << 20;
  kernel.receive({.bytes = counting(60)}, 0);
  position.set_end(position.mark());
  REQUIRE(position.open());
  position.cursor().next();
  CHECK(position.cursor().corrupt());
  CHECK(position.cursor().left() == 2);
  position.close();
  position.clear_end();
  SECTION("with another packet") {
    kernel.receive({.bytes = counting(60)}, 0);
    kernel.expire(0);
    REQUIRE(position.open());
    CHECK(position.cursor().corrupt());
    CHECK(position.cursor().left() == 1);
  }
  SECTION("with nothing more") {
    kernel.expire(0);
    REQUIRE(position.open());
    CHECK(position.cursor().done());
    CHECK_FALSE(position.cursor().corrupt());
  }
}

TEST_CASE("a ring that can't be made leaves an error number and no ring") {
  Ring ring;
  CHECK_FALSE(ring.create(-1, Geometry{kBlockBytes, 2, 10}));
  CHECK(errno == EBADF);
  CHECK(ring.geometry().block_count == 0);
}

TEST_CASE("a block that is kept, to make the socket readable, is not one to read") {
  TestRing ring(4);
  RingPosition position(ring.ring());
  for (unsigned i = 0; i < 3; ++i) ring.hand_over(i, 1, 0, i + 1);
  ring.ring().block(3)->hdr.bh1.seq_num = 4;  // the kernel is filling it
  for (unsigned i = 0; i < 3; ++i) {
    REQUIRE(position.open());
    position.close();
  }
  CHECK(ring.ring().keep_one() == 2);
  CHECK_FALSE(ring.is_kernels(2));
  CHECK_FALSE(ring.ring().is_ours(2));
  CHECK(ring.ring().keep_one() == -1);  // the socket is readable already
  ring.hand_over(3, 1, 0, 4);
  ring.hand_over(0, 1, 0, 5);
  ring.hand_over(1, 1, 0, 6);
  for (unsigned i = 0; i < 3; ++i) {
    REQUIRE(position.open());
    position.close();
  }
  CHECK_FALSE(position.open());
  ring.ring().let_go(2);
  CHECK(ring.is_kernels(2));
  // It does not touch a block that the kernel has handed over meanwhile.
  ring.hand_over(2, 1, 0, 7);
  ring.ring().let_go(2);
  CHECK(position.open());
}

}  // namespace pcapv3::test
