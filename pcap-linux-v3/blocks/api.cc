// SPDX-License-Identifier: BSD-3-Clause
// The functions of <pcap/linux-v3.h> that work on a block. Those that take a handle are in
// compat/blocks.c.
#include "blocks/acquired_block.h"
#include "blocks/pool.h"

const pcap_v3_info* pcap_v3_block_info(const pcap_v3_block_t* block) { return &block->info(); }

int pcap_v3_dispatch_block(pcap_v3_block_t* block, int cnt, pcap_handler callback, u_char* user) {
  return block->dispatch(cnt, callback, user);
}

int pcap_v3_next_packet(pcap_v3_block_t* block, const pcap_pkthdr** header, const u_char** bytes) {
  return block->next(header, bytes);
}

void* pcap_v3_block_private(pcap_v3_block_t* block) { return block->private_area(); }

void pcap_v3_release_block(pcap_v3_block_t* block) { block->pool().release(*block); }

uint32_t pcap_v3_packet_hash(const pcap_v3_block_t* block) {
  const tpacket3_hdr* header = block->current();
  return header != nullptr ? header->hv1.tp_rxhash : 0;
}

int pcap_v3_packet_ifindex(const pcap_v3_block_t* block) {
  const auto* packet = reinterpret_cast<const std::uint8_t*>(block->current());
  if (packet == nullptr) return 0;
  return reinterpret_cast<const sockaddr_ll*>(packet + pcapv3::kAddressOffset)->sll_ifindex;
}
