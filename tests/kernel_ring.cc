// SPDX-License-Identifier: BSD-3-Clause
#include "kernel_ring.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace pcapv3::test {
namespace {

constexpr std::uint64_t kNsPerSec = 1'000'000'000;

constexpr std::uint32_t round_up(std::uint32_t value, std::uint32_t to) {
  return (value + to - 1) / to * to;
}

std::uint32_t sec_of(std::uint64_t ns) { return static_cast<std::uint32_t>(ns / kNsPerSec); }
std::uint32_t nsec_of(std::uint64_t ns) { return static_cast<std::uint32_t>(ns % kNsPerSec); }

std::uint32_t wire_length(const TestPacket& packet) {
  return packet.wire_length == 0 ? static_cast<std::uint32_t>(packet.bytes.size())
                                 : packet.wire_length;
}

/// The reader looks at the word at any time, maybe on another thread.
template <typename Word, typename Value>
void publish(Word& word, Value value) {
  __atomic_store_n(&word, static_cast<Word>(value), __ATOMIC_RELEASE);
}

}  // namespace

SharedMemory::SharedMemory(std::size_t bytes)
    : fd_(memfd_create("ring", MFD_CLOEXEC)), bytes_(bytes), base_(nullptr) {
  if (fd_ < 0 || ftruncate(fd_, static_cast<off_t>(bytes)) != 0) std::abort();
  base_ = static_cast<std::byte*>(map());
}

SharedMemory::~SharedMemory() {
  munmap(base_, bytes_);
  ::close(fd_);
}

void* SharedMemory::map() const {
  void* const memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (memory == MAP_FAILED) std::abort();
  return memory;
}

// ---- A block ----

KernelBlock::KernelBlock(tpacket_block_desc* block, std::uint32_t block_bytes,
                         std::uint32_t headroom, std::uint32_t private_bytes)
    : block_(block),
      block_bytes_(block_bytes),
      headroom_(headroom),
      private_bytes_(round_up(private_bytes, kPacketAlignment)) {}

/// Where a packet's bytes begin, on a socket of type SOCK_DGRAM (af_packet.c: tpacket_rcv).
std::uint32_t KernelBlock::mac() const {
  return round_up(kPacketHeaderBytes + 16, TPACKET_ALIGNMENT) + headroom_;
}

std::uint32_t KernelBlock::max_stored() const {
  const std::uint32_t taken =
      round_up(sizeof(tpacket_block_desc), kPacketAlignment) + private_bytes_ + mac();
  return block_bytes_ - taken - kPacketAlignment;
}

std::uint32_t KernelBlock::end_of(std::uint32_t stored) const {
  return header().blk_len + round_up(mac() + stored, kPacketAlignment);
}

void KernelBlock::open(std::uint64_t sequence, std::uint64_t now_ns) {
  tpacket_hdr_v1& h = header();
  const std::uint32_t first = round_up(sizeof(tpacket_block_desc), kPacketAlignment);
  publish(h.seq_num, sequence);
  publish(h.num_pkts, 0u);
  h.blk_len = first + private_bytes_;
  publish(h.ts_first_pkt.ts_sec, sec_of(now_ns));
  publish(h.ts_first_pkt.ts_nsec, nsec_of(now_ns));
  h.offset_to_first_pkt = first + private_bytes_;
  block_->offset_to_priv = first;
  block_->version = TPACKET_V3;
  last_ = nullptr;
}

tpacket3_hdr* KernelBlock::place(std::uint32_t stored) {
  tpacket_hdr_v1& h = header();
  if (end_of(stored) > block_bytes_) return nullptr;
  const std::uint32_t length = end_of(stored) - h.blk_len;
  last_ = reinterpret_cast<tpacket3_hdr*>(reinterpret_cast<std::uint8_t*>(block_) + h.blk_len);
  // Whoever looks at a packet that is not final sees none that makes sense.
  std::memset(static_cast<void*>(last_), 0xee, length);
  last_->tp_next_offset = length;
  h.blk_len += length;
  publish(h.num_pkts, h.num_pkts + 1);
  return last_;
}

