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

// A ring that is replaced by another one.

namespace {

/// A ring of four blocks and one of eight. Packets' first bytes count on from ring to ring.
struct Replaced {
  TestRing ring{4};
  TestRing other{8};
  RingPosition position{ring.ring()};
  std::uint8_t next = 0;

  Replaced() { position.set_headroom(kHeadroom); }
  /// Hands over block number `number`, counted from 1, of the old ring, or of the new one.
  void hand_over(TestRing& to, unsigned blocks, unsigned number, unsigned packets) {
    to.hand_over((number - 1) % blocks, packets, next, number);
    next = static_cast<std::uint8_t>(next + packets);
  }
  void old(unsigned number, unsigned packets) { hand_over(ring, 4, number, packets); }
  /// (After replace(), the memory of the second ring is in the first one's place.)
  void fresh(unsigned number, unsigned packets) { hand_over(*at_, 8, number, packets); }
  void replace(unsigned blocks) {
    position.replace(other.ring(), blocks);
    at_ = &ring;
  }
  /// Reads what there is. The sequence must go on by one from block to block.
  Numbers read() {
    Numbers read;
    while (position.open()) {
      CHECK(position.sequence(0) == ++sequence);
      for (; position.cursor().has_packet(); position.cursor().next()) {
        read.push_back(position.cursor().packet().bytes()[0]);
      }
      position.close();
    }
    return read;
  }
  std::uint64_t sequence = 0;

 private:
  TestRing* at_ = &other;
};

Numbers up_to(int count, int first = 0) {
  Numbers numbers;
  for (int i = first; i < count; ++i) numbers.push_back(i);
  return numbers;
}

}  // namespace

TEST_CASE("replace: with nothing left, the new ring is next, and the sequence goes on") {
  Replaced r;
  const unsigned before = GENERATE(0u, 1u, 3u, 4u, 7u);
  for (unsigned n = 1; n <= before; ++n) {
    r.old(n, 2);
    CHECK(r.read().size() == 2);
  }
  r.fresh(1, 3);
  r.replace(0);
  CHECK_FALSE(r.position.has_old());
  CHECK(r.position.block_count() == 8);
  CHECK(r.position.index() == 0);
  CHECK(r.position.sequence(0) == before + 1);
  CHECK(r.read().size() == 3);
  r.fresh(2, 1);
  CHECK(r.read().size() == 1);
  CHECK(r.sequence == before + 2);
}

TEST_CASE("replace: what is left in the old ring comes first, one block or all") {
  Replaced r;
  const unsigned read = GENERATE(0u, 1u, 3u, 6u);
  const unsigned left = GENERATE(1u, 2u, 4u);
  for (unsigned n = 1; n <= read; ++n) {
    r.old(n, 1);
    (void)r.read();
  }
  for (unsigned n = 1; n <= left; ++n) r.old(read + n, 2);
  r.fresh(1, 3);
  r.fresh(2, 1);
  r.replace(left);
  CHECK(r.position.has_old());
  CHECK(r.position.handed_over() == left + 2);
  CHECK(&r.position.ring() == &r.other.ring());
  CHECK(r.position.filling() == read + left + 3);
  for (unsigned ahead = 0; ahead < left + 2; ++ahead) {
    CHECK(r.position.has(ahead));
    CHECK(r.position.sequence(ahead) == read + ahead + 1);
    CHECK(r.position.index(ahead) == (ahead < left ? (read + ahead) % 4 : ahead - left));
    CHECK(r.position.begun(ahead) == 0);
  }
  CHECK_FALSE(r.position.has(left + 2));
  CHECK(r.position.kernel_has_packets());
  const int first = static_cast<int>(read);
  CHECK(r.read() == up_to(first + static_cast<int>(2 * left) + 4, first));
  CHECK_FALSE(r.position.has_old());
  CHECK(&r.position.ring() == &r.ring.ring());
  CHECK(r.position.index() == 2);
  // The old ring's blocks are nobody's any more: nothing is written to them.
  for (unsigned n = 1; n <= left; ++n) CHECK_FALSE(r.other.is_kernels((read + n - 1) % 4));
  // And round the new ring.
  for (unsigned n = 3; n < 20; ++n) {
    r.fresh(n, 1);
    CHECK(r.read().size() == 1);
  }
}

TEST_CASE("replace: a block that is open, and half read, is read on") {
  Replaced r;
  r.old(1, 4);
  r.old(2, 1);
  r.fresh(1, 2);
  REQUIRE(r.position.open());
  r.position.cursor().next();
  r.position.cursor().next();
  r.replace(2);
  CHECK(r.position.is_open());
  REQUIRE(r.position.open());
  CHECK(r.position.cursor().left() == 2);
  CHECK(r.read() == Numbers{2, 3, 4, 5, 6});
}

