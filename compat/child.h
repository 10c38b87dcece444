/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Between the handle on several interfaces (multi.c), the handles of its ports, which are made here
 * (child.c), and what an ordinary handle has of these (handle.c).
 */
#ifndef PCAP_LINUX_V3_COMPAT_CHILD_H
#define PCAP_LINUX_V3_COMPAT_CHILD_H

#include <pcap/pcap.h>

#include "pcap-linux-v3/module.h"

/* Makes a handle for an interface that is read by the handle `multi`. It is activated and closed
 * like any other. NULL, with a text, as pcap_create(3PCAP). */
pcap_t* pcapv3_child_create(const char* device, pcap_t* multi, char* error);

/* To be told before it is activated: whether its packets are to get a LINUX_SLL2 header, whatever
 * the interface is, and the longest retire timeout in milliseconds. */
void pcapv3_child_prepare(pcap_t* child, int cooked, unsigned max_retire_ms);

/* The port of an activated handle. */
struct pcapv3_port* pcapv3_child_port(pcap_t* child);

/* Has it filter by `filter` again, or not at all if that is empty, after another filter was set or
 * could not be set. What the kernel refuses now it has refused before, so that it has the old one
 * still. */
void pcapv3_child_restore_filter(pcap_t* child, struct bpf_program* filter);

/* Whether its interface is there no more. Clears the socket's error. */
int pcapv3_child_is_gone(pcap_t* child);

/* Whether it is of another network namespace than the one that this thread is in, as far as the
 * kernel tells. */
int pcapv3_child_is_elsewhere(pcap_t* child);

/* Goes on with another interface of the same name, and the same kind of frames; 0 if there is one.
 * The socket stays, with its ring, its filter and its counts. */
int pcapv3_child_bind_again(pcap_t* child);

/* ---- For handle.c ---- */

/* The handle is activated, and is a child. */
void pcapv3_child_activated(pcap_t* child);
/* Closes the socket that it has for an interface that comes back, if it has one. */
void pcapv3_child_close_spare(pcap_t* child);

#endif