void KernelBlock::copy(tpacket3_hdr* to, const TestPacket& packet) const {
  auto* const at = reinterpret_cast<std::uint8_t*>(to);
  tpacket3_hdr h{};
  h.tp_next_offset = to->tp_next_offset;
  h.tp_sec = packet.sec;
  h.tp_nsec = packet.nsec;
  h.tp_snaplen = static_cast<std::uint32_t>(packet.bytes.size());
  h.tp_len = wire_length(packet);
  h.tp_status = TP_STATUS_USER | packet.status;
  h.tp_mac = static_cast<std::uint16_t>(mac());
  h.tp_net = static_cast<std::uint16_t>(mac() + 14);
  h.hv1.tp_vlan_tci = packet.tci;
  h.hv1.tp_vlan_tpid = packet.tpid;
  std::memcpy(at, &h, sizeof(h));
  std::memcpy(at + kAddressOffset, &packet.from, sizeof(packet.from));
  if (!packet.bytes.empty()) std::memcpy(at + mac(), packet.bytes.data(), packet.bytes.size());
}

void KernelBlock::close(std::uint32_t status, std::uint64_t now_ns) {
  tpacket_hdr_v1& h = header();
  h.ts_last_pkt.ts_sec = last_ != nullptr ? last_->tp_sec : sec_of(now_ns);
  h.ts_last_pkt.ts_nsec = last_ != nullptr ? last_->tp_nsec : nsec_of(now_ns);
  if (last_ != nullptr) last_->tp_next_offset = 0;
  publish(h.block_status, TP_STATUS_USER | status);
}

// ---- A ring of blocks ----

KernelRing::KernelRing(const Geometry& geometry, std::uint32_t headroom, std::uint64_t now_ns)
    : geometry_(geometry),
      headroom_(headroom),
      memory_(static_cast<std::size_t>(geometry.ring_bytes())) {
  open(now_ns);
}

tpacket_block_desc* KernelRing::block(unsigned index) const {
  return reinterpret_cast<tpacket_block_desc*>(memory_.base() +
                                               std::size_t{geometry_.block_bytes} * index);
}

bool KernelRing::is_in_use() const {
  return (__atomic_load_n(&block(index_)->hdr.bh1.block_status, __ATOMIC_ACQUIRE) &
          TP_STATUS_USER) != 0;
}

bool KernelRing::is_free(unsigned ahead) const {
  const unsigned index = (index_ + ahead) % geometry_.block_count;
  return __atomic_load_n(&block(index)->hdr.bh1.block_status, __ATOMIC_ACQUIRE) == TP_STATUS_KERNEL;
}

bool KernelRing::is_readable() const { return !is_free(geometry_.block_count - 1); }

/// af_packet.c: _prb_refresh_rx_retire_blk_timer.
void KernelRing::start_timer() {
  ++timer_starts_;
  last_index_ = index_;
}

void KernelRing::open(std::uint64_t now_ns) {
  current_ = KernelBlock(block(index_), geometry_.block_bytes, headroom_, geometry_.private_bytes);
  current_.open(sequence_++, now_ns);
  frozen_ = false;
  start_timer();
}

/// af_packet.c: prb_dispatch_next_block.
bool KernelRing::dispatch(std::uint64_t now_ns) {
  if (is_in_use()) {
    frozen_ = true;
    ++counts_.freezes;
    return false;
  }
  open(now_ns);
  return true;
}

/// af_packet.c: prb_retire_current_block, which waits for packets that are being copied.
void KernelRing::retire(std::uint32_t status, std::uint64_t now_ns) {
  finish();
  if (!is_free(0)) return;
  if (counts_.drops != 0) status |= TP_STATUS_LOSING;
  current_.close(status, now_ns);
  index_ = (index_ + 1) % geometry_.block_count;
  if (ready_) ready_();
}

/// af_packet.c: __packet_lookup_frame_in_block.
tpacket3_hdr* KernelRing::place(std::uint32_t stored, std::uint64_t now_ns) {
  if (frozen_) {
    if (is_in_use()) return nullptr;
    open(now_ns);
  }
  if (current_.takes(stored)) return current_.place(stored);
  retire(0, now_ns);
  return dispatch(now_ns) ? current_.place(stored) : nullptr;
}

