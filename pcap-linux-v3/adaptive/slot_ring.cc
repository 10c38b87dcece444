// SPDX-License-Identifier: BSD-3-Clause
#include "adaptive/slot_ring.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "block.h"
#include "confinement.h"

namespace pcapv3 {
namespace {

constexpr std::uint32_t kPageBytes = 4096;
constexpr std::uint32_t kPageBlockBytes = 1 << 20;
/// A gate that is opened a little lets this many packets in, if there are more slots.
constexpr unsigned kALittle = 64;
/// A gate is set this many slots ahead of those in use, if there are that many.
constexpr unsigned kAhead = 64;
constexpr std::uint32_t kStagedBlockBytes = 1 << 18;
/// The kernel puts the address behind a slot's header, here; and the packet comes after both.
constexpr std::uint32_t kFrameAddress = TPACKET_ALIGN(sizeof(tpacket2_hdr));
constexpr std::uint32_t kFrameHeaderBytes = kFrameAddress + sizeof(sockaddr_ll);
/// Any status but TP_STATUS_KERNEL keeps the kernel out; this one does not look like TP_STATUS_USER
/// either.
constexpr std::uint32_t kMarked = TP_STATUS_LOSING;
/// Marks a slot that must not be read. The kernel does not use this bit.
constexpr std::uint32_t kDropped = 1u << 16;

std::uint32_t& status_of(std::byte* frame) {
  return reinterpret_cast<tpacket2_hdr*>(frame)->tp_status;
}

/// Changes the status of a slot, unless the kernel has changed it. (The kernel overwrites a mark in
/// a slot that it was filling already.)
void change(std::byte* frame, std::uint32_t from, std::uint32_t to) {
  (void)__atomic_compare_exchange_n(&status_of(frame), &from, to, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_RELAXED);
}

std::uint32_t round_up(std::uint32_t bytes, std::uint32_t to) { return (bytes + to - 1) / to * to; }

}  // namespace

void* SlotRing::operator new(std::size_t bytes) noexcept { return std::malloc(bytes); }
void SlotRing::operator delete(void* memory) { std::free(memory); }

SlotRing::~SlotRing() {
  background_.finish();
  unmake();
}

void SlotRing::create(int socket, std::uint64_t largest_packet, std::uint64_t bytes) {
  socket_ = socket;
  largest_packet_ = largest_packet;
  wanted_bytes_ = bytes;
  background_.start(
      [](void* of) -> void* {
        auto* ring = static_cast<SlotRing*>(of);
        ring->error_ = ring->make() ? 0 : errno;
        return nullptr;
      },
      this);
}

bool SlotRing::wait_until_made() {
  background_.finish();
  errno = error_;
  return error_ == 0;
}

void SlotRing::close() {
  if (!is_process_unconfined()) return unmake();
  background_.start(
      [](void* of) -> void* {
        static_cast<SlotRing*>(of)->unmake();
        return nullptr;
      },
      this);
}

void SlotRing::unmake() {
  if (base_ != nullptr) munmap(base_, mapped_bytes_);
  if (socket_ >= 0) ::close(socket_);
  base_ = nullptr;
  socket_ = -1;
}

bool SlotRing::make() {
  const int version = TPACKET_V2;
  if (setsockopt(socket_, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) != 0) return false;
  // A link-layer header takes at most 16 bytes and its alignment (af_packet.c: tpacket_rcv).
  constexpr std::uint32_t kHeaders = TPACKET_ALIGN(kFrameHeaderBytes + 16) + 16;
  const auto frame = static_cast<std::uint32_t>(TPACKET_ALIGN(kHeaders + largest_packet_));
  // The number of blocks is a multiple of four, so that the number of slots is one (adopt()).
  const auto block = std::max(std::bit_ceil(std::max(frame, kPageBytes)),
                              static_cast<std::uint32_t>(std::bit_floor(std::clamp<std::uint64_t>(
                                  wanted_bytes_ / Gate::kMarks, 1, kPageBlockBytes))));
  const std::uint32_t in_block = block / frame;
  const auto blocks = static_cast<std::uint32_t>(
      std::max<std::uint64_t>(wanted_bytes_ / block / Gate::kMarks, 1) * Gate::kMarks);
  const tpacket_req request = {block, blocks, frame, blocks * in_block};
  if (setsockopt(socket_, SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)) != 0) return false;
  const std::size_t mapped = std::size_t{block} * blocks;
  void* frames = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, socket_, 0);
  if (frames == MAP_FAILED) return false;
  page_block_bytes_ = block;
  frames_a_page_block_ = in_block;
  mapped_bytes_ = mapped;
  return adopt(frames, blocks * in_block, frame);
}

