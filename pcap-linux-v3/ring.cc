// SPDX-License-Identifier: BSD-3-Clause
#include "ring.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>

namespace pcapv3 {
namespace {

constexpr unsigned kMinBlocks = 2;

bool request(int fd, const Geometry& g, bool flow_hash) {
  tpacket_req3 r{};
  r.tp_block_size = g.block_bytes;
  r.tp_block_nr = g.block_count;
  // V3 has no frames of fixed size; the kernel only requires the figures to agree
  // (packet_set_ring).
  r.tp_frame_size = g.block_bytes;
  r.tp_frame_nr = g.block_count;
  r.tp_retire_blk_tov = g.retire_ms;
  r.tp_sizeof_priv = g.private_bytes;
  r.tp_feature_req_word = flow_hash ? TP_FT_REQ_FILL_RXHASH : 0;
  return setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &r, sizeof(r)) == 0;
}

void drop(int fd) {
  // This must be a whole tpacket_req3: a V3 socket refuses the shorter struct and keeps its ring.
  const tpacket_req3 none{};
  setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &none, sizeof(none));
}

}  // namespace

Ring::~Ring() {
  if (base_ != nullptr) munmap(base_, static_cast<std::size_t>(geometry_.ring_bytes()));
}

bool Ring::create(int fd, const Geometry& wanted, bool flow_hash) {
  Geometry g = wanted;
  for (;;) {
    unsigned fewer = g.block_count / 20;
    if (request(fd, g, flow_hash)) {
      void* mapping = mmap(nullptr, static_cast<std::size_t>(g.ring_bytes()),
                           PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
      if (mapping != MAP_FAILED) {
        base_ = static_cast<std::byte*>(mapping);
        geometry_ = g;
        return true;
      }
      // The process has no room for the mapping: RLIMIT_AS, or RLIMIT_MEMLOCK after mlockall(2),
      // which is EAGAIN. Making a ring and dropping it takes long, so the steps are larger.
      const int error = errno;
      drop(fd);
      errno = error;
      fewer = g.block_count / 2;
    }
    if ((errno != ENOMEM && errno != EAGAIN) || g.block_count <= kMinBlocks) return false;
    g.block_count = std::max(g.block_count - std::max(fewer, 1u), kMinBlocks);
  }
}

int Ring::keep_one() const {
  // The kernel numbers the blocks as it opens them (prb_open_block): the one with the highest
  // number is the one that it is filling, or filled last if it is filling none.
  unsigned filling = 0;
  for (unsigned i = 1; i < geometry_.block_count; ++i) {
    if (number(i) > number(filling)) filling = i;
  }
  const unsigned before = filling != 0 ? filling - 1 : geometry_.block_count - 1;
  const std::uint64_t known = number(before);
  if (!change(before, TP_STATUS_KERNEL, kKept)) return -1;
  if (number(before) == known) return static_cast<int>(before);
  // The kernel has come to the block meanwhile, all around the ring. If it is done with it already,
  // it has overwritten the status, and there is something to read.
  let_go(before);
  return -1;
}

}  // namespace pcapv3
