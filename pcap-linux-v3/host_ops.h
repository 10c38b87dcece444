/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Everything that the module needs of libpcap about a handle, as one table of functions that is
 * passed when a port or a reader is opened. The module calls libpcap through nothing else, so a
 * test can run it against a host of its own.
 *
 * The functions have C linkage and run on the thread that reads the handle. None takes ownership.
 */
#ifndef PCAP_LINUX_V3_HOST_OPS_H
#define PCAP_LINUX_V3_HOST_OPS_H

#include <pcap/pcap.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A handle as stock code has set it up: everything that reading its packets depends on. */
struct pcapv3_host_view {
  int socket;
  int cooked;    /* the kernel stores no link-layer header (SOCK_DGRAM) */
  int link_type; /* the DLT_ value that the program has now */
  int promiscuous;
  int snapshot; /* maximum bytes of a packet wanted */
  int vlan_offset;
  int nanoseconds;
  pcap_direction_t direction;
  int ifindex;         /* -1 for all */
  int lo_ifindex;      /* lo's index; -1 if there is none */
  int filter_here;     /* packets must pass the filter of pcapv3_host_ops */
  int filter_is_whole; /* everything that the filter looks at is in the packet, or in its VLAN tag
                        */
  unsigned filter_blocks; /* only those in this many blocks from the current one on; 0: all */
  int has_filter;         /* the program has set one */
  int own_clock; /* time stamps are the interface's; CLOCK_REALTIME can't be compared with them */
};

/* Runs a filter over a packet; returns 0 if it is rejected. The owner is the handle, or the code of
 * a copied filter, which can be run without the handle, on any thread. */
typedef int (*pcapv3_host_filter)(void* owner, const u_char* bytes, unsigned wire_length,
                                  unsigned captured_length, int tagged, unsigned short tci);

struct pcapv3_host_ops {
  /* ---- Of a handle with a port ---- */

  void (*look)(pcap_t* handle, struct pcapv3_host_view* view);

  /* Waits as the handle's mode and time-out require: until the socket can be read or has an error,
   * or not at all. Returns 0; PCAP_ERROR with the handle's error text set, also when the interface
   * is gone; or PCAP_ERROR_BREAK, with the break flag cleared. */
  int (*wait)(pcap_t* handle);
  /* Does the same as wait(), but only checks whether the interface is there, even when the socket
   * reports itself readable for a block that the program holds. */
  int (*check)(pcap_t* handle);
  /* Waits for a break only, for at most `ms` milliseconds. Returns whether the break's event is
   * there, which may come from a break that was already seen. */
  int (*wait_for_break)(pcap_t* handle, int ms);
  /* Returns whether check() has found the interface down, and not up since: it may be going away,
   * so it must be checked again soon. */
  int (*is_down)(pcap_t* handle);

  /* The handle's filter; its program, which changes when the program sets one; and the function
   * that runs a copy of it. */
  pcapv3_host_filter filter;
  const struct bpf_insn* (*filter_code)(pcap_t* handle, unsigned* count);
  pcapv3_host_filter run_filter;
  /* Must be called when a block has been read whose packets had to be filtered here because they
   * are older than the kernel's filter. Returns how many such blocks are left; after the last one
   * the view changes. */
  unsigned (*block_filtered)(pcap_t* handle);

  /* Must be called when the port has another ring, and its socket another file. */
  void (*ring_replaced)(pcap_t* handle);

  /* Passes the kernel's counts up to now to pcapv3_port_count(). */
  void (*count)(pcap_t* handle);
  /* Adds what the second socket counted before its counts became the handle's; from then on count()
   * adds them. */
  void (*add_counts)(pcap_t* handle, unsigned packets, unsigned drops);

  /* ---- Of a handle on several interfaces; `index` is a port's place in the list of names ---- */

  /* Returns whether the port's interface is gone, or no longer in this network namespace. An
   * interface that is only down is not gone. */
  int (*is_gone)(pcap_t* handle, unsigned index);
  /* Binds the port's socket, whose interface is gone, to one of the same name. Returns 0 if there
   * is one and its frames are of the same kind. Needs no privilege. */
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
