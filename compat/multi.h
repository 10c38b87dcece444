/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The multi-interface handle (multi.c), as the rest of the seam uses it.
 */
#ifndef PCAP_LINUX_V3_COMPAT_MULTI_H
#define PCAP_LINUX_V3_COMPAT_MULTI_H

#include <pcap/pcap.h>

/* Returns whether a device's name is a list of ports, and not the name of an interface. */
int pcapv3_is_multi(const char* device);

/* Does for a list of ports what libpcap's pcap_create_interface() does for an interface. */
pcap_t* pcapv3_multi_create(const char* device, char* error);

/* Returns `descriptor`, and notes that the program gets it for the handle `p`, of whatever kind. */
int pcapv3_multi_give_descriptor(pcap_t* p, int descriptor);

/* Adds the lists that PCAPV3_PORTS has (pcapv3_listed_ports()) to a list of devices. Returns 0, or
 * -1 with a text. */
struct pcap_if_list;
int pcapv3_multi_find_devices(struct pcap_if_list* devices, char* error);

#endif
