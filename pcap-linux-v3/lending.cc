#include "lending.h"

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace pcapv3 {

// ---- Filters ----

Program* Program::copy(const bpf_insn* code, unsigned count) {
  // The memory is malloc's, so that the library needs nothing of a C++ run-time library.
  void* memory = std::malloc(sizeof(Program) + count * sizeof(bpf_insn));
  if (memory == nullptr) return nullptr;
  auto* program = new (memory) Program;
  std::memcpy(program->code_, code, count * sizeof(bpf_insn));
  return program;
}

void Program::let_go() {
  if (holders_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  this->~Program();
  std::free(this);
}

// ---- Lending ----

Lender* Lender::create(const Ring& ring, const char* device) {
  void* memory = std::malloc(sizeof(Lender));
  if (memory == nullptr) return nullptr;
  auto* lender = new (memory) Lender;
  const unsigned count = ring.geometry().block_count;
  lender->blocks_ = static_cast<pcap_v3_block*>(std::calloc(count, sizeof(pcap_v3_block)));
  if (lender->blocks_ == nullptr) {
    lender->let_go();
    return nullptr;
  }
  for (; lender->count_ < count; ++lender->count_) {
    new (&lender->blocks_[lender->count_]) pcap_v3_block;
  }
  lender->ring_ = &ring;
  lender->private_bytes_ = ring.geometry().private_bytes;
  std::snprintf(lender->device_, sizeof(lender->device_), "%s", device);
  return lender;
}

Lender::~Lender() {
  for (unsigned i = 0; i < count_; ++i) blocks_[i].~pcap_v3_block();
  std::free(blocks_);
}

pcap_v3_block* Lender::lend(unsigned index, const PacketCursor& cursor, const Plan& plan,
                            Program* program, const pcap_v3_info& info) {
  const unsigned out = holders_.fetch_add(1, std::memory_order_relaxed);
  if (out > most_out_) most_out_ = out;
  uncollected_ += info.packets;
  pcap_v3_block& block = blocks_[index];
  block.lender_ = this;
  block.block_ = ring_->block(index);
  block.cursor_ = TellingCursor(cursor);
  block.counters_ = Counters();
  block.delivery_.follow(plan);
  block.program_ = program;
  if (program != nullptr) program->hold();
  block.info_ = info;
  block.info_.interface = device_;
  block.got_ = nullptr;
  return &block;
}

void Lender::take_back(pcap_v3_block& block) {
  const Counters& c = block.counters_;
  delivered_.fetch_add(c.delivered, std::memory_order_relaxed);
  filtered_.fetch_add(c.filtered, std::memory_order_relaxed);
  other_way_.fetch_add(c.other_way, std::memory_order_relaxed);
  corrupt_.fetch_add(c.corrupt, std::memory_order_relaxed);
  unwalked_.fetch_add(block.cursor_.left(), std::memory_order_relaxed);
  if (block.program_ != nullptr) block.program_->let_go();
  // From here on the block can be lent anew. The ring is there: its port's, or kept for this one.
  Ring::give_back(*block.block_);
  let_go();
}

void Lender::collect(Counters& counters) {
  const auto take = [this](std::atomic<std::uint64_t>& from, std::uint64_t& to) {
    const std::uint64_t packets = from.exchange(0, std::memory_order_relaxed);
    to += packets;
    uncollected_ -= packets;
  };
  take(delivered_, counters.delivered);
  take(filtered_, counters.filtered);
  take(other_way_, counters.other_way);
  take(corrupt_, counters.corrupt);
  take(unwalked_, counters.unwalked);
  counters.out = out();
  counters.most_out = most_out_;
}

void Lender::close(Ring&& ring) {
  kept_ = std::move(ring);
  ring_ = nullptr;
  let_go();
}

void Lender::let_go() {
  if (holders_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  this->~Lender();
  std::free(this);
}

}  // namespace pcapv3

// ---- Blocks ----

const volatile std::sig_atomic_t pcap_v3_block::never_ = 0;

int pcap_v3_block::dispatch(int count, pcap_handler callback, u_char* user) {
  got_ = nullptr;
  const int most = count <= 0 ? INT_MAX : count;
  int delivered = 0;
  // More than once if the callback has itself read on.
  for (int more = -1; more != 0 && delivered < most; delivered += more) {
    more = delivery_.run(cursor_, most - delivered, callback, user);
  }
  return cursor_.corrupt() ? drop_rest() : delivered;
}

int pcap_v3_block::next(const pcap_pkthdr** header, const u_char** bytes) {
  if (delivery_.run(cursor_, 1, keep, reinterpret_cast<u_char*>(this)) == 0) {
    return cursor_.corrupt() ? drop_rest() : 0;
  }
  *header = &header_;
  *bytes = bytes_;
  return 1;
}

void pcap_v3_block::keep(u_char* user, const pcap_pkthdr* header, const u_char* bytes) {
  auto* block = reinterpret_cast<pcap_v3_block*>(user);
  block->header_ = *header;
  block->bytes_ = bytes;
  block->got_ = block->cursor_.walked();
}

/// What is next does not fit into the block.
int pcap_v3_block::drop_rest() {
  counters_.corrupt += cursor_.left();
  cursor_ = pcapv3::TellingCursor();
  return PCAP_ERROR;
}

void* pcap_v3_block::private_area() {
  return pcapv3::private_area(block_, lender_->private_bytes());
}

void pcap_v3_block::give_back() { lender_->take_back(*this); }

// ---- What programs call ----

const pcap_v3_info* pcap_v3_block_info(const pcap_v3_block_t* block) { return &block->info(); }

int pcap_v3_dispatch_block(pcap_v3_block_t* block, int cnt, pcap_handler callback, u_char* user) {
  return block->dispatch(cnt, callback, user);
}

int pcap_v3_next_packet(pcap_v3_block_t* block, const pcap_pkthdr** header, const u_char** bytes) {
  return block->next(header, bytes);
}

void* pcap_v3_block_private(pcap_v3_block_t* block) { return block->private_area(); }

void pcap_v3_release_block(pcap_v3_block_t* block) { block->give_back(); }

uint32_t pcap_v3_packet_hash(const pcap_v3_block_t* block) {
  const tpacket3_hdr* header = block->current();
  return header != nullptr ? header->hv1.tp_rxhash : 0;
}

int pcap_v3_packet_ifindex(const pcap_v3_block_t* block) {
  const auto* packet = reinterpret_cast<const std::uint8_t*>(block->current());
  if (packet == nullptr) return 0;
  return reinterpret_cast<const sockaddr_ll*>(packet + pcapv3::kAddressOffset)->sll_ifindex;
}
