// SPDX-License-Identifier: BSD-3-Clause
// The kernel's half of a packet socket's ring, for tests and benchmarks that run without one: what
// writes packets into blocks (TPACKET_V3) or slots (TPACKET_V2), as net/packet/af_packet.c does it.
//
//   - KernelBlock writes one block.
//   - KernelRing writes a ring of them: it opens, fills, retires and freezes.
//   - KernelFrames writes a ring of V2 slots.
//
// Time is the caller's, in nanoseconds of CLOCK_REALTIME: each function that needs one is told it.
#pragma once

#include <linux/if_packet.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "pcap-linux-v3/block.h"
#include "pcap-linux-v3/setup/geometry.h"

namespace pcapv3::test {

using Bytes = std::vector<std::uint8_t>;

/// What a packet in a ring is made of.
struct TestPacket {
  Bytes bytes;
  std::uint32_t wire_length = 0;  ///< 0: as many as there are bytes.
  std::uint32_t sec = 1;
  std::uint32_t nsec = 0;
  std::uint32_t status = 0;  ///< TP_STATUS_VLAN_VALID and such.
  std::uint16_t tci = 0;
  std::uint16_t tpid = 0;
  sockaddr_ll from{};
};

/// Memory that can be mapped more than once, as a socket's ring is by the kernel and by the reader.
class SharedMemory {
 public:
  explicit SharedMemory(std::size_t bytes);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  std::byte* base() const { return base_; }
  /// Another mapping of it, which is the caller's to unmap.
  void* map() const;

 private:
  int fd_;
  std::size_t bytes_;
  std::byte* base_;
};

/// The writer of one block.
class KernelBlock {
 public:
  /// None, before anything else is called.
  KernelBlock() = default;
  /// `headroom` is what PACKET_RESERVE has promised.
  KernelBlock(tpacket_block_desc* block, std::uint32_t block_bytes, std::uint32_t headroom,
              std::uint32_t private_bytes = 0);

  /// af_packet.c: prb_open_block.
  void open(std::uint64_t sequence, std::uint64_t now_ns);
  /// Whether the kernel would put a packet of `stored` bytes there, which leaves a block's last
  /// byte free (af_packet.c: __packet_lookup_frame_in_block).
  bool takes(std::uint32_t stored) const { return end_of(stored) < block_bytes_; }
  /// Counts a packet and gives it its place (af_packet.c: prb_fill_curr_block); null if it does not
  /// fit.
  tpacket3_hdr* place(std::uint32_t stored);
  /// Writes the packet to its place (af_packet.c: tpacket_rcv).
  void copy(tpacket3_hdr* to, const TestPacket& packet) const;
  /// Hands the block over: the status is written last (af_packet.c: prb_close_block).
  void close(std::uint32_t status, std::uint64_t now_ns);

  tpacket_hdr_v1& header() const { return block_->hdr.bh1; }
  /// The packet that was placed last; null if there was none.
  tpacket3_hdr* last() const { return last_; }
  /// The most bytes that one packet can have stored.
  std::uint32_t max_stored() const;

 private:
  std::uint32_t mac() const;
  std::uint32_t end_of(std::uint32_t stored) const;

  tpacket_block_desc* block_ = nullptr;
  std::uint32_t block_bytes_ = 0;
  std::uint32_t headroom_ = 0;
  std::uint32_t private_bytes_ = 0;
  tpacket3_hdr* last_ = nullptr;
};

/// What PACKET_STATISTICS returns; the kernel's own packets are without the dropped ones.
struct KernelCounts {
  unsigned packets = 0;
  unsigned drops = 0;
  unsigned freezes = 0;
};

/// A socket's ring of blocks. Its first block is open from the start, as the kernel's is.
class KernelRing {
 public:
  KernelRing(const Geometry& geometry, std::uint32_t headroom, std::uint64_t now_ns);
  KernelRing(const KernelRing&) = delete;
  KernelRing& operator=(const KernelRing&) = delete;

  /// A mapping for the reader, as mmap(2) of the socket makes it: for class Ring, which unmaps it.
  void* map() const { return memory_.map(); }
  const Geometry& geometry() const { return geometry_; }

