/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A handle on one interface: what joins libpcap's half of it, which stock code has made, to the
 * module's. It lies in the handle's own memory, behind stock code's private struct.
 *
 * Between the files of the seam; nobody else includes it.
 */
#ifndef PCAP_LINUX_V3_COMPAT_HANDLE_H
#define PCAP_LINUX_V3_COMPAT_HANDLE_H

#include <pcap/pcap.h>

#include "pcap-linux-v3/module.h"

/* All zero at first (pcap.c: pcap_alloc_pcap_t). */
struct pcapv3_handle {
  struct pcapv3_port* port;     /* NULL: a stock handle */
  struct pcapv3_reader* reader; /* NULL: that of the handle on several interfaces */
  pcap_t* multi;                /* that one, or NULL */
  int immediate;                /* what the tool asked for */
  int flow_hash;                /* likewise */
  size_t private_size;          /* likewise, of a block */
  pcap_handler copying_oneshot; /* stock code's */
  struct pcapv3_port* joining;  /* a fan-out group, once active */
  int second_cooked;            /* the second ring's socket is */
  struct pcapv3_break breaking; /* good until the handle is freed */

  /* Of a child (child.c). */
  int arptype;            /* of its interface */
  int cooked;             /* it is to be opened as a cooked socket */
  unsigned max_retire_ms; /* the longest retire timeout of its ring */
  int spare;              /* a socket, or 0 */
};
struct pcapv3_handle* pcapv3_handle_of(pcap_t* p);

/* Whether the module has made a ring for it. */
int pcapv3_has_ring(pcap_t* p);
/* Looks at the handle again, after something was set on it. */
void pcapv3_refresh(pcap_t* p);
/* Makes a handle that is not activated; NULL, with a text, as pcap_create(3PCAP). */
pcap_t* pcapv3_handle_create(const char* device, char* error);

#endif
