/*
 * Between the two halves of the seam: pcap_linux.c, which makes a handle for one interface, and
 * aggregate.c, which makes one handle of several of these. Nobody else includes it.
 */
#ifndef PCAP_LINUX_V3_COMPAT_MEMBER_H
#define PCAP_LINUX_V3_COMPAT_MEMBER_H

#include <pcap/pcap.h>

#include "pcap-linux-v3/module.h"

/* ---- pcap_linux.c ---- */

/* Makes a handle for an interface that is read by `aggregate`, whose break flag it takes for its
 * own. It is activated and closed like any other. NULL, with a text, as pcap_create(3PCAP). */
pcap_t* pcapv3_member_create(const char* device, pcap_t* aggregate, char* error);

/* To be told before it is activated: whether its packets are to get a LINUX_SLL2 header, whatever
 * the interface is, and the longest retire timeout in milliseconds. */
void pcapv3_member_prepare(pcap_t* member, int cooked, unsigned most_retire_ms);

/* The port of an activated handle. */
struct pcapv3_port* pcapv3_member_port(pcap_t* member);

/* Has it filter by `filter` again, or not at all if that is empty, after another filter was set or
 * could not be set. What the kernel refuses now it has refused before, so that it has the old one
 * still. */
void pcapv3_member_restore_filter(pcap_t* member, struct bpf_program* filter);

/* Whether its interface is there no more. Clears the socket's error. */
int pcapv3_member_is_gone(pcap_t* member);

/* Whether it is of another network namespace than the one that this thread is in, as far as the
 * kernel tells. */
int pcapv3_member_is_elsewhere(pcap_t* member);

/* Goes on with another interface of the same name, and the same kind of frames; 0 if there is one.
 * The socket stays, with its ring, its filter and its counts. */
int pcapv3_member_bind_again(pcap_t* member);

/* ---- aggregate.c ---- */

/* Whether a device's name is a list of ports. An interface that is really called so wins. */
int pcapv3_is_aggregate(const char* device);

/* As pcap_create_interface() of libpcap, for a list of ports. */
pcap_t* pcapv3_aggregate_create(const char* device, char* error);

/* The text of PCAP_ERROR_IFACE_NOT_UP has the name of a port that was not up, on this thread, until
 * another activation begins. */
void pcapv3_forget_not_up(void);

/* `descriptor`, which a program gets for the handle `p`, whatever kind that is. */
int pcapv3_aggregate_give_descriptor(pcap_t* p, int descriptor);

/* The aggregates that PCAPV3_PORTS names, one after the other; see pcapv3_listed_ports(). Adds
 * them to a list of devices: 0, or -1 with a text. */
struct pcap_if_list;
int pcapv3_aggregate_find_devices(struct pcap_if_list* devices, char* error);

#endif
