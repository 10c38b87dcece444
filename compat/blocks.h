/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Between blocks.c and the two kinds of handles that have blocks: those on one interface
 * (handle.c) and those on several (multi.c). Nobody else includes it.
 */
#ifndef PCAP_LINUX_V3_COMPAT_BLOCKS_H
#define PCAP_LINUX_V3_COMPAT_BLOCKS_H

#include <pcap/pcap.h>

#include "pcap-linux-v3/module.h"

/* Whether an activated handle is one on one interface; the reader of one on several, or NULL if it
 * is none. */
int pcapv3_has_port(pcap_t* handle);
struct pcapv3_reader* pcapv3_reader_of(pcap_t* handle);

/* As pcapv3_reader_acquire(), on a handle that has a port. */
int pcapv3_take_block(pcap_t* handle, int timeout_ms, struct pcap_v3_block** block);

/* To be told before a handle is activated; -1 if it is none of that kind. */
int pcapv3_set_flow_hash(pcap_t* handle, int flow_hash);
int pcapv3_multi_set_flow_hash(pcap_t* handle, int flow_hash);
int pcapv3_set_private_size(pcap_t* handle, size_t size);
int pcapv3_multi_set_private_size(pcap_t* handle, size_t size);

#endif
