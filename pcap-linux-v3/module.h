/*
 * What libpcap calls in the module: one port, the module's half of a capture handle. The other half
 * is a stock handle; compat/pcap_linux.c joins them.
 *
 * C linkage. A port belongs to its handle and to the thread that uses that; only the break flag is
 * touched by others. No exception leaves these functions, and none of them allocates memory once
 * the ring is there.
 */
#ifndef PCAP_LINUX_V3_MODULE_H
#define PCAP_LINUX_V3_MODULE_H

#include <pcap/pcap.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pcapv3_port;

/* Whether the settings leave the module on. When not, handles are stock ones. */
int pcapv3_is_on(void);

/*
 * Makes a port for `handle` on interface `device` and reads the settings. NULL, with a text in
 * `error` (PCAP_ERRBUF_SIZE bytes), if one can't be used or memory is short.
 */
struct pcapv3_port* pcapv3_open(pcap_t* handle, const char* device, char* error);

/* Writes the summary if one was asked for, unmaps the ring and frees the port. NULL is allowed. */
void pcapv3_close(struct pcapv3_port* port);

/* Whether a summary was asked for. */
int pcapv3_keeps_books(const struct pcapv3_port* port);

/* Whether a handle in immediate mode is to use V3 here. */
int pcapv3_takes_immediate(const struct pcapv3_port* port);

/* What the ring is to be made for. */
struct pcapv3_wish {
  unsigned buffer_bytes; /* the tool's, or stock's default */
  int timeout_ms;
  int immediate;
  int interface; /* index; -1 for all */
  int cooked;
};

/*
 * Makes and maps the port's ring on socket `fd`, already at TPACKET_V3. -1 with errno if it can't
 * be; pcapv3_error() then has a text if there is more to say.
 */
int pcapv3_make_ring(struct pcapv3_port* port, int fd, const struct pcapv3_wish* wish);
const char* pcapv3_error(const struct pcapv3_port* port);

/* The ring: where it is, how many blocks of how many bytes. No blocks: the port has no ring. */
void* pcapv3_ring_base(const struct pcapv3_port* port);
unsigned pcapv3_block_count(const struct pcapv3_port* port);
unsigned pcapv3_block_bytes(const struct pcapv3_port* port);
/* The block that is being read or will be next. */
unsigned pcapv3_block_index(const struct pcapv3_port* port);

/* Looks at the handle again: after activation, and after everything that changes a
 * struct pcap_linux_view. */
void pcapv3_refresh(struct pcapv3_port* port);

/* The handle has a new filter: pcapv3_refresh(), and it is known since when. To be called as soon
 * as the kernel has it. */
void pcapv3_filter_set(struct pcapv3_port* port);

/* Reads packets; a read_op of libpcap: pcap_dispatch(3PCAP) tells what it returns. */
int pcapv3_read(struct pcapv3_port* port, int count, pcap_handler callback, u_char* user);

/* pcap_breakloop(3PCAP) is being called: from any thread or in a signal handler. To be called
 * before the break flag is set. */
void pcapv3_break(struct pcapv3_port* port);

/*
 * After a read that a break ended and that handed over all that had come by then: the counts for
 * pcap_stats(3PCAP) as of the break, ps_recv and ps_drop, and 1. Until the next read they stay;
 * else 0.
 */
int pcapv3_closed_books(const struct pcapv3_port* port, struct pcap_stat* stats);

/* Adds what PACKET_STATISTICS told and cleared. */
void pcapv3_count(struct pcapv3_port* port, unsigned packets, unsigned drops, unsigned freezes);

/* A line for the debug log: this handle is a stock one, because of `why`. */
void pcapv3_say_stock(struct pcapv3_port* port, const char* why);

#ifdef __cplusplus
}
#endif

#endif
