// SPDX-License-Identifier: BSD-3-Clause
// A packet socket's ring of version 1, 2 or 3 without libpcap, and the barest walk over it: what
// any library's reading is compared with. It owns the socket and the mapping. What is done with a
// packet is the caller's, and so is waiting.
#ifndef PCAPV3_BENCH_RAW_RING_H
#define PCAPV3_BENCH_RAW_RING_H

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace pcapv3::bench {

struct RingRequest {
  int version = 3;
  unsigned block_bytes = 1 << 20;
  unsigned blocks = 64;
  unsigned snapshot = 262144;
  unsigned retire_ms = 100;  // V3
};

struct RawPacket {
  std::uint32_t seconds;
  std::uint32_t nanoseconds;
  std::uint32_t stored;
  std::uint32_t length;
  const std::uint8_t* bytes;
};

class RawRing {
 public:
  RawRing(const char* interface, const RingRequest& request) : version_(request.version) {
    tpacket_req3 ring = {};
    ring.tp_block_size = request.block_bytes;
    ring.tp_block_nr = request.blocks;
    socklen_t length = sizeof(tpacket_req);
    if (version_ == 3) {
      ring.tp_frame_size = ring.tp_block_size;
      ring.tp_frame_nr = ring.tp_block_nr;
      ring.tp_retire_blk_tov = request.retire_ms;
      length = sizeof(ring);
    } else {
      ring.tp_frame_size = slot_bytes(request.snapshot);
      ring.tp_frame_nr = ring.tp_block_nr * (ring.tp_block_size / ring.tp_frame_size);
    }
    // What a filter returns is how much is stored.
    sock_filter store = {BPF_RET | BPF_K, 0, 0, request.snapshot};
    const sock_fprog program = {.len = 1, .filter = &store};
    const int kernels_version = version_ - 1;  // TPACKET_V1 is 0
    sockaddr_ll address = {};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(if_nametoindex(interface));
    bytes_ = std::size_t{ring.tp_block_size} * ring.tp_block_nr;
    fd_ = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (fd_ < 0 ||
        setsockopt(fd_, SOL_PACKET, PACKET_VERSION, &kernels_version, sizeof(int)) != 0 ||
        setsockopt(fd_, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) != 0 ||
        setsockopt(fd_, SOL_PACKET, PACKET_RX_RING, &ring, length) != 0 ||
        (ring_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0)) == MAP_FAILED ||
        bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
      std::fprintf(stderr, "raw ring on %s: %s\n", interface, std::strerror(errno));
      std::exit(EXIT_FAILURE);
    }
    const unsigned slots = ring.tp_block_size / ring.tp_frame_size;  // V3: the block is the slot
    for (unsigned i = 0; i < ring.tp_frame_nr; ++i) {
      slots_.push_back(static_cast<char*>(ring_) + std::size_t{i / slots} * ring.tp_block_size +
                       std::size_t{i % slots} * ring.tp_frame_size);
    }
  }
  ~RawRing() {
    munmap(ring_, bytes_);
    close(fd_);
  }
  RawRing(const RawRing&) = delete;
  RawRing& operator=(const RawRing&) = delete;

  [[nodiscard]] int fd() const { return fd_; }

  /// Calls `on_packet` with each packet that is there, gives its place back, and tells how many.
  template <typename OnPacket>
  std::uint64_t walk(OnPacket on_packet) {
    if (version_ == 1) return walk_slots<tpacket_hdr>(on_packet);
    if (version_ == 2) return walk_slots<tpacket2_hdr>(on_packet);
    return walk_blocks(on_packet);
  }

  /// What came since the last call and what of it was dropped: reading clears them in the kernel.
  void add_statistics(std::uint64_t& received, std::uint64_t& dropped) const {
    tpacket_stats_v3 stats = {};
    socklen_t length = sizeof(stats);  // V1 and V2 fill in a part of it
    getsockopt(fd_, SOL_PACKET, PACKET_STATISTICS, &stats, &length);
    received += stats.tp_packets;
    dropped += stats.tp_drops;
  }

 private:
  /// As stock libpcap makes them for V2 on an Ethernet interface without offloads: the header, 256
  /// bytes for a link-layer header whose size it can't know, and the snapshot length or the MTU and
  /// 18 bytes, whichever is less.
  static unsigned slot_bytes(unsigned snapshot) {
    constexpr unsigned kLargestFrame = 1500 + 18;
    static_assert(TPACKET_ALIGN(sizeof(tpacket2_hdr)) == TPACKET_ALIGN(sizeof(tpacket_hdr)));
    const auto headers = static_cast<unsigned>(TPACKET_ALIGN(TPACKET2_HDRLEN + 256) + 4 - 256);
    return static_cast<unsigned>(TPACKET_ALIGN(headers + std::min(snapshot, kLargestFrame)));
  }

  template <typename Header>
  static RawPacket packet(const Header* h) {
    std::uint32_t nanoseconds = 0;
    if constexpr (requires { h->tp_nsec; }) {
      nanoseconds = h->tp_nsec;
    } else {
      nanoseconds = h->tp_usec * 1000;
    }
    return {h->tp_sec, nanoseconds, h->tp_snaplen, h->tp_len,
            reinterpret_cast<const std::uint8_t*>(h) + h->tp_mac};
  }

  template <typename Header, typename OnPacket>
  std::uint64_t walk_slots(OnPacket on_packet) {
    for (std::uint64_t packets = 0;; ++packets) {
      auto* h = reinterpret_cast<Header*>(slots_[next_]);
      if ((__atomic_load_n(&h->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER) == 0) return packets;
      on_packet(packet(h));
      __atomic_store_n(&h->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
      advance();
    }
  }

  template <typename OnPacket>
  std::uint64_t walk_blocks(OnPacket on_packet) {
    for (std::uint64_t packets = 0;;) {
      auto* block = reinterpret_cast<tpacket_block_desc*>(slots_[next_]);
      tpacket_hdr_v1& h = block->hdr.bh1;
      if ((__atomic_load_n(&h.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER) == 0) {
        return packets;
      }
      const char* at = slots_[next_] + h.offset_to_first_pkt;
      for (unsigned i = 0; i < h.num_pkts; ++i) {
        const auto* p = reinterpret_cast<const tpacket3_hdr*>(at);
        on_packet(packet(p));
        at += p->tp_next_offset;
      }
      packets += h.num_pkts;
      __atomic_store_n(&h.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
      advance();
    }
  }

  void advance() { next_ = next_ + 1 < slots_.size() ? next_ + 1 : 0; }

  int version_;
  int fd_ = -1;
  void* ring_ = MAP_FAILED;
  std::size_t bytes_ = 0;
  std::vector<char*> slots_;  // V3: blocks
  std::size_t next_ = 0;
};

}  // namespace pcapv3::bench

#endif
