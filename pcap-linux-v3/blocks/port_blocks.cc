// SPDX-License-Identifier: BSD-3-Clause
#include "blocks/port_blocks.h"

#include <algorithm>
#include <utility>

#include "blocks/pool.h"
#include "blocks/program.h"
#include "port.h"

namespace pcapv3 {

/// Returns the pool of the ring that is being read.
BlockPool*& PortBlocks::pool_of(const RingPosition& position) {
  return position.has_old() ? old_ : pool_;
}

bool PortBlocks::prepare(pcapv3_port& port) {
  BlockPool*& pool = pool_of(port.position());
  if (pool == nullptr) pool = BlockPool::create(port.position().ring(), port.device());
  return pool != nullptr || port.set_error("no memory for blocks to be acquired");
}

int PortBlocks::acquire(pcapv3_port& port, unsigned place, pcap_v3_block** block) {
  RingPosition& position = port.position();
  while (position.open()) {
    const PacketCursor& cursor = position.cursor();
    if (cursor.corrupt()) {
      port.count_corrupt(cursor, position.index());
      port.release_block();
      return PCAP_ERROR;
    }
    if (cursor.done()) {  // its packets have been read to the end
      port.release_block();
      continue;
    }
    Plan plan = port.plan();
    if (!prepare(port) || !copy_filter(port, plan)) return PCAP_ERROR;
    BlockPool* const pool = pool_of(position);
    const tpacket_hdr_v1& header = position.header(0);
    const bool losing = (status_of(header) & TP_STATUS_LOSING) != 0;
    pcap_v3_info info{};
    info.first.tv_sec = cursor.packet().header().tp_sec;
    info.first.tv_nsec = cursor.packet().header().tp_nsec;
    info.sequence = position.sequence(0);
    info.packets = cursor.left();
    info.lost = losing || port.may_have_lost(info.sequence) ? 1 : 0;
    info.port = place;
    info.ifindex = plan.ifindex > 0 ? plan.ifindex : 0;
    if (position.is_part()) {
      // A drain shows what the kernel has put into the block that it is filling.
      PacketCursor last = cursor;
      for (PacketCursor at = cursor; at.has_packet(); at.next()) last = at;
      info.last.tv_sec = last.packet().header().tp_sec;
      info.last.tv_nsec = last.packet().header().tp_nsec;
      *block = pool->acquire_copy(position.ring().block(position.index()), cursor, port.headroom(),
                                  plan, program_, info);
      if (*block == nullptr) {
        port.set_error("no memory for the packets of the kernel's block");
        return PCAP_ERROR;
      }
      (void)position.close();
      max_outstanding_ = std::max(max_outstanding_, outstanding());
      return 1;
    }
    info.last.tv_sec = header.ts_last_pkt.ts_sec;
    info.last.tv_nsec = header.ts_last_pkt.ts_nsec;
    *block = pool->acquire(position.index(), cursor, plan, program_, info);
    const std::uint32_t bytes = port.used_bytes(header);
    position.lend();
    max_outstanding_ = std::max(max_outstanding_, outstanding());
    port.count_block(bytes);
    // The kernel sets this on each block until it is asked for its counts.
    if (losing) port.host().count(port.handle());
    return 1;
  }
  return 0;
}

/// Makes the plan's filter, if it has one, run a copy of the handle's program. Returns false, with
/// a text in the port's error(), if memory is short.
bool PortBlocks::copy_filter(pcapv3_port& port, Plan& plan) {
  if (plan.filter.run == nullptr) return true;
  if (program_ == nullptr) {
    unsigned count = 0;
    const bpf_insn* code = port.host().filter_code(port.handle(), &count);
    program_ = Program::copy(code, count);
    if (program_ == nullptr) return port.set_error("no memory for a block's filter");
  }
  plan.filter.run = port.host().run_filter;
  plan.filter.owner = program_->code();
  return true;
}

unsigned PortBlocks::outstanding() const {
  unsigned blocks = 0;
  for (const BlockPool* const pool : {old_, pool_}) {
    if (pool != nullptr) blocks += pool->outstanding();
  }
  return blocks;
}

bool PortBlocks::has_outstanding() const { return outstanding() != 0; }

void PortBlocks::collect(Counters& counters) {
  for (BlockPool* const pool : {old_, pool_}) {
    if (pool == nullptr) continue;
    pool->collect(counters);
    counters.outstanding = outstanding();
    counters.max_outstanding = max_outstanding_;
  }
}

std::uint64_t PortBlocks::uncollected() const {
  std::uint64_t packets = 0;
  for (const BlockPool* const pool : {old_, pool_}) {
    if (pool != nullptr) packets += pool->uncollected();
  }
  return packets;
}

void PortBlocks::ring_replaced(const Ring& old) {
  old_ = std::exchange(pool_, nullptr);
  if (old_ != nullptr) old_->keep_in(old);
}

bool PortBlocks::holds_old() const { return old_ != nullptr && old_->outstanding() != 0; }

void PortBlocks::close_old(Ring&& old) {
  BlockPool* const pool = std::exchange(old_, nullptr);
  if (pool != nullptr) pool->close(std::move(old));
}

void PortBlocks::drop_filter() {
  Program* const program = std::exchange(program_, nullptr);
  if (program != nullptr) program->unref();
}

void PortBlocks::close(Ring&& ring) {
  BlockPool* const pool = std::exchange(pool_, nullptr);
  if (pool != nullptr) pool->close(std::move(ring));
}

}  // namespace pcapv3
