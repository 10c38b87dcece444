/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Stock code's half of a handle on an interface, for the other files of the seam: functions of
 * libpcap's pcap-linux.c that are private there, and members of its private struct. They are
 * implemented in pcap_linux.c, which alone sees these. Nothing is decided here.
 */
#ifndef PCAP_LINUX_V3_COMPAT_STOCK_H
#define PCAP_LINUX_V3_COMPAT_STOCK_H

#include <pcap/pcap.h>

#include "pcap-linux-v3/host_ops.h"

/* The functions by which the module reaches libpcap for such a handle. */
extern const struct pcapv3_host_ops pcapv3_host_ops;

/* ---- The operations that stock code gives a handle ---- */

pcap_t* pcapv3_stock_create_interface(const char* device, char* error);
/* Activates the handle; if `cooked` is not 0, as if the interface had no link-layer header. */
int pcapv3_stock_activate(pcap_t* p, int cooked);
void pcapv3_stock_cleanup(pcap_t* p);
/* Sets the filter. All of the program's packets have to pass the new one, but the kernel may have
 * filled blocks while it had the old one: returns in `old_blocks` for how many blocks stock code
 * takes these, which is 1 or more, or 0 for none. */
int pcapv3_stock_setfilter(pcap_t* p, struct bpf_program* filter, int* old_blocks);
void pcapv3_stock_filter_old_blocks(pcap_t* p, int blocks);
void pcapv3_stock_forget_filter(pcap_t* p);
int pcapv3_stock_setdirection(pcap_t* p, pcap_direction_t direction);
int pcapv3_stock_set_datalink(pcap_t* p, int link_type);
int pcapv3_stock_setnonblock(pcap_t* p, int nonblock);
int pcapv3_stock_stats(pcap_t* p, struct pcap_stat* stats);
void pcapv3_stock_breakloop(pcap_t* p);
/* Restores all of these operations, except that the handle reads nothing any more. */
void pcapv3_stock_take_over(pcap_t* p);

/* ---- What stock code knows of a handle ---- */

struct pcapv3_stock_state {
  int ifindex;    /* the interface's; 0: all */
  int lo_ifindex; /* lo's */
  int cooked;
  int timeout; /* 0: none; below 0: reads do not wait */
  unsigned interface_dropped;
  const char* device;
};
struct pcapv3_stock_state pcapv3_stock_state(const pcap_t* p);
void pcapv3_stock_set_interface(pcap_t* p, int index);
int pcapv3_stock_has_own_clock(const pcap_t* p);
/* Returns whether its link type needs what the module does not do. */
int pcapv3_stock_has_own_link_type(const pcap_t* p);
int pcapv3_stock_has_broken_v3(void);
/* Cleans up a handle that is closed before it was activated. */
void pcapv3_stock_close_unactivated(pcap_t* p);

/* Shows stock code the module's ring, as if it had made that. */
void pcapv3_stock_show_ring(pcap_t* p);
/* Makes stock code forget that there is a ring. */
void pcapv3_stock_hide_ring(pcap_t* p);

/* ---- Interfaces ---- */

/* Returns the ifindex of the handle's device, as socket `fd` sees it, or below 0, with no text. */
int pcapv3_stock_index(const pcap_t* p, int fd);
int pcapv3_stock_arptype(const pcap_t* p);
/* Binds `fd`. Returns a status of pcap_activate(3PCAP), with no text. */
int pcapv3_stock_bind(const pcap_t* p, int fd, int index);
int pcapv3_stock_device_exists(const pcap_t* p);
int pcapv3_stock_is_up(const pcap_t* p, int fd);
/* Returns the bytes of the largest frame that the handle's device delivers, which `fd` can ask for;
 * 0 if offloads can make it larger than its MTU. */
unsigned pcapv3_stock_max_frame(pcap_t* p, int fd);
/* Attaches the drop-all filter to the handle's socket. */
void pcapv3_stock_attach_drop_all(const pcap_t* p);

#endif
