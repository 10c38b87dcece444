/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the handle on several interfaces (multi.c) is to the rest of the seam.
 */
#ifndef PCAP_LINUX_V3_COMPAT_MULTI_H
#define PCAP_LINUX_V3_COMPAT_MULTI_H

#include <pcap/pcap.h>

/* Whether a device's name is a list of ports. An interface that is really called so wins. */
int pcapv3_is_multi(const char* device);

/* As pcap_create_interface() of libpcap, for a list of ports. */
pcap_t* pcapv3_multi_create(const char* device, char* error);

/* The text of PCAP_ERROR_IFACE_NOT_UP has the name of a port that was not up, on this thread, until
 * another activation begins. */
void pcapv3_multi_forget_not_up(void);

/* `descriptor`, which a program gets for the handle `p`, whatever kind that is. */
int pcapv3_multi_give_descriptor(pcap_t* p, int descriptor);

/* The lists that PCAPV3_PORTS has, one after the other; see pcapv3_listed_ports(). Adds
 * them to a list of devices: 0, or -1 with a text. */
struct pcap_if_list;
int pcapv3_multi_find_devices(struct pcap_if_list* devices, char* error);

#endif
