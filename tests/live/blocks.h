// SPDX-License-Identifier: BSD-3-Clause
// What tests of blocks share (pcap/linux-v3.h): taking, walking and giving back.
#pragma once

#include <pcap/linux-v3.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "capture.h"

namespace pcapv3::live {

struct ReleaseBlock {
  void operator()(pcap_v3_block_t* block) const { pcap_v3_release_block(block); }
};

using Block = std::unique_ptr<pcap_v3_block_t, ReleaseBlock>;

/// The next block; null when the time is over.
inline Block take(pcap_t* p, int timeout_ms = -1) {
  pcap_v3_block_t* block = nullptr;
  const int status = pcap_v3_next_block(p, timeout_ms, &block);
  CHECK(status == (block != nullptr ? 1 : 0), "status %d, %s", status, pcap_geterr(p));
  return Block(block);
}

inline const pcap_v3_info& info(const Block& block) { return *pcap_v3_block_info(block.get()); }

/// The status of pcap_v3_next_block(); a block is walked and given back.
inline int take_and_walk(pcap_t* p, int timeout_ms, Packets& packets) {
  pcap_v3_block_t* block = nullptr;
  const int status = pcap_v3_next_block(p, timeout_ms, &block);
  CHECK((status == 1) == (block != nullptr), "status %d", status);
  if (status != 1) return status;
  CHECK(pcap_v3_dispatch_block(block, -1, keep, user(packets)) >= 0, "a bad block");
  pcap_v3_release_block(block);
  return status;
}

/// Blocks until `count` packets are in them: the kernel closes one whenever it is time to.
inline std::vector<Block> take_blocks(pcap_t* p, std::size_t count) {
  std::vector<Block> blocks;
  while (count > 0) {
    blocks.push_back(take(p));
    CHECK(info(blocks.back()).packets <= count, "%u packets", info(blocks.back()).packets);
    count -= info(blocks.back()).packets;
  }
  return blocks;
}

/// Tells how many frames have come to see0, without asking the handle that is tested. To be made
/// before that: of two sockets the older one gets a frame last.
class Witness {
 public:
  Witness() : handle_(open_capture({.buffer_bytes = 2 << 20})) {}
  /// Sends frames, and waits until they have come: a receiver that is not given a CPU drops what is
  /// more than net.core.netdev_max_backlog, 1000.
  void send(const Sender& sender, std::uint32_t first, std::uint32_t count,
            std::size_t size = 100) {
    while (count > 0) {
      const std::uint32_t batch = std::min(count, 500u);
      sender.send(first, batch, size);
      wait_until_received(handle_.get(), sent_ += batch);
      first += batch;
      count -= batch;
    }
  }

 private:
  const Handle handle_;
  unsigned sent_ = 0;
};

/// What is left in a block, packet by packet.
inline void walk(pcap_v3_block_t* block, Packets& packets) {
  const pcap_pkthdr* header = nullptr;
  const u_char* bytes = nullptr;
  int status = 0;
  while ((status = pcap_v3_next_packet(block, &header, &bytes)) == 1) {
    packets.emplace_back(*header, bytes);
  }
  CHECK(status == 0, "status %d", status);
}

/// By callback.
inline void walk_all(pcap_v3_block_t* block, Packets& packets) {
  const std::size_t before = packets.size();
  const int got = pcap_v3_dispatch_block(block, -1, keep, user(packets));
  CHECK(got >= 0 && static_cast<std::size_t>(got) == packets.size() - before, "status %d", got);
  CHECK(pcap_v3_dispatch_block(block, -1, keep, user(packets)) == 0, "more after the end");
}

/// Takes blocks until `count` packets have come.
inline Packets take_packets(pcap_t* p, std::size_t count,
                            void (*how)(pcap_v3_block_t*, Packets&) = walk) {
  Packets packets;
  while (packets.size() < count) how(take(p).get(), packets);
  return packets;
}

inline bool has_ring() { return count_rings() != 0; }

/// Sends 60 frames: with and without tags, of several sizes, both ways.
inline void send_variety() {
  const Sender in = remote();
  const Sender out("see0");
  for (std::uint32_t i = 0; i < 20; ++i) {
    in.send({.number = i, .size = 60 + 70 * i});
    in.send({.number = i, .size = 100, .tags = {{.tci = 5}}});
    out.send({.number = i, .size = 100});
  }
}

/// Checks that packets of two captures of the same frames are the same, but for small differences
/// of their time stamps.
inline void check_alike(const Packets& got, const Packets& wanted) {
  CHECK(got.size() == wanted.size(), "%zu packets, not %zu", got.size(), wanted.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    CHECK(got[i].header.len == wanted[i].header.len, "packet %zu: len %u, not %u", i,
          got[i].header.len, wanted[i].header.len);
    CHECK(got[i].bytes == wanted[i].bytes, "packet %zu has other bytes, %zu of them, not %zu", i,
          got[i].bytes.size(), wanted[i].bytes.size());
    CHECK(std::abs(got[i].header.ts.tv_sec - wanted[i].header.ts.tv_sec) <= 5, "packet %zu", i);
  }
}

}  // namespace pcapv3::live
