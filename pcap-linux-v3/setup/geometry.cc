// SPDX-License-Identifier: BSD-3-Clause
#include "setup/geometry.h"

#include <algorithm>
#include <bit>

#include "block.h"

namespace pcapv3 {
namespace {

constexpr std::uint64_t kMostBlockBytes = 1024 * kMiB;
constexpr std::uint64_t kMostBlocks = 1 << 24;
/// The fewest blocks of a small ring: it must go on while one is read and one is filled.
constexpr std::uint64_t kMinBlocks = 4;

/// Returns the number of blocks that a stall of kStallMs uses up at a trickle of traffic, plus the
/// one that is being read and the one that the kernel is filling.
std::uint64_t blocks_for_stall(std::uint32_t retire_ms) {
  return (kStallMs + retire_ms - 1) / retire_ms + 2;
}

/// Returns the number of blocks that last as long as stock's ring for the same request, at a
/// trickle of traffic, besides the one that the kernel is filling.
std::uint64_t blocks_as_stock(const RingRequest& request, std::uint32_t retire_ms) {
  const std::uint64_t bytes = request.tool_bytes != 0 ? request.tool_bytes : kStockRingBytes;
  const std::uint64_t blocks = (bytes + kStockBlockBytes - 1) / kStockBlockBytes;
  const std::uint64_t timeout_ms =
      request.timeout_ms > 0 ? static_cast<std::uint64_t>(request.timeout_ms) : kStockStallMs;
  const std::uint64_t stall_ms = std::min<std::uint64_t>(blocks * timeout_ms, kStockStallMs);
  return (stall_ms + retire_ms - 1) / retire_ms + 1;
}

std::uint64_t default_bytes(const RingRequest& request) {
  return std::clamp(request.free_bytes / 64, kStockRingBytes, kDefaultRingBytes);
}

bool has_tool_bytes(const RingRequest& request) {
  return request.tool_bytes != 0 && request.tool_bytes != kStockRingBytes;
}

bool wants_little(const RingRequest& request) {
  return has_tool_bytes(request) && request.tool_bytes < kStockRingBytes;
}

std::uint64_t blocks_in(std::uint64_t bytes, std::uint64_t block) {
  return (bytes + block - 1) / block;
}

/// Returns the bytes that a block needs, besides its private area, to hold the largest packet.
std::uint64_t needed_bytes(const RingRequest& request) {
  constexpr std::uint64_t kPerPacket = 128;  // kPacketHeaderBytes, reserved room, alignment
  static_assert(kPerPacket >= kPacketHeaderBytes + 32);
  return sizeof(tpacket_block_desc) + kPerPacket + request.largest_packet;
}

/// Returns the bytes that the private area takes in a block (af_packet.c: BLK_PLUS_PRIV).
std::uint64_t private_room(const RingRequest& request) {
  return (request.private_bytes + kPacketAlignment - 1) / kPacketAlignment * kPacketAlignment;
}

/// Returns the size of the smallest block of at least `needed` bytes. It is a power of two, because
/// the kernel allocates each block as one (af_packet.c: alloc_one_pg_vec_page).
std::uint64_t smallest_block(const RingRequest& request, std::uint64_t needed) {
  return std::bit_ceil(std::max<std::uint64_t>(needed, request.page_bytes));
}

/// Returns whether a block of the size that is set holds the largest packet behind the private
/// area; if not, sets a text.
bool fits_set_block(const RingRequest& request, ErrorText& error) {
  const std::uint64_t left = request.set_block.bytes - needed_bytes(request);
  if (private_room(request) <= left) return true;
  const std::uint64_t most = left / kPacketAlignment * kPacketAlignment;
  return error.set(
      "a private area of %llu bytes leaves no room for the largest packet in a block of "
      "PCAPV3_BLOCK=%s: %llu would fit",
      static_cast<unsigned long long>(request.private_bytes), request.set_block.text,
      static_cast<unsigned long long>(most));
}

std::uint32_t choose_retire(const RingRequest& request) {
  if (request.set_retire_ms != 0) return request.set_retire_ms;
  if (request.immediate) return 1;
  std::uint32_t most = kMaxDelayMs;
  if (request.max_retire_ms != 0) most = std::min(most, request.max_retire_ms);
  if (request.timeout_ms <= 0) return most;
  return std::min(static_cast<std::uint32_t>(request.timeout_ms), most);
}

}  // namespace

std::uint64_t max_ring_bytes(const RingRequest& request) {
  if (request.set_bytes.bytes != 0) return request.set_bytes.bytes;
  // A program that asks for little wants no more.
  if (wants_little(request)) return 0;
  return std::max(default_bytes(request), request.tool_bytes);
}

bool choose_geometry(const RingRequest& request, Geometry& geometry, ErrorText& error) {
  if (request.private_bytes > kMaxPrivateBytes) {
    return error.set("a private area of %llu bytes in each block is too large: %u are possible",
                     static_cast<unsigned long long>(request.private_bytes), kMaxPrivateBytes);
  }
  const std::uint64_t needed_block = needed_bytes(request);
  const std::uint64_t most_bytes = std::max(request.free_bytes / 2, kStockRingBytes);
  const std::uint64_t full_bytes = default_bytes(request);
  std::uint32_t retire_ms = choose_retire(request);

  std::uint64_t bytes = request.starts_small ? std::min(kSmallRingBytes, full_bytes) : full_bytes;
  if (request.set_bytes.bytes != 0) {
    bytes = request.set_bytes.bytes;
    if (bytes > most_bytes) {
      return error.set(
          "PCAPV3_BUFFER=%s: half of the free memory can go to a ring, which is %lluM just now",
          request.set_bytes.text, static_cast<unsigned long long>(most_bytes / kMiB));
    }
  } else if (has_tool_bytes(request)) {
    bytes = std::min(request.tool_bytes, most_bytes);
  }

  // A ring that starts small rides out what stock's does, and more once it has grown.
  const std::uint64_t needed =
      request.starts_small ? std::max(blocks_as_stock(request, retire_ms), kMinBlocks)
      : request.immediate && wants_little(request) ? kMinBlocks
                                                   : blocks_for_stall(retire_ms);
  std::uint64_t block;
  if (request.set_block.bytes != 0) {
    block = request.set_block.bytes;
    const std::uint64_t min_block = smallest_block(request, needed_block);
    if (block % request.page_bytes != 0 || block < min_block || block > kMostBlockBytes) {
      return error.set(
          "PCAPV3_BLOCK=%s: a multiple of %u is wanted, from %lluK (so that the largest packet "
          "fits) to %lluM",
          request.set_block.text, request.page_bytes,
          static_cast<unsigned long long>(min_block / 1024),
          static_cast<unsigned long long>(kMostBlockBytes / kMiB));
    }
    if (!fits_set_block(request, error)) return false;
  } else {
    const std::uint64_t min_block = smallest_block(request, needed_block + private_room(request));
    block = std::bit_floor(std::max<std::uint64_t>(bytes / 64, 1));
    block = std::max(std::min(block, kLargestBlockBytes), min_block);
    // Several ports' blocks are closed early: the more there are, the longer a ring lasts.
    if (request.max_retire_ms != 0) block = min_block;
    while (blocks_in(bytes, block) < needed && block / 2 >= min_block) block /= 2;
  }

  std::uint64_t count = std::max<std::uint64_t>(blocks_in(bytes, block), 2);
  // Riding out a stall outranks a program's small request, up to the default size.
  if (count < needed && request.set_bytes.bytes == 0) {
    count = std::clamp(full_bytes / block, std::max<std::uint64_t>(count, 3), needed);
  }
  // Beyond that, the timeout is lengthened.
  if (count < needed && count > 2 && request.set_retire_ms == 0) {
    const auto spare = static_cast<std::uint32_t>(count - 2);
    retire_ms = std::max(retire_ms, (kStallMs + spare - 1) / spare);
  }

  const std::uint64_t room = std::max(bytes, full_bytes);
  if (request.set_block.bytes != 0 && count * block > room + block) {
    return error.set(
        "PCAPV3_BLOCK=%s: a ring of %lluM has no room for the %llu blocks it needs; "
        "PCAPV3_BUFFER can ask for more",
        request.set_block.text, static_cast<unsigned long long>(room / kMiB),
        static_cast<unsigned long long>(count));
  }
  geometry.block_bytes = static_cast<std::uint32_t>(block);
  geometry.block_count = static_cast<std::uint32_t>(std::min(count, kMostBlocks));
  geometry.retire_ms = retire_ms;
  geometry.private_bytes = static_cast<std::uint32_t>(request.private_bytes);
  return true;
}

}  // namespace pcapv3
