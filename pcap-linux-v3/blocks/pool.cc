// SPDX-License-Identifier: BSD-3-Clause
#include "blocks/pool.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace pcapv3 {

BlockPool* BlockPool::create(const Ring& ring, const char* device) {
  // The memory comes from malloc, so that the library needs no C++ run-time library.
  void* memory = std::malloc(sizeof(BlockPool));
  if (memory == nullptr) return nullptr;
  auto* pool = new (memory) BlockPool;
  const unsigned count = ring.geometry().block_count;
  pool->blocks_ = static_cast<pcap_v3_block*>(std::calloc(count, sizeof(pcap_v3_block)));
  if (pool->blocks_ == nullptr) {
    pool->unref();
    return nullptr;
  }
  for (; pool->count_ < count; ++pool->count_) {
    new (&pool->blocks_[pool->count_]) pcap_v3_block;
  }
  pool->ring_ = &ring;
  std::snprintf(pool->device_, sizeof(pool->device_), "%s", device);
  return pool;
}

BlockPool::~BlockPool() {
  for (unsigned i = 0; i < count_; ++i) blocks_[i].~pcap_v3_block();
  std::free(blocks_);
}

pcap_v3_block* BlockPool::acquire(unsigned index, const PacketCursor& cursor, const Plan& plan,
                                  Program* program, const pcap_v3_info& info) {
  pcap_v3_block& block = blocks_[index];
  block.block_ = ring_->block(index);
  set_up(block, cursor, plan, program, info);
  return &block;
}

pcap_v3_block* BlockPool::acquire_copy(const tpacket_block_desc* from, const PacketCursor& cursor,
                                       std::uint32_t headroom, const Plan& plan, Program* program,
                                       const pcap_v3_info& info) {
  PacketCursor last = cursor;
  for (PacketCursor at = cursor; at.has_packet(); at.next()) last = at;
  const tpacket3_hdr& header = last.packet().header();
  const std::size_t bytes = last.offset() + header.tp_mac + header.tp_snaplen;
  const std::size_t room = (bytes + kPacketAlignment - 1) / kPacketAlignment * kPacketAlignment;
  auto* const block = static_cast<pcap_v3_block*>(std::malloc(sizeof(pcap_v3_block)));
  void* const memory = std::malloc(room);
  if (block == nullptr || memory == nullptr) {
    std::free(block);
    std::free(memory);
    return nullptr;
  }
  new (block) pcap_v3_block;
  std::memcpy(memory, from, bytes);
  block->block_ = static_cast<tpacket_block_desc*>(memory);
  block->is_copy_ = true;
  tpacket_hdr_v1& copied = block->block_->hdr.bh1;
  copied.num_pkts = cursor.left();
  copied.offset_to_first_pkt = static_cast<std::uint32_t>(cursor.offset());
  copied.blk_len = static_cast<std::uint32_t>(room);
  set_up(*block, PacketCursor(block->block_, copied.blk_len, headroom), plan, program, info);
  return block;
}

void BlockPool::set_up(pcap_v3_block& block, const PacketCursor& cursor, const Plan& plan,
                       Program* program, const pcap_v3_info& info) {
  const unsigned outstanding = references_.fetch_add(1, std::memory_order_relaxed);
  if (outstanding > max_outstanding_) max_outstanding_ = outstanding;
  uncollected_ += info.packets;
  block.pool_ = this;
  block.private_bytes_ = ring_->geometry().private_bytes;
  block.cursor_ = TellingCursor(cursor);
  block.counters_ = Counters();
  block.delivery_.follow(plan);
  block.program_ = program;
  if (program != nullptr) program->ref();
  block.info_ = info;
  block.info_.interface = device_;
  block.got_ = nullptr;
}

void BlockPool::release(pcap_v3_block& block) {
  const Counters& c = block.counters_;
  delivered_.fetch_add(c.delivered, std::memory_order_relaxed);
  filtered_.fetch_add(c.filtered, std::memory_order_relaxed);
  other_way_.fetch_add(c.other_way, std::memory_order_relaxed);
  corrupt_.fetch_add(c.corrupt, std::memory_order_relaxed);
  unwalked_.fetch_add(block.cursor_.left(), std::memory_order_relaxed);
  if (block.program_ != nullptr) block.program_->unref();
  if (block.is_copy_) {
    std::free(block.block_);
    block.~pcap_v3_block();
    std::free(&block);
  } else {
    // From here on the block can be acquired again. The ring still exists: its port has it, or it
    // was kept for this block.
    Ring::give_back(*block.block_);
  }
  unref();
}

void BlockPool::collect(Counters& counters) {
  const auto move = [this](std::atomic<std::uint64_t>& from, std::uint64_t& to) {
    const std::uint64_t packets = from.exchange(0, std::memory_order_relaxed);
    to += packets;
    uncollected_ -= packets;
  };
  move(delivered_, counters.delivered);
  move(filtered_, counters.filtered);
  move(other_way_, counters.other_way);
  move(corrupt_, counters.corrupt);
  move(unwalked_, counters.unwalked);
  counters.outstanding = outstanding();
  counters.max_outstanding = max_outstanding_;
}

void BlockPool::close(Ring&& ring) {
  kept_ = std::move(ring);
  ring_ = nullptr;
  unref();
}

void BlockPool::unref() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  this->~BlockPool();
  std::free(this);
}

}  // namespace pcapv3
