// SPDX-License-Identifier: BSD-3-Clause
// The pool of a ring's blocks: they are walked by a plan of their own, counted, released to the
// kernel, and exist for as long as one is outstanding.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "catch.h"
#include "pcap-linux-v3/blocks/pool.h"
#include "test_block.h"

namespace pcapv3::test {
namespace {

constexpr std::uint32_t kBlockBytes = 4096;
constexpr std::uint32_t kHeadroom = kFrameHeadroom;
constexpr unsigned kBlocks = 3;

/// A ring with a pool; each of its blocks has five packets.
struct PooledRing {
  explicit PooledRing(std::uint32_t private_bytes = 0) {
    const Geometry geometry{kBlockBytes, kBlocks, 10, private_bytes};
    ring = Ring(mmap(nullptr, geometry.ring_bytes(), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
                geometry);
    for (unsigned i = 0; i < kBlocks; ++i) {
      TestBlock block(kBlockBytes, kHeadroom, private_bytes);
      for (std::uint8_t n = 0; n < 5; ++n) {
        REQUIRE(block.add({.bytes = counting(60, static_cast<std::uint8_t>(10 * i + n))}));
      }
      if (i == 2) block.packet(3).tp_mac = 0xfff0;
      std::memcpy(static_cast<void*>(ring.block(i)), block.desc(), kBlockBytes);
    }
    pool = BlockPool::create(ring, "eth0");
    REQUIRE(pool != nullptr);
    plan.snapshot = 65535;
    plan.ifindex = 1;
  }

  pcap_v3_block* acquire(unsigned index, Program* program = nullptr) {
    const PacketCursor cursor(ring.block(index), kBlockBytes, kHeadroom);
    pcap_v3_info info{};
    info.packets = cursor.left();
    return pool->acquire(index, cursor, plan, program, info);
  }
  bool is_kernels(unsigned index) const {
    return ring.block(index)->hdr.bh1.block_status == TP_STATUS_KERNEL;
  }

  Ring ring;
  BlockPool* pool = nullptr;
  Plan plan;
};

void keep_first(u_char* user, const pcap_pkthdr*, const u_char* bytes) {
  reinterpret_cast<std::vector<int>*>(user)->push_back(bytes[0]);
}
std::vector<int> walk(pcap_v3_block* block, int count = -1) {
  std::vector<int> firsts;
  block->dispatch(count, keep_first, reinterpret_cast<u_char*>(&firsts));
  return firsts;
}

int has_low_bit(void* owner, const std::uint8_t* bytes, std::uint32_t, std::uint32_t, int,
                std::uint16_t) {
  return (bytes[0] & static_cast<const bpf_insn*>(owner)[0].k) != 0 ? 1 : 0;
}

}  // namespace

TEST_CASE("an acquired block is walked in parts, and the kernel's when it is released") {
  PooledRing l;
  pcap_v3_block* block = l.acquire(0);
  CHECK(std::strcmp(block->info().interface, "eth0") == 0);
  CHECK(walk(block, 2) == std::vector{0, 1});
  const pcap_pkthdr* header = nullptr;
  const u_char* bytes = nullptr;
  REQUIRE(block->next(&header, &bytes) == 1);
  CHECK(header->caplen == 60);
  CHECK(bytes[0] == 2);
  CHECK(walk(block) == std::vector{3, 4});
  CHECK(block->next(&header, &bytes) == 0);
  CHECK_FALSE(l.is_kernels(0));
  pcap_v3_release_block(block);
  CHECK(l.is_kernels(0));
  l.pool->close(std::move(l.ring));
}

TEST_CASE("what became of packets is counted when their blocks are released") {
  PooledRing l;
  pcap_v3_block* first = l.acquire(0);
  pcap_v3_block* second = l.acquire(1);
  CHECK(l.pool->outstanding() == 2);
  walk(first, 3);
  Counters c;
  l.pool->collect(c);
  CHECK(c.delivered == 0);
  CHECK(c.outstanding == 2);
  CHECK(l.pool->uncollected() == 10);
  pcap_v3_release_block(first);
  CHECK(l.pool->uncollected() == 10);
  l.pool->collect(c);
  CHECK(c.delivered == 3);
  CHECK(c.unwalked == 2);
  CHECK(c.outstanding == 1);
  CHECK(c.max_outstanding == 2);
  CHECK(l.pool->uncollected() == 5);
  pcap_v3_release_block(second);
  l.pool->close(std::move(l.ring));
}

TEST_CASE("a corrupt packet ends the walk of an acquired block") {
  PooledRing l;
  pcap_v3_block* block = l.acquire(2);
  std::vector<int> firsts;
  CHECK(block->dispatch(-1, keep_first, reinterpret_cast<u_char*>(&firsts)) == PCAP_ERROR);
  CHECK(firsts == std::vector{20, 21, 22});
  CHECK(block->dispatch(-1, keep_first, reinterpret_cast<u_char*>(&firsts)) == 0);
  pcap_v3_release_block(block);

  block = l.acquire(2);
  const pcap_pkthdr* header = nullptr;
  const u_char* bytes = nullptr;
  for (int i = 0; i < 3; ++i) CHECK(block->next(&header, &bytes) == 1);
  CHECK(block->next(&header, &bytes) == PCAP_ERROR);
  CHECK(block->next(&header, &bytes) == 0);
  pcap_v3_release_block(block);
  Counters c;
  l.pool->collect(c);
  CHECK(c.corrupt == 4);
  CHECK(c.delivered == 6);
  CHECK(l.pool->uncollected() == 0);
  l.pool->close(std::move(l.ring));
}

TEST_CASE("a block outlives its port, and the filter that it was acquired with") {
  PooledRing l;
  const bpf_insn code[] = {{0, 0, 0, 1}, {0, 0, 0, 2}};
  Program* program = Program::copy(code, 2);
  REQUIRE(program != nullptr);
  l.plan.filter.run = has_low_bit;
  l.plan.filter.owner = program->code();
  pcap_v3_block* first = l.acquire(0, program);
  pcap_v3_block* second = l.acquire(1, program);
  program->unref();
  l.pool->close(std::move(l.ring));
  CHECK(l.ring.base() == nullptr);
  CHECK(walk(first) == std::vector{1, 3});
  pcap_v3_release_block(first);
  CHECK(walk(second) == std::vector{11, 13});
  pcap_v3_release_block(second);
}

TEST_CASE("a ring without private areas has none to show") {
  PooledRing l;
  pcap_v3_block* block = l.acquire(0);
  CHECK(pcap_v3_block_private(block) == nullptr);
  pcap_v3_release_block(block);
  l.pool->close(std::move(l.ring));
}

TEST_CASE("what is written to a private area is there when its slot is acquired again") {
  constexpr std::uint32_t kBytes = 201;
  PooledRing l(kBytes);
  const auto area_of = [](pcap_v3_block* block) {
    return static_cast<std::uint8_t*>(pcap_v3_block_private(block));
  };
  pcap_v3_block* first = l.acquire(0);
  pcap_v3_block* second = l.acquire(1);
  std::uint8_t* const area = area_of(first);
  REQUIRE(area != nullptr);
  CHECK(reinterpret_cast<std::uintptr_t>(area) % 8 == 0);
  REQUIRE(area_of(second) == area + kBlockBytes);
  std::memset(area, 0xaa, kBytes);
  std::memset(area_of(second), 0xbb, kBytes);
  CHECK(walk(first) == std::vector{0, 1, 2, 3, 4});
  CHECK(walk(second) == std::vector{10, 11, 12, 13, 14});
  pcap_v3_release_block(first);
  first = l.acquire(0);
  REQUIRE(area_of(first) == area);
  CHECK(std::count(area, area + kBytes, 0xaa) == kBytes);
  // The area stays when the port is gone.
  l.pool->close(std::move(l.ring));
  std::memset(area_of(first), 0xcc, kBytes);
  CHECK(walk(first) == std::vector{0, 1, 2, 3, 4});
  CHECK(std::count(area_of(second), area_of(second) + kBytes, 0xbb) == kBytes);
  pcap_v3_release_block(first);
  pcap_v3_release_block(second);
}

}  // namespace pcapv3::test
