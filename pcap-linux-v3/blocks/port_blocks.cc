// SPDX-License-Identifier: BSD-3-Clause
#include "blocks/port_blocks.h"

#include <utility>

#include "blocks/pool.h"
#include "blocks/program.h"
#include "port.h"

namespace pcapv3 {

bool PortBlocks::prepare(pcapv3_port& port) {
  if (pool_ == nullptr) pool_ = BlockPool::create(port.ring(), port.device());
  return pool_ != nullptr || port.set_error("no memory for blocks to be acquired");
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
    const tpacket_hdr_v1& header = position.header(0);
    const bool losing = (header.block_status & TP_STATUS_LOSING) != 0;
    pcap_v3_info info{};
    info.first.tv_sec = cursor.packet().header().tp_sec;
    info.first.tv_nsec = cursor.packet().header().tp_nsec;
    info.last.tv_sec = header.ts_last_pkt.ts_sec;
    info.last.tv_nsec = header.ts_last_pkt.ts_nsec;
    info.sequence = header.seq_num;
    info.packets = cursor.left();
    info.lost = losing || port.may_have_lost(header.seq_num) ? 1 : 0;
    info.port = place;
    info.ifindex = plan.ifindex > 0 ? plan.ifindex : 0;
    *block = pool_->acquire(position.index(), cursor, plan, program_, info);
    position.lend();
    port.count_block();
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

bool PortBlocks::has_outstanding() const { return pool_ != nullptr && pool_->outstanding() != 0; }

void PortBlocks::collect(Counters& counters) {
  if (pool_ != nullptr) pool_->collect(counters);
}

std::uint64_t PortBlocks::uncollected() const {
  return pool_ != nullptr ? pool_->uncollected() : 0;
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
