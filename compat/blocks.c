/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The functions of <pcap/linux-v3.h> that take a handle. They find out what kind of handle it is,
 * and whether it has blocks. The functions that take a block are the module's
 * (pcap-linux-v3/blocks/api.cc).
 */
#include "compat/blocks.h"

#include <config.h>
#include <stdio.h>
#include <string.h>

#include "pcap-int.h"
#include "pcap-linux-v3/include/pcap/linux-v3.h"

static int no_blocks(pcap_t* p, const char* why) {
  snprintf(p->errbuf, sizeof(p->errbuf), "there are no blocks: %s", why);
  return PCAP_ERROR;
}

static const char* const not_ours =
    "this handle is libpcap's own, not one on a network interface read by TPACKET_V3 "
    "(pcap-linux-v3(7), Stock handles)";

/* libpcap's own pcap_set_...() functions check this first (pcap.c: pcap_check_activated). */
static int is_activated(pcap_t* p) {
  if (!p->activated) return 0;
  snprintf(p->errbuf, sizeof(p->errbuf), "can't perform operation on activated capture");
  return 1;
}

int pcap_v3_set_flow_hash(pcap_t* p, int flow_hash) {
  if (is_activated(p)) return PCAP_ERROR_ACTIVATED;
  if (pcapv3_set_flow_hash(p, flow_hash) == 0 || pcapv3_multi_set_flow_hash(p, flow_hash) == 0)
    return 0;
  return no_blocks(p, not_ours);
}

int pcap_v3_set_private_size(pcap_t* p, size_t size) {
  if (is_activated(p)) return PCAP_ERROR_ACTIVATED;
  if (pcapv3_set_private_size(p, size) == 0 || pcapv3_multi_set_private_size(p, size) == 0)
    return 0;
  return no_blocks(p, not_ours);
}

int pcap_v3_next_block(pcap_t* p, int timeout_ms, pcap_v3_block_t** block) {
  *block = NULL;
  if (pcap_file(p) != NULL) return no_blocks(p, "packets come from a file");
  if (!p->activated) return no_blocks(p, "the handle has not been activated");
  if (pcapv3_has_port(p)) return pcapv3_take_block(p, timeout_ms, block);
  struct pcapv3_reader* reader = pcapv3_reader_of(p);
  if (reader != NULL) return pcapv3_reader_acquire(reader, timeout_ms, block);
  return no_blocks(p, not_ours);
}