bool KernelRing::begin(const TestPacket& packet, std::uint64_t now_ns) {
  TestPacket stored = packet;
  if (stored.bytes.size() > current_.max_stored()) stored.bytes.resize(current_.max_stored());
  stored.wire_length = wire_length(packet);
  tpacket3_hdr* const to = place(static_cast<std::uint32_t>(stored.bytes.size()), now_ns);
  if (to == nullptr) {
    ++counts_.drops;
    return false;
  }
  ++counts_.packets;
  begun_.push_back({to, std::move(stored)});
  return true;
}

void KernelRing::finish() {
  for (const Begun& begun : begun_) current_.copy(begun.to, begun.packet);
  begun_.clear();
}

bool KernelRing::receive(const TestPacket& packet, std::uint64_t now_ns) {
  const bool stored = begin(packet, now_ns);
  finish();
  return stored;
}

void KernelRing::expire(std::uint64_t now_ns) {
  if (last_index_ == index_) {
    if (frozen_ && !is_in_use()) return open(now_ns);
    if (!frozen_ && current_.header().num_pkts != 0) {
      retire(TP_STATUS_BLK_TMO, now_ns);
      if (dispatch(now_ns)) return;
    }
  }
  start_timer();
}

KernelCounts KernelRing::take_counts() {
  KernelCounts counts = std::exchange(counts_, KernelCounts());
  counts.packets += counts.drops;
  return counts;
}

// ---- A ring of slots ----

KernelFrames::KernelFrames(std::uint32_t count, std::uint32_t slot_bytes,
                           std::uint32_t slots_a_block, std::uint32_t block_bytes)
    : count_(count),
      slot_bytes_(slot_bytes),
      slots_a_block_(slots_a_block),
      block_bytes_(block_bytes),
      memory_(std::size_t{block_bytes} * ((count + slots_a_block - 1) / slots_a_block)) {}

tpacket2_hdr& KernelFrames::slot(unsigned index) const {
  return *reinterpret_cast<tpacket2_hdr*>(memory_.base() +
                                          std::size_t{index / slots_a_block_} * block_bytes_ +
                                          std::size_t{index % slots_a_block_} * slot_bytes_);
}

bool KernelFrames::is_free(unsigned ahead) const {
  return __atomic_load_n(&slot((head_ + ahead) % count_).tp_status, __ATOMIC_ACQUIRE) ==
         TP_STATUS_KERNEL;
}

bool KernelFrames::receive(const TestPacket& packet) {
  static_assert(kMac ==
                TPACKET_ALIGN(TPACKET_ALIGN(sizeof(tpacket2_hdr)) + sizeof(sockaddr_ll)) + 16);
  if (!is_free()) {
    ++counts_.drops;
    return false;
  }
  tpacket2_hdr& h = slot(head_);
  auto* const at = reinterpret_cast<std::uint8_t*>(&h);
  const auto stored = std::min(static_cast<std::uint32_t>(packet.bytes.size()), slot_bytes_ - kMac);
  h.tp_len = wire_length(packet);
  h.tp_snaplen = stored;
  h.tp_mac = kMac;
  h.tp_net = kMac + 14;
  h.tp_sec = packet.sec;
  h.tp_nsec = packet.nsec;
  h.tp_vlan_tci = packet.tci;
  h.tp_vlan_tpid = packet.tpid;
  std::memcpy(at + TPACKET_ALIGN(sizeof(h)), &packet.from, sizeof(packet.from));
  if (stored != 0) std::memcpy(at + kMac, packet.bytes.data(), stored);
  ++counts_.packets;
  head_ = (head_ + 1) % count_;
  publish(h.tp_status, TP_STATUS_USER | packet.status);
  if (ready_) ready_();
  return true;
}

KernelCounts KernelFrames::take_counts() {
  KernelCounts counts = std::exchange(counts_, KernelCounts());
  counts.packets += counts.drops;
  return counts;
}

}  // namespace pcapv3::test
