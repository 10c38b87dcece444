// The place in a ring: blocks in order, round and round, none before the kernel hands it over.
#include "pcap-linux-v3/source.h"

#include <sys/mman.h>

#include <cstring>

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

TEST_CASE("a source over a ring that holds nothing has no block") {
  TestRing ring(3);
  Source source(ring.ring());
  CHECK_FALSE(source.open());
  CHECK(source.index() == 0);
}

TEST_CASE("a block is the reader's until it is closed") {
  TestRing ring(3);
  Source source(ring.ring());
  ring.hand_over(0, 2, 10);
  REQUIRE(source.open());
  CHECK(source.cursor().left() == 2);
  source.cursor().next();
  REQUIRE(source.open());  // the same block, where it was left
  CHECK(source.cursor().left() == 1);
  CHECK_FALSE(ring.is_kernels(0));
  source.close();
  CHECK(ring.is_kernels(0));
  CHECK(source.index() == 1);
  CHECK_FALSE(source.open());
}

TEST_CASE("blocks are read in ring order and again from the first") {
  TestRing ring(3);
  Source source(ring.ring());
  std::uint8_t number = 0;
  for (unsigned round = 0; round < 7; ++round) {
    ring.hand_over(round % 3, 1, number);
    REQUIRE(source.open());
    CHECK(source.cursor().packet().bytes()[0] == number++);
    source.close();
  }
  CHECK(source.index() == 1);
}

TEST_CASE("a later block waits for its turn") {
  TestRing ring(3);
  Source source(ring.ring());
  ring.hand_over(1, 1, 1);
  CHECK_FALSE(source.open());
  ring.hand_over(0, 1, 0);
  REQUIRE(source.open());
  source.close();
  REQUIRE(source.open());
  CHECK(source.cursor().packet().bytes()[0] == 1);
}

TEST_CASE("a status other than the kernel's with bits beside it is a block handed over") {
  TestRing ring(2);
  Source source(ring.ring());
  ring.hand_over(0, 1, 0);
  ring.ring().block(0)->hdr.bh1.block_status = TP_STATUS_USER | TP_STATUS_BLK_TMO;
  CHECK(source.open());
}

TEST_CASE("a lent block is not read again before it is handed over anew") {
  TestRing ring(2);
  Source source(ring.ring());
  ring.hand_over(0, 1, 10, 1);
  ring.hand_over(1, 1, 20, 2);
  REQUIRE(source.open());
  source.lend();
  CHECK_FALSE(ring.is_kernels(0));
  CHECK(source.filling() == 3);
  REQUIRE(source.open());
  CHECK(source.cursor().packet().bytes()[0] == 20);
  source.close();

  // Round again, and it is still lent.
  CHECK(source.index() == 0);
  CHECK_FALSE(source.open());
  CHECK_FALSE(source.has(0));
  CHECK_FALSE(source.kernel_has_packets());
  CHECK(source.filling() == 3);

  // Given back, filled, and not handed over yet.
  ring.hand_over(0, 1, 30, 3);
  ring.ring().give_back(0);
  CHECK_FALSE(source.open());
  CHECK(source.kernel_has_packets());
  CHECK(source.filling() == 3);

  ring.hand_over(0, 1, 30, 3);
  CHECK(source.has(0));
  CHECK(source.filling() == 4);
  REQUIRE(source.open());
  CHECK(source.cursor().packet().bytes()[0] == 30);
}

TEST_CASE("a ring that can't be made leaves an error number and no ring") {
  Ring ring;
  CHECK_FALSE(ring.create(-1, Geometry{kBlockBytes, 2, 10}));
  CHECK(errno == EBADF);
  CHECK(ring.geometry().block_count == 0);
}

}  // namespace pcapv3::test