  /// A packet comes. Returns false if there is no room: it is dropped.
  bool receive(const TestPacket& packet, std::uint64_t now_ns);
  /// The same, on a CPU that is slow: the packet is counted, and what it holds is written by
  /// finish() only, or before the block is handed over.
  bool begin(const TestPacket& packet, std::uint64_t now_ns);
  void finish();

  /// The retire timer has expired (af_packet.c: prb_retire_rx_blk_timer_expired).
  void expire(std::uint64_t now_ns);
  /// How often that timer was started, each time for the geometry's retire_ms.
  unsigned timer_starts() const { return timer_starts_; }

  /// Whether the socket calls itself readable (af_packet.c: packet_poll).
  bool is_readable() const;
  /// Whether the block is free that comes `ahead` after the one being filled.
  bool is_free(unsigned ahead) const;
  bool is_frozen() const { return frozen_; }
  /// Calls this each time that a block has been handed over (sk_data_ready).
  void on_ready(std::function<void()> ready) { ready_ = std::move(ready); }
  /// The counts, which start again from 0, as PACKET_STATISTICS has them.
  KernelCounts take_counts();

  /// The packet that came last, to be spoilt.
  tpacket3_hdr& last_packet() { return *current_.last(); }
  tpacket_block_desc* block(unsigned index) const;

 private:
  struct Begun {
    tpacket3_hdr* to;
    TestPacket packet;
  };

  tpacket3_hdr* place(std::uint32_t stored, std::uint64_t now_ns);
  void open(std::uint64_t now_ns);
  bool dispatch(std::uint64_t now_ns);
  void retire(std::uint32_t status, std::uint64_t now_ns);
  void start_timer();
  bool is_in_use() const;

  const Geometry geometry_;
  const std::uint32_t headroom_;
  SharedMemory memory_;
  KernelBlock current_;
  unsigned index_ = 0;       // kactive_blk_num
  unsigned last_index_ = 0;  // last_kactive_blk_num
  std::uint64_t sequence_ = 1;
  unsigned timer_starts_ = 0;
  bool frozen_ = false;
  KernelCounts counts_;
  std::vector<Begun> begun_;
  std::function<void()> ready_;
};

/// A socket's ring of TPACKET_V2 slots.
class KernelFrames {
 public:
  /// Slots lie in blocks of pages, `slots_a_block` in each of `block_bytes`.
  KernelFrames(std::uint32_t count, std::uint32_t slot_bytes, std::uint32_t slots_a_block,
               std::uint32_t block_bytes);
  /// All in one.
  KernelFrames(std::uint32_t count, std::uint32_t slot_bytes)
      : KernelFrames(count, slot_bytes, count, count * slot_bytes) {}

  void* map() const { return memory_.map(); }
  /// Where a packet's bytes begin in its slot.
  static constexpr std::uint32_t kMac = 80;

  /// A packet comes; false if it is dropped (af_packet.c: packet_lookup_frame, tpacket_rcv).
  bool receive(const TestPacket& packet);
  /// Whether the slot `ahead` places after the next one is free.
  bool is_free(unsigned ahead = 0) const;
  /// Whether a group of PACKET_FANOUT_FLAG_ROLLOVER gives this ring a packet. The flow of a `huge`
  /// one has most of the packets (af_packet.c: fanout_demux_rollover, __tpacket_has_room).
  bool has_room(bool huge = false) const { return is_free(count_ / 4) || (!huge && is_free()); }
  std::uint32_t count() const { return count_; }
  KernelCounts take_counts();
  void on_ready(std::function<void()> ready) { ready_ = std::move(ready); }

  tpacket2_hdr& slot(unsigned index) const;

 private:
  const std::uint32_t count_;
  const std::uint32_t slot_bytes_;
  const std::uint32_t slots_a_block_;
  const std::uint32_t block_bytes_;
  SharedMemory memory_;
  unsigned head_ = 0;
  KernelCounts counts_;
  std::function<void()> ready_;
};

}  // namespace pcapv3::test