bool SlotRing::adopt(void* frames, std::uint32_t count, std::uint32_t frame_bytes) {
  if (count == 0 || count % Gate::kMarks != 0) {
    errno = EINVAL;
    return false;
  }
  base_ = static_cast<std::byte*>(frames);
  frame_count_ = count;
  frame_bytes_ = frame_bytes;
  if (frames_a_page_block_ == 0) {
    frames_a_page_block_ = count;
    page_block_bytes_ = count * frame_bytes;
    mapped_bytes_ = std::size_t{count} * frame_bytes;
  }
  gate_ = Gate(count);
  set_gate(0);

  Geometry geometry;
  geometry.block_bytes = std::max(kStagedBlockBytes, std::bit_ceil(2 * frame_bytes));
  geometry.block_count = kBlocks;
  void* memory = mmap(nullptr, static_cast<std::size_t>(geometry.ring_bytes()),
                      PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return false;
  staged_ = Ring(memory, geometry);
  return true;
}

std::byte* SlotRing::frame(unsigned index) const {
  return base_ + std::size_t{index / frames_a_page_block_} * page_block_bytes_ +
         std::size_t{index % frames_a_page_block_} * frame_bytes_;
}

bool SlotRing::is_ours(unsigned index) const {
  return (__atomic_load_n(&status_of(frame(index)), __ATOMIC_ACQUIRE) & TP_STATUS_USER) != 0;
}

void SlotRing::set_gate(unsigned ahead) {
  gate_.set((next_ + ahead) % frame_count_,
            [this](unsigned i) { change(frame(i), TP_STATUS_KERNEL, kMarked); });
}

void SlotRing::open_gate() {
  used_ = true;
  gate_.clear(next_, [this](unsigned i) { change(frame(i), kMarked, TP_STATUS_KERNEL); });
}

unsigned SlotRing::open_gate_a_little() {
  // With few slots, a ring that is full serves as the gate. Until three quarters are full, each
  // packet gets a slot; after that, only most do (af_packet.c: fanout_flow_is_huge).
  if (frame_count_ <= kALittle) {
    open_gate();
    sure_ = frame_count_ - frame_count_ / 4;
    return frame_count_;
  }
  used_ = true;
  const unsigned before = gate_.first();
  sure_ = std::min(kALittle, gate_.limit());
  set_gate(sure_);
  gate_.clear(before, next_, [this](unsigned i) { change(frame(i), kMarked, TP_STATUS_KERNEL); });
  return sure_;
}

void SlotRing::close_gate() {
  if (gate_.is_set()) return;
  const unsigned margin = std::min(kAhead, gate_.limit());
  unsigned ahead = 0;
  do {
    while (ahead < frame_count_ && is_ours((next_ + ahead) % frame_count_)) ++ahead;
    // Marks are set at once, or not at all: no page has to be fetched for one meanwhile, for which
    // the kernel may be waiting as well.
    for (unsigned k = 0; k < Gate::kMarks; ++k) {
      (void)is_ours((next_ + ahead + margin + k * (frame_count_ / Gate::kMarks)) % frame_count_);
    }
  } while (ahead + margin / 2 < frame_count_ &&
           is_ours((next_ + ahead + margin / 2) % frame_count_));
  set_gate(ahead + margin);
}

/// Gives a slot that was read back to the kernel, or keeps it as a mark.
void SlotRing::give_back(unsigned index) {
  __atomic_store_n(&status_of(frame(index)), gate_.holds(index) ? kMarked : TP_STATUS_KERNEL,
                   __ATOMIC_RELEASE);
}

void SlotRing::set_end() { quota_ = came(); }

unsigned SlotRing::came() const {
  unsigned count = 0;
  while (count < frame_count_ && is_ours((next_ + count) % frame_count_)) ++count;
  return count;
}

unsigned SlotRing::drop_copies(const RingPosition& blocks, unsigned ahead, Stamp joined) {
  // The blocks' end comes first: what is before it came before the slots were counted.
  const RingPosition::Mark end = blocks.mark();
  const unsigned count = came();
  Stamp until = kEndOfTime;
  if (count >= sure_) until = std::max(joined, stamp(frame((next_ + sure_ - 1) % frame_count_)));
  unsigned copies = 0;
  for (; count != 0 && ahead <= end.blocks && ahead < blocks.block_count(); ++ahead) {
    const std::uint32_t most = ahead == end.blocks ? end.packets : ~0u;
    copies += drop_copies(blocks.packets(ahead), most, count, until);
  }
  return copies;
}

unsigned SlotRing::drop_copies(PacketCursor packets, std::uint32_t most, unsigned count,
                               Stamp until) {
  const Stamp oldest = stamp(frame(next_));
  unsigned copies = 0;
  for (; most != 0 && packets.has_packet(); packets.next(), --most) {
    const PacketView packet = packets.packet();
    if (packet.stamp() < oldest) continue;
    // Where slots are alike, each is stamped right before its copy, so that the newest one that is
    // older than the packet is the original, or there is none.
    std::byte* found = nullptr;
    unsigned alike = 0;
    for (unsigned i = 0; i < count; ++i) {
      std::byte* const candidate = frame((next_ + i) % frame_count_);
      if (!is_copy(candidate, packet)) continue;
      ++alike;
      const Stamp stamped = stamp(candidate);
      if (stamped <= packet.stamp() && (found == nullptr || stamped > stamp(found))) {
        found = candidate;
      }
    }
    if (found == nullptr || (status_of(found) & kDropped) != 0 ||
        (packet.stamp() > until && alike > 1)) {
      continue;
    }
    status_of(found) |= kDropped;
    ++copies;
  }
  return copies;
}

bool SlotRing::is_copy(const std::byte* frame, const PacketView& packet) const {
  const auto& h = *reinterpret_cast<const tpacket2_hdr*>(frame);
  const tpacket3_hdr& other = packet.header();
  if (h.tp_len != other.tp_len || h.tp_vlan_tci != other.hv1.tp_vlan_tci ||
      h.tp_mac > frame_bytes_ ||
      // A slot truncates what is longer (af_packet.c: tpacket_rcv).
      h.tp_snaplen != std::min(other.tp_snaplen, frame_bytes_ - h.tp_mac)) {
    return false;
  }
  const auto& from = *reinterpret_cast<const sockaddr_ll*>(frame + kFrameAddress);
  return from.sll_pkttype == packet.address().sll_pkttype &&
         from.sll_ifindex == packet.address().sll_ifindex &&
         std::memcmp(frame + h.tp_mac, packet.bytes(), h.tp_snaplen) == 0;
}

Stamp SlotRing::stamp(const std::byte* frame) const {
  const auto& h = *reinterpret_cast<const tpacket2_hdr*>(frame);
  return Stamp{h.tp_sec} << 32 | h.tp_nsec;
}

void SlotRing::drop_all() {
  open_gate();
  for (unsigned count = came(); count != 0; --count) {
    give_back(next_);
    if (++next_ == frame_count_) next_ = 0;
  }
  set_gate(0);
  used_ = false;
}

unsigned SlotRing::take() {
  // With a third block in use, a merge would take the ring for half full and deliver packets too
  // soon.
  const bool has_room = !staged_.is_ours((filling_ + 2) % kBlocks);
  const unsigned taken = has_room && has_frame() ? fill() : 0;
  tell_of_rest();
  return taken;
}

/// Makes the next block look like one that the kernel has opened, with or without a packet: a merge
/// learns from it what can still come.
void SlotRing::tell_of_rest() {
  tpacket_hdr_v1& header = staged_.block(filling_)->hdr.bh1;
  header.seq_num = sequence_ + 1;
  header.num_pkts = has_frame() ? 1 : 0;
}

unsigned SlotRing::fill() {
  tpacket_block_desc* block = staged_.block(filling_);
  const std::uint32_t room = staged_.geometry().block_bytes;
  tpacket_hdr_v1& header = block->hdr.bh1;
  std::uint32_t end = round_up(sizeof(*block), kPacketAlignment);
  header.offset_to_first_pkt = end;
  header.num_pkts = 0;
  tpacket3_hdr* last = nullptr;
  while (has_frame()) {
    std::byte* const from = frame(next_);
    std::uint32_t bytes = 0;
    std::uint8_t* at = reinterpret_cast<std::uint8_t*>(block) + end;
    if ((status_of(from) & kDropped) == 0) {
      if (!stage(from, at, room - end, bytes)) break;
      if (last != nullptr)
        last->tp_next_offset =
            static_cast<std::uint32_t>(at - reinterpret_cast<std::uint8_t*>(last));
      last = reinterpret_cast<tpacket3_hdr*>(at);
      if (header.num_pkts++ == 0) {
        header.ts_first_pkt.ts_sec = last->tp_sec;
        header.ts_first_pkt.ts_nsec = last->tp_nsec;
      }
      end += bytes;
    }
    give_back(next_);
    if (++next_ == frame_count_) next_ = 0;
    if (quota_ != kNoQuota) --quota_;
  }
  if (last == nullptr) return 0;
  last->tp_next_offset = 0;
  header.ts_last_pkt.ts_sec = last->tp_sec;
  header.ts_last_pkt.ts_nsec = last->tp_nsec;
  header.blk_len = end;
  header.seq_num = ++sequence_;
  header.block_status = TP_STATUS_USER;
  filling_ = (filling_ + 1) % kBlocks;
  return header.num_pkts;
}

/// Copies a slot to `at`, as a packet of a V3 block, and sets `bytes` to the bytes that it takes
/// there. Returns false if these are more than `room`.
bool SlotRing::stage(const std::byte* frame, std::uint8_t* at, std::uint32_t room,
                     std::uint32_t& bytes) const {
  const auto& h = *reinterpret_cast<const tpacket2_hdr*>(frame);
  const std::uint32_t mac = round_up(kPacketHeaderBytes + headroom_, kPacketAlignment);
  const std::uint32_t length = h.tp_snaplen;
  // A slot that makes no sense becomes a packet that makes none: the walk of the block reports it.
  const bool sound = h.tp_mac >= kFrameHeaderBytes && h.tp_mac <= frame_bytes_ &&
                     length <= frame_bytes_ - h.tp_mac;
  bytes = round_up(mac + (sound ? length : 0), kPacketAlignment);
  if (bytes > room) return false;
  tpacket3_hdr to{};
  to.tp_sec = h.tp_sec;
  to.tp_nsec = h.tp_nsec;
  to.tp_snaplen = length;
  to.tp_len = h.tp_len;
  to.tp_status = h.tp_status;
  to.tp_mac = static_cast<std::uint16_t>(sound ? mac : 0);
  to.hv1.tp_vlan_tci = h.tp_vlan_tci;
  to.hv1.tp_vlan_tpid = h.tp_vlan_tpid;
  std::memcpy(at, &to, sizeof(to));
  if (!sound) return true;
  std::memcpy(at + kAddressOffset, frame + kFrameAddress, sizeof(sockaddr_ll));
  std::memcpy(at + mac, frame + h.tp_mac, length);
  return true;
}

}  // namespace pcapv3
