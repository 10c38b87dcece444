/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The block API: what pcap-linux-v3 offers to programs beyond libpcap. The kernel hands over
 * captured packets in blocks; a program can acquire these as they are, have any thread walk their
 * packets, and release them in any order. Nothing is copied.
 *
 * It works on handles on network interfaces that pcap_activate(3PCAP) has activated. Each function
 * has a man page of its name in section 3; pcap-linux-v3(7) describes the library.
 */
#ifndef PCAP_LINUX_V3_H
#define PCAP_LINUX_V3_H

#include <pcap/pcap.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#if defined(__GNUC__)
#define PCAP_V3_API __attribute__((visibility("default")))
#else
#define PCAP_V3_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* A block that the program has acquired and not released. */
typedef struct pcap_v3_block pcap_v3_block_t;

/* What is known of a block. Later versions can have more members at the end. */
struct pcap_v3_info {
  struct timespec first; /* time stamp of its first packet, and... */
  struct timespec last;  /* ...of its last, in nanoseconds whatever the handle's precision */
  uint64_t sequence;     /* the number of the block on its port, from 1 on */
  uint32_t packets;      /* the number of packets in it; a walk can return fewer */
  int lost;              /* not 0: packets may be missing before or in it, for want of room */
  unsigned int port;     /* the place of its port in the device's list; 0 if that is no list */
  int ifindex;           /* the interface index of its port; 0 on "any" */
  const char* interface; /* the name of its port's device */
};

/* Sets whether packets have a flow hash. Must be called before activation. */
PCAP_V3_API int pcap_v3_set_flow_hash(pcap_t* p, int flow_hash);

/* Sets the size of each block's private area. Must be called before activation. */
PCAP_V3_API int pcap_v3_set_private_size(pcap_t* p, size_t size);

/* Acquires the next block. Must be called by the thread that uses the handle. */
PCAP_V3_API int pcap_v3_next_block(pcap_t* p, int timeout_ms, pcap_v3_block_t** block);

/* These work on a block. Any thread can call them, one at a time. */
PCAP_V3_API const struct pcap_v3_info* pcap_v3_block_info(const pcap_v3_block_t* block);
PCAP_V3_API int pcap_v3_dispatch_block(pcap_v3_block_t* block, int cnt, pcap_handler callback,
                                       u_char* user);
PCAP_V3_API int pcap_v3_next_packet(pcap_v3_block_t* block, const struct pcap_pkthdr** header,
                                    const u_char** bytes);
PCAP_V3_API void* pcap_v3_block_private(pcap_v3_block_t* block);
PCAP_V3_API void pcap_v3_release_block(pcap_v3_block_t* block);

/* These return facts about the packet that the block's walk returned last. */
PCAP_V3_API uint32_t pcap_v3_packet_hash(const pcap_v3_block_t* block);
PCAP_V3_API int pcap_v3_packet_ifindex(const pcap_v3_block_t* block);

#ifdef __cplusplus
}
#endif

#endif
