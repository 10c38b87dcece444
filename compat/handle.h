/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A handle on one interface: the struct that joins libpcap's half of it, which stock code has made,
 * to the module's. It lies in the handle's own memory, behind stock code's private struct.
 *
 * Only the files of the seam include it.
 */
#ifndef PCAP_LINUX_V3_COMPAT_HANDLE_H
#define PCAP_LINUX_V3_COMPAT_HANDLE_H

#include <pcap/pcap.h>

#include "pcap-linux-v3/module.h"

/* It is all zero at first (pcap.c: pcap_alloc_pcap_t). */
struct pcapv3_handle {
  struct pcapv3_port* port;     /* NULL: a stock handle */
  struct pcapv3_reader* reader; /* NULL: the multi-interface handle's reader reads the port */
  pcap_t* multi;                /* the multi-interface handle, or NULL */
  int immediate;                /* what the program asked for */
  int flow_hash;                /* likewise */
  size_t private_size;          /* likewise, for each block */
  pcap_handler copying_oneshot; /* stock code's callback */
  struct pcapv3_port* joining;  /* joins a fan-out group at the end of this activation */
  int second_cooked;            /* the second ring's socket is cooked */
  struct pcapv3_break breaking; /* valid until the handle is freed */

  /* The rest is for a child (child.c), which sets what is called when the handle has been activated
   * and closed; NULL: nothing is. */
  void (*activated)(pcap_t*);
  void (*closed)(pcap_t*);
  int arptype;            /* the hardware type of its interface */
  int cooked;             /* it must be opened as a cooked socket */
  unsigned max_retire_ms; /* the longest retire timeout of its ring */
  int spare;              /* the spare socket, or 0 */
};
/* Returns the struct of a handle. */
struct pcapv3_handle* pcapv3_handle_of(pcap_t* p);

/* Returns whether the module has made a ring for the handle. */
int pcapv3_has_ring(pcap_t* p);
/* Updates the port and the reader after something was set on the handle. */
void pcapv3_refresh(pcap_t* p);
/* Must be called when the program is given the handle's socket, and when it is given `descriptor`
 * to wait on; the second returns what it must get in place of that. Any thread may call them, and
 * for a handle of any kind. */
void pcapv3_handle_give_socket(pcap_t* p);
int pcapv3_handle_give_descriptor(pcap_t* p, int descriptor);
/* Makes a handle that is not activated. Returns NULL, with a text, on failure, as
 * pcap_create(3PCAP) does. */
pcap_t* pcapv3_handle_create(const char* device, char* error);

#endif
