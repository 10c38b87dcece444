/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What blocks.c needs from the two kinds of handles that have blocks: those on one interface
 * (handle.c) and those on several (multi.c). No other file includes it.
 */
#ifndef PCAP_LINUX_V3_COMPAT_BLOCKS_H
#define PCAP_LINUX_V3_COMPAT_BLOCKS_H

#include <pcap/pcap.h>

#include "pcap-linux-v3/module.h"

/* Returns whether an activated handle is on one interface. */
int pcapv3_has_port(pcap_t* handle);
/* Returns the reader of an activated handle on several interfaces, or NULL for any other handle. */
struct pcapv3_reader* pcapv3_reader_of(pcap_t* handle);

/* Does pcapv3_reader_acquire() on a handle that has a port. */
int pcapv3_take_block(pcap_t* handle, int timeout_ms, struct pcap_v3_block** block);

/* These set an option. Must be called before the handle is activated; each returns -1 if the handle
 * is not of its kind. */
int pcapv3_set_flow_hash(pcap_t* handle, int flow_hash);
int pcapv3_multi_set_flow_hash(pcap_t* handle, int flow_hash);
int pcapv3_set_private_size(pcap_t* handle, size_t size);
int pcapv3_multi_set_private_size(pcap_t* handle, size_t size);

#endif
