// SPDX-License-Identifier: BSD-3-Clause
#include "blocks/acquired_block.h"

#include <climits>

const volatile std::sig_atomic_t pcap_v3_block::kNever = 0;

int pcap_v3_block::dispatch(int count, pcap_handler callback, u_char* user) {
  got_ = nullptr;
  const int max = count <= 0 ? INT_MAX : count;
  int delivered = 0;
  // The run ends early if the callback has itself read on.
  for (int more = -1; more != 0 && delivered < max; delivered += more) {
    more = delivery_.run(cursor_, max - delivered, callback, user);
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

/// Drops the rest of the block. The next packet does not fit into it, so nothing behind it can be
/// found.
int pcap_v3_block::drop_rest() {
  counters_.corrupt += cursor_.left();
  cursor_ = pcapv3::TellingCursor();
  return PCAP_ERROR;
}
