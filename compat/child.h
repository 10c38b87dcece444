/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The handles of the ports of a multi-interface handle (child.c), as that handle (multi.c) and
 * ordinary handles (handle.c) use them. No other file includes it.
 */
#ifndef PCAP_LINUX_V3_COMPAT_CHILD_H
#define PCAP_LINUX_V3_COMPAT_CHILD_H

#include <pcap/pcap.h>

#include "pcap-linux-v3/module.h"

/* Makes a handle for an interface that the handle `multi` reads. It is activated and closed like
 * any other. Returns NULL, with a text, on failure, as pcap_create(3PCAP) does. */
pcap_t* pcapv3_child_create(const char* device, pcap_t* multi, char* error);

/* Sets whether its packets get a LINUX_SLL2 header, whatever the interface is, and the longest
 * retire timeout in milliseconds. Must be called before the handle is activated. */
void pcapv3_child_prepare(pcap_t* child, int cooked, unsigned max_retire_ms);

/* Returns the port of an activated handle. */
struct pcapv3_port* pcapv3_child_port(pcap_t* child);

/* Restores `filter`, or no filter if that is empty, after another filter was set or could not be
 * set. If the kernel refuses `filter` now, it has refused the other one, too, and still has the old
 * one. */
void pcapv3_child_restore_filter(pcap_t* child, struct bpf_program* filter);

/* Returns whether its interface no longer exists. Clears the socket's pending error. */
int pcapv3_child_is_gone(pcap_t* child);

/* Returns whether it is in another network namespace than this thread, if the kernel says so. */
int pcapv3_child_is_elsewhere(pcap_t* child);

/* Goes on with another interface of the same name and hardware type. Returns 0 if there is one. The
 * socket stays, with its ring, its filter and its counts, except in a fan-out group. */
int pcapv3_child_bind_again(pcap_t* child);

#endif
