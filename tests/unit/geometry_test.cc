// SPDX-License-Identifier: BSD-3-Clause
// The rules that give a ring its shape, one by one.
#include "pcap-linux-v3/setup/geometry.h"

#include <string>

#include "catch.h"

namespace pcapv3 {
namespace {

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kGiB = 1024 * kMiB;

/// Returns a request on a host with plenty of memory, for an ordinary interface with offloads.
RingRequest request() {
  RingRequest w;
  w.timeout_ms = 1000;
  w.free_bytes = 16 * kGiB;
  w.largest_packet = 65536 + 256;
  return w;
}

Geometry choose(const RingRequest& w) {
  Geometry g;
  ErrorText error;
  const bool ok = choose_geometry(w, g, error);
  INFO(error.c_str());
  REQUIRE(ok);
  return g;
}

std::string refusal(const RingRequest& w) {
  Geometry g;
  ErrorText error;
  CHECK_FALSE(choose_geometry(w, g, error));
  return error.c_str();
}

/// Returns how long the ring lasts at a trickle while the reader holds one block and does nothing,
/// and the kernel fills another.
std::uint64_t stall_ms(const Geometry& g) { return std::uint64_t{g.block_count - 2} * g.retire_ms; }

ByteSetting set(std::uint64_t bytes) { return {bytes, "as-typed"}; }

}  // namespace

TEST_CASE("without a request: 256 blocks of 256 KiB") {
  RingRequest w = request();
  w.tool_bytes = GENERATE(std::uint64_t{0}, kStockRingBytes);
  const Geometry g = choose(w);
  CHECK(g.block_bytes == 256 * kKiB);
  CHECK(g.block_count == 256);
  CHECK(g.retire_ms == kMaxDelayMs);
}

TEST_CASE("the default ring outlasts stock's 8 s at a trickle of packets") {
  RingRequest w = request();
  CHECK(stall_ms(choose(w)) >= 8000);
}

TEST_CASE("a ring of one of several ports lasts 4 s at a trickle of packets") {
  RingRequest w = request();
  w.max_retire_ms = 8;
  const Geometry g = choose(w);
  CHECK(g.ring_bytes() == kDefaultRingBytes);
  CHECK(g.retire_ms == 8);
  CHECK(stall_ms(g) >= 4000);
}

TEST_CASE("on a small machine the default is a 64th of the free memory") {
  RingRequest w = request();
  w.free_bytes = kGiB;
  CHECK(choose(w).ring_bytes() == 16 * kMiB);
}

TEST_CASE("the default is never less than stock's 2 MiB") {
  RingRequest w = request();
  w.free_bytes = GENERATE(std::uint64_t{0}, 16 * kMiB, 100 * kMiB);
  CHECK(choose(w).ring_bytes() == kStockRingBytes);
}

TEST_CASE("a tool's request is met to the block") {
  RingRequest w = request();
  w.tool_bytes = GENERATE(4 * kMiB, 16 * kMiB + 1, 100 * kMiB, 1 * kGiB + 12345);
  const Geometry g = choose(w);
  CHECK(g.ring_bytes() >= w.tool_bytes);
  CHECK(g.ring_bytes() < w.tool_bytes + g.block_bytes);
}

TEST_CASE("a large ring has no larger blocks") {
  RingRequest w = request();
  w.tool_bytes = kGiB;
  const Geometry g = choose(w);
  CHECK(g.block_bytes == 256 * kKiB);
  CHECK(g.block_count == 4096);
}

TEST_CASE("a tool's request is cut to half of the free memory") {
  RingRequest w = request();
  w.tool_bytes = 2 * kGiB;
  w.free_bytes = 512 * kMiB;
  CHECK(choose(w).ring_bytes() == 256 * kMiB);
}

TEST_CASE("a block holds the largest packet whole") {
  RingRequest w = request();
  w.largest_packet = GENERATE(std::uint64_t{1500}, 9000, 65536 + 256, 512 * kKiB, 512 * kKiB + 256);
  w.timeout_ms = GENERATE(1, 10, 1000);
  w.tool_bytes = GENERATE(std::uint64_t{0}, std::uint64_t{1}, 256 * kKiB, 4 * kMiB);
  const Geometry g = choose(w);
  CHECK(g.block_bytes >= w.largest_packet + 48 + 96);
  CHECK(g.block_count >= 2);
  CHECK(g.block_bytes % w.page_bytes == 0);
}

TEST_CASE("whatever the timeout, the ring rides out a stall of 250 ms") {
  RingRequest w = request();
  w.timeout_ms = GENERATE(-1, 0, 1, 2, 5, 10, 50, 100, 249, 250, 1000, 10000);
  w.tool_bytes = GENERATE(std::uint64_t{0}, std::uint64_t{1}, 256 * kKiB, 1 * kMiB, 100 * kMiB);
  w.largest_packet = GENERATE(std::uint64_t{1500}, 65536 + 256, 512 * kKiB + 256);
  w.free_bytes = GENERATE(std::uint64_t{0}, 256 * kMiB, 16 * kGiB);
  w.immediate = GENERATE(false, true);
  const Geometry g = choose(w);
  if (w.immediate && w.tool_bytes != 0 && w.tool_bytes < kStockRingBytes) {
    // Most of what is asked for goes to slots then.
    CHECK(g.ring_bytes() <= std::max<std::uint64_t>(w.tool_bytes, 4 * g.block_bytes));
    CHECK(g.block_count >= 2);
  } else {
    CHECK(stall_ms(g) >= kStallMs);
  }
}

TEST_CASE("immediate mode has the shortest retire timeout and many small blocks") {
  RingRequest w = request();
  w.immediate = true;
  const Geometry g = choose(w);
  CHECK(g.retire_ms == 1);
  CHECK(g.ring_bytes() == kDefaultRingBytes);
  CHECK(g.block_bytes == 256 * kKiB);
}

TEST_CASE("where blocks must be huge, immediate mode's timeout gives way and not the memory") {
  RingRequest w = request();
  w.immediate = true;
  w.largest_packet = 512 * kKiB + 256;
  const Geometry g = choose(w);
  CHECK(g.ring_bytes() <= kDefaultRingBytes);
  CHECK(g.retire_ms > 1);
  CHECK(g.retire_ms <= 5);
}

TEST_CASE("the tool's timeout is the retire timeout, up to a quarter of a second") {
  RingRequest w = request();
  w.timeout_ms = GENERATE(1, 10, 249, 250);
  CHECK(choose(w).retire_ms == static_cast<std::uint32_t>(w.timeout_ms));
  w.timeout_ms = GENERATE(-1, 0, 251, 10000);
  CHECK(choose(w).retire_ms == kMaxDelayMs);
}

TEST_CASE("PCAPV3_RETIRE goes before the tool's timeout and before immediate mode") {
  RingRequest w = request();
  w.set_retire_ms = 20;
  CHECK(choose(w).retire_ms == 20);
  w.immediate = true;
  CHECK(choose(w).retire_ms == 20);
}

TEST_CASE("PCAPV3_BUFFER goes before the tool's request, to the letter") {
  RingRequest w = request();
  w.tool_bytes = 100 * kMiB;
  w.set_bytes = set(8 * kMiB);
  w.timeout_ms = GENERATE(1, 1000);
  CHECK(choose(w).ring_bytes() == 8 * kMiB);
}

TEST_CASE("PCAPV3_BUFFER can ask for more than 4 GiB") {
  RingRequest w = request();
  w.set_bytes = set(6 * kGiB);
  CHECK(choose(w).ring_bytes() == 6 * kGiB);
}

TEST_CASE("PCAPV3_BUFFER beyond half of the free memory is refused") {
  RingRequest w = request();
  w.set_bytes = set(9 * kGiB);
  CHECK(refusal(w).rfind("PCAPV3_BUFFER=as-typed: ", 0) == 0);
}

TEST_CASE("PCAPV3_BLOCK sets the block") {
  RingRequest w = request();
  w.set_block = set(256 * kKiB);
  const Geometry g = choose(w);
  CHECK(g.block_bytes == 256 * kKiB);
  CHECK(g.ring_bytes() == kDefaultRingBytes);
}

TEST_CASE("PCAPV3_BLOCK of which the ring has no room for enough is refused") {
  RingRequest w = request();
  w.set_block = set(kGiB);
  CHECK(refusal(w).rfind("PCAPV3_BLOCK=as-typed: ", 0) == 0);
  w.set_bytes = set(4 * kGiB);
  CHECK(choose(w).block_count == 4);
}

TEST_CASE("PCAPV3_BLOCK that is no page's multiple, too small or too large is refused") {
  RingRequest w = request();
  w.set_block = set(GENERATE(std::uint64_t{1000}, 4096, 64 * kKiB, 128 * kKiB + 1, 2 * kGiB));
  CHECK(refusal(w).rfind("PCAPV3_BLOCK=as-typed: ", 0) == 0);
}

TEST_CASE("a private area makes blocks larger where they would not hold the largest packet") {
  RingRequest w = request();
  w.private_bytes = GENERATE(std::uint64_t{0}, 1, 8, 1000, 65000, 65535);
  w.largest_packet = GENERATE(std::uint64_t{1500}, 65536 + 256, 512 * kKiB + 256);
  w.timeout_ms = GENERATE(1, 1000);
  w.tool_bytes = GENERATE(std::uint64_t{0}, std::uint64_t{1}, 4 * kMiB);
  const Geometry g = choose(w);
  CHECK(g.private_bytes == w.private_bytes);
  // The summands are BLK_PLUS_PRIV, and what comes in front of a packet's bytes.
  CHECK(g.block_bytes >= 48 + (w.private_bytes + 7) / 8 * 8 + w.largest_packet + 96 + 32);
  CHECK(stall_ms(g) >= kStallMs);
}

TEST_CASE("a private area costs no memory where blocks have the room") {
  RingRequest w = request();
  const Geometry without = choose(w);
  w.private_bytes = kMaxPrivateBytes;
  const Geometry with = choose(w);
  CHECK(with.block_bytes == without.block_bytes);
  CHECK(with.block_count == without.block_count);
}

TEST_CASE("a private area beyond the kernel's 16 bits is refused") {
  RingRequest w = request();
  w.private_bytes = kMaxPrivateBytes;
  CHECK(choose(w).private_bytes == 65535);
  w.private_bytes =
      GENERATE(std::uint64_t{65536}, 65537, std::uint64_t{1} << 32, ~std::uint64_t{0});
  CHECK(refusal(w) == "a private area of " + std::to_string(w.private_bytes) +
                          " bytes in each block is too large: 65535 are possible");
  w.set_block = set(1024 * kKiB);
  CHECK(refusal(w).find("too large") != std::string::npos);
}

TEST_CASE("a private area in a block of a set size has what the largest packet leaves") {
  RingRequest w = request();
  w.set_block = set(GENERATE(128 * kKiB, 132 * kKiB));
  w.largest_packet = 100'001;
  const std::uint64_t room = (w.set_block.bytes - 48 - 128 - w.largest_packet) / 8 * 8;
  w.private_bytes = room - GENERATE(0u, 1u, 7u, 8u);
  const Geometry g = choose(w);
  CHECK(g.block_bytes == w.set_block.bytes);
  CHECK(g.private_bytes == w.private_bytes);
  w.private_bytes = room + GENERATE(1u, 1000u);
  CHECK(refusal(w) == "a private area of " + std::to_string(w.private_bytes) +
                          " bytes leaves no room for the largest packet in a block of "
                          "PCAPV3_BLOCK=as-typed: " +
                          std::to_string(room) + " would fit");
}

// A ring that starts small and grows.

namespace {

RingRequest small_request() {
  RingRequest w = request();
  w.grows = w.starts_small = true;
  return w;
}

/// Returns how long stock's ring lasts at a trickle: blocks of 256 KiB (pcap-linux.c: create_ring),
/// each for the timeout; without one, a block is kept until it is full. Up to 8 s of this count.
std::uint64_t stock_stall_ms(const RingRequest& w) {
  const std::uint64_t bytes = w.tool_bytes != 0 ? w.tool_bytes : 2 * kMiB;
  const std::uint64_t blocks = std::max<std::uint64_t>(bytes / (256 * kKiB), 1);
  const std::uint64_t timeout = w.timeout_ms > 0 ? static_cast<unsigned>(w.timeout_ms) : 8000;
  return std::min<std::uint64_t>(blocks * timeout, 8000);
}

}  // namespace

TEST_CASE("small: without a request, 33 blocks of 128 KiB, of which 32 last 8 s") {
  RingRequest w = small_request();
  w.tool_bytes = GENERATE(std::uint64_t{0}, kStockRingBytes);
  w.timeout_ms = GENERATE(0, 1000, 10000);
  const Geometry g = choose(w);
  CHECK(g.block_bytes == 128 * kKiB);
  CHECK(g.block_count == 33);
  CHECK(g.retire_ms == 250);
}

TEST_CASE("small: a ring holds what stock's does, in time and in bytes") {
  RingRequest w = small_request();
  w.timeout_ms = GENERATE(1, 10, 100, 1000, 10000, 0, -1);
  w.tool_bytes = GENERATE(std::uint64_t{0}, 64 * kKiB, 128 * kKiB, 256 * kKiB, 1 * kMiB, 2 * kMiB,
                          3 * kMiB, 4 * kMiB, 8 * kMiB, 32 * kMiB);
  w.largest_packet = GENERATE(std::uint64_t{1500}, 65536 + 256);
  CAPTURE(w.timeout_ms, w.tool_bytes, w.largest_packet);
  const Geometry g = choose(w);
  CHECK(std::uint64_t{g.block_count - 1} * g.retire_ms >= stock_stall_ms(w));
  CHECK(g.ring_bytes() >= std::max(w.tool_bytes, std::uint64_t{1}));
  CHECK(g.retire_ms <= kMaxDelayMs);
  if (w.timeout_ms > 0) CHECK(g.retire_ms <= static_cast<unsigned>(w.timeout_ms));
  CHECK(g.block_count >= 4);
  CHECK(g.block_bytes >= w.largest_packet + 176);
  // Time that has to be held costs blocks, and nothing else costs memory.
  const std::uint64_t for_time = (stock_stall_ms(w) + g.retire_ms - 1) / g.retire_ms + 1;
  const std::uint64_t asked =
      w.tool_bytes == 0 || w.tool_bytes == kStockRingBytes ? kSmallRingBytes : w.tool_bytes;
  CHECK(g.ring_bytes() <
        std::max(asked, std::max<std::uint64_t>(for_time, 4) * g.block_bytes) + g.block_bytes);
}

TEST_CASE("small: the requests of programs, as they were before") {
  struct Row {
    std::uint64_t tool_bytes;
    int timeout_ms;
    std::uint32_t block_count;
    std::uint32_t retire_ms;
  };
  const Row row = GENERATE(Row{0, 1, 32, 1}, Row{0, 10, 32, 10}, Row{0, 100, 32, 100},
                           Row{64 * kKiB, 1000, 5, 250}, Row{128 * kKiB, 10, 4, 10},
                           Row{128 * kKiB, 10000, 33, 250}, Row{256 * kKiB, 0, 33, 250},
                           Row{4 * kMiB, 1000, 33, 250}, Row{4 * kMiB, 10, 32, 10});
  RingRequest w = small_request();
  w.tool_bytes = row.tool_bytes;
  w.timeout_ms = row.timeout_ms;
  CAPTURE(row.tool_bytes, row.timeout_ms);
  const Geometry g = choose(w);
  CHECK(g.block_bytes == 128 * kKiB);
  CHECK(g.block_count == row.block_count);
  CHECK(g.retire_ms == row.retire_ms);
}

TEST_CASE("small: with BIG TCP, blocks hold its packets, and the ring what stock's does") {
  RingRequest w = small_request();
  w.largest_packet = GENERATE(128 * kKiB, 512 * kKiB + 256);
  w.timeout_ms = GENERATE(1, 10, 1000, 0);
  CAPTURE(w.largest_packet, w.timeout_ms);
  const Geometry g = choose(w);
  CHECK(g.block_bytes >= w.largest_packet + 176);
  CHECK(g.block_count >= 4);
  CHECK(std::uint64_t{g.block_count} * g.retire_ms >= stock_stall_ms(w));
  CHECK(g.ring_bytes() <= 33 * kMiB);
}

TEST_CASE("small: a small host's ring is not larger than its share") {
  RingRequest w = small_request();
  w.free_bytes = GENERATE(std::uint64_t{0}, 64 * kMiB, 128 * kMiB);
  w.timeout_ms = GENERATE(10, 1000);
  const Geometry g = choose(w);
  CHECK(g.ring_bytes() <= std::max(kStockRingBytes, w.free_bytes / 32));
  CHECK(g.block_count >= 4);
  // What the default size can't hold in time is what the retire timeout is lengthened for.
  CHECK(stall_ms(g) >= (w.timeout_ms == 10 ? 80u : 250u));
  CHECK(max_ring_bytes(w) == kStockRingBytes);
}

TEST_CASE("small: PCAPV3_RETIRE and a private area are followed") {
  RingRequest w = small_request();
  w.set_retire_ms = 20;
  Geometry g = choose(w);
  CHECK(g.retire_ms == 20);
  CHECK(g.block_count * 20 >= 8000);
  w = small_request();
  w.private_bytes = 65535;
  g = choose(w);
  CHECK(g.block_bytes == 256 * kKiB);
  CHECK(g.block_count * g.retire_ms >= 8000);
}

TEST_CASE("small: a ring grows to the default size, or to what the program asks for") {
  RingRequest w = small_request();
  CHECK(max_ring_bytes(w) == kDefaultRingBytes);
  w.tool_bytes = kStockRingBytes;
  CHECK(max_ring_bytes(w) == kDefaultRingBytes);
  w.tool_bytes = GENERATE(4 * kMiB, 32 * kMiB);
  CHECK(max_ring_bytes(w) == kDefaultRingBytes);
  w.tool_bytes = 100 * kMiB;
  CHECK(max_ring_bytes(w) == 100 * kMiB);
  w.tool_bytes = GENERATE(64 * kKiB, 1 * kMiB, 2 * kMiB - 1);
  CHECK(max_ring_bytes(w) == 0);
  w.set_bytes = set(8 * kMiB);
  CHECK(max_ring_bytes(w) == 8 * kMiB);
}

TEST_CASE("small: a ring that has grown has the retire timeout it had, and more of everything") {
  RingRequest w = small_request();
  w.timeout_ms = GENERATE(1, 10, 100, 1000, 0);
  const Geometry before = choose(w);
  w.tool_bytes = GENERATE(16 * kMiB, 64 * kMiB);
  w.starts_small = false;
  const Geometry g = choose(w);
  CAPTURE(w.timeout_ms, w.tool_bytes);
  CHECK(g.retire_ms == before.retire_ms);
  CHECK(g.ring_bytes() >= w.tool_bytes);
  CHECK(g.ring_bytes() <= kDefaultRingBytes);
  CHECK(g.block_count >= before.block_count);
  CHECK(stall_ms(g) >= kStallMs);
}

}  // namespace pcapv3