TEST_CASE("replace: of a block that a drain has read in part, the rest comes") {
  Replaced r;
  r.old(1, 3);
  r.ring.ring().give_back(0);
  const bool anything = GENERATE(false, true);
  r.position.set_end(r.position.mark());
  REQUIRE(r.position.open());
  while (r.position.cursor().has_packet()) r.position.cursor().next();
  CHECK_FALSE(r.position.close());
  r.position.clear_end();
  CHECK(r.position.begun(0) == 3);
  // The kernel's block as resize.cc closes it.
  r.next = 0;
  r.old(1, anything ? 5 : 3);
  r.fresh(1, 1);
  r.replace(1);
  CHECK(r.position.begun(0) == 3);
  CHECK(r.read() == (anything ? Numbers{3, 4, 5} : Numbers{3}));
  CHECK(r.position.begun(0) == 0);
}

TEST_CASE("replace: what a drain has read of a block that does not come any more is forgotten") {
  Replaced r;
  r.old(1, 3);
  r.ring.ring().give_back(0);
  r.position.set_end(r.position.mark());
  REQUIRE(r.position.open());
  while (r.position.cursor().has_packet()) r.position.cursor().next();
  CHECK_FALSE(r.position.close());
  r.position.clear_end();
  r.replace(0);
  r.fresh(1, 2);
  CHECK(r.position.begun(0) == 0);
  REQUIRE(r.position.open());
  CHECK(r.position.cursor().left() == 2);
}

TEST_CASE("replace: a mark counts both rings, and a drain ends in the new one") {
  Replaced r;
  const unsigned left = GENERATE(0u, 1u, 3u);
  for (unsigned n = 1; n <= left; ++n) r.old(n, 2);
  r.fresh(1, 1);
  r.fresh(2, 3);
  r.other.ring().give_back(1);
  r.replace(left);
  const RingPosition::Mark mark = r.position.mark();
  CHECK(mark.blocks == left + 1);
  CHECK(mark.packets == 3);
  CHECK(mark.sequence == 2);
  CHECK(r.position.is_final(mark));
  r.position.set_end(mark);
  Numbers read;
  while (r.position.open()) {
    for (; r.position.cursor().has_packet(); r.position.cursor().next()) {
      read.push_back(r.position.cursor().packet().bytes()[0]);
    }
    if (!r.position.close()) break;
  }
  CHECK(read == up_to(static_cast<int>(2 * left) + 4));
  CHECK(r.position.at_end());
  r.position.clear_end();
  r.next = static_cast<std::uint8_t>(r.next - 3);
  r.fresh(2, 4);
  r.sequence = left + 1;
  CHECK(r.read() == Numbers{static_cast<int>(2 * left) + 4});
}

TEST_CASE("replace: a mark may end in the old ring") {
  Replaced r;
  r.old(1, 2);
  r.old(2, 2);
  r.replace(2);
  const RingPosition::Mark mark = r.position.mark();
  CHECK(mark.blocks == 2);
  CHECK(mark.packets == 0);
  r.position.set_end(mark);
  r.fresh(1, 1);
  CHECK_FALSE(r.position.has(2));
  CHECK(r.read() == up_to(4));
  CHECK(r.position.at_end());
  r.position.clear_end();
  CHECK(r.read() == Numbers{4});
}

TEST_CASE("replace: lent blocks of the old ring do not count in the new one") {
  Replaced r;
  for (unsigned n = 1; n <= 3; ++n) r.old(n, 1);
  REQUIRE(r.position.open());
  r.position.lend();
  const bool later = GENERATE(false, true);
  if (!later) {
    REQUIRE(r.position.open());
    r.position.lend();
  }
  r.replace(later ? 2 : 1);
  r.fresh(1, 1);
  if (later) {
    REQUIRE(r.position.open());
    r.position.lend();
  }
  REQUIRE(r.position.open());
  r.position.lend();
  CHECK_FALSE(r.position.has_old());
  for (unsigned n = 0; n < 3; ++n) CHECK_FALSE(r.other.is_kernels(n));
  // The new ring's numbers begin anew: none of its blocks is one that was lent.
  CHECK(r.position.has(0));
  REQUIRE(r.position.open());
  CHECK(r.position.cursor().packet().bytes()[0] == 3);
  CHECK(r.position.sequence(0) == 4);
  r.position.lend();
  CHECK_FALSE(r.ring.is_kernels(0));
  CHECK_FALSE(r.position.has(0));
}

TEST_CASE("replace: twice") {
  Replaced r;
  r.old(1, 1);
  r.old(2, 1);
  r.replace(2);
  r.fresh(1, 2);
  CHECK(r.read() == up_to(4));
  TestRing third(3);
  third.hand_over(0, 2, 6, 1);
  r.fresh(2, 2);
  r.position.replace(third.ring(), 1);
  CHECK(r.position.block_count() == 3);
  CHECK(r.position.filling() == 6);
  CHECK(r.read() == up_to(8, 4));
  CHECK(r.sequence == 5);
  SECTION("restart() forgets all of it") {
    r.position.restart();
    CHECK(r.position.sequence(0) == 1);
    CHECK_FALSE(r.position.has_old());
  }
}

}  // namespace pcapv3::test
