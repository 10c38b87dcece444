/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the module needs of libpcap about a handle: the whole of it, as one table of functions that
 * is handed over when a port or a reader is opened. The module calls libpcap by nothing else, so
 * that a test can run it against a host of its own.
 *
 * C linkage; all of these run on the thread that reads the handle. None takes ownership.
 */
#ifndef PCAP_LINUX_V3_HOST_OPS_H
#define PCAP_LINUX_V3_HOST_OPS_H

#include <pcap/pcap.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A handle as stock code has set it up: what reading its packets depends on. */
struct pcapv3_host_view {
  int socket;
  int cooked;    /* the kernel stores no link-layer header (SOCK_DGRAM) */
  int link_type; /* DLT_ value that the program has now */
  int snapshot;  /* bytes of a packet wanted at most */
  int vlan_offset;
  int nanoseconds;
  pcap_direction_t direction;
  int ifindex;            /* index; -1 for all */
  int lo_ifindex;         /* lo's index; -1 if there is none */
  int filter_here;        /* packets must pass the filter of pcapv3_host_ops */
  int filter_is_whole;    /* what the filter asks for is all in the packet, or in its VLAN tag */
  unsigned filter_blocks; /* only those in this many blocks from the current one on; 0: in all */
  int has_filter;         /* the program has set one */
  int own_clock; /* time stamps are the interface's and can't be held against CLOCK_REALTIME */
};

/* A filter run over a packet; 0 rejects it. The owner is the handle, or the code of a filter that
 * was copied: that can be run without the handle, on any thread. */
typedef int (*pcapv3_host_filter)(void* owner, const u_char* bytes, unsigned wire_length,
                                  unsigned captured_length, int tagged, unsigned short tci);

struct pcapv3_host_ops {
  /* ---- Of a handle with a port ---- */

  void (*look)(pcap_t* handle, struct pcapv3_host_view* view);

  /* Waits as the handle's mode and time-out say: until the socket can be read or has an error, or
   * not at all. Returns 0; PCAP_ERROR with the handle's error text set, also when the interface is
   * gone; or PCAP_ERROR_BREAK, the break flag then being cleared. */
  int (*wait)(pcap_t* handle);
  /* As wait(), but only looks whether the interface is there, also when the socket calls itself
   * readable for a block that the program holds. */
  int (*check)(pcap_t* handle);
  /* Waits for a break only, at most `ms` milliseconds. Returns whether the break's event is there,
   * which may be one of a break that was seen before. */
  int (*wait_for_break)(pcap_t* handle, int ms);
  /* Returns whether check() has found the interface down, and not up since: as it may be going
   * away, it is to be looked at again soon. */
  int (*is_down)(pcap_t* handle);

  /* The handle's filter; its program, which changes when the program sets one; and what runs a copy
   * of that. */
  pcapv3_host_filter filter;
  const struct bpf_insn* (*filter_code)(pcap_t* handle, unsigned* count);
  pcapv3_host_filter run_filter;
  /* A block has been read whose packets had to be filtered here because the kernel's filter is
   * younger than they are. Returns how many are left; after the last one the view changes. */
  unsigned (*block_filtered)(pcap_t* handle);

  /* Has the kernel's counts up to now passed to pcapv3_port_count(). */
  void (*count)(pcap_t* handle);
  /* Adds what the second socket has counted before its counts are the handle's, as count() does
   * from then on. */
  void (*add_counts)(pcap_t* handle, unsigned packets, unsigned drops);

  /* ---- Of a handle on several interfaces; `index` is a port's place in the list of names ---- */

  /* Returns whether the port's interface is there no more, or not in this network namespace. An
   * interface that is only down is there. */
  int (*is_gone)(pcap_t* handle, unsigned index);
  /* Binds the port's socket, whose interface is gone, to one of the same name, if there is one and
   * its frames are of the same kind; returns 0 if so. Wants no privilege. */
  int (*bind_again)(pcap_t* handle, unsigned index);

  /* ---- Of both ---- */

  /* Sets the handle's error text. */
  void (*error)(pcap_t* handle, const char* text);
};

/* Stock code's text for an interface that is gone. */
#define PCAPV3_INTERFACE_GONE "The interface disappeared"

#ifdef __cplusplus
}
#endif

#endif
