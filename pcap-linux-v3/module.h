/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The functions of the module that the seam calls, in C: those of ports, each the module's half of
 * a handle on one interface, and of readers, each of which reads one port, or several as one. (The
 * functions that the module calls are in host_ops.h.)
 *
 * A port and a reader belong to their handle and to the thread that uses that; a function that
 * others may call says so. No exception leaves these functions, and none of them allocates memory
 * once the ring exists, except for acquiring blocks: the first time, and after a filter was set.
 */
#ifndef PCAP_LINUX_V3_MODULE_H
#define PCAP_LINUX_V3_MODULE_H

#include <pcap/pcap.h>
#include <signal.h>
#include <stddef.h>

#include "host_ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Returns whether the settings leave the module on. If not, handles are stock ones. */
int pcapv3_is_on(void);

/* ---- Breaks ---- */

/*
 * The state that pcap_breakloop(3PCAP) works on (break.h). It lies in the handle's own memory,
 * which is all zero initially, and so exists until that is freed, whatever of the handle is closed
 * before.
 */
struct pcapv3_break {
  unsigned long long memory[32];
};

/* Called when pcap_breakloop(3PCAP) is: from any thread, or in a signal handler. The first must be
 * called before the break flag is set, the second after it. */
void pcapv3_request_break(struct pcapv3_break* breaking);
void pcapv3_wake_reader(const struct pcapv3_break* breaking);

/* Must be called when the handle is about to be closed: waits for a read by another thread that is
 * on its way out, for at most 50 ms. */
void pcapv3_wait_for_reader(const struct pcapv3_break* breaking);

/* ---- Ports ---- */

struct pcapv3_port;

/*
 * Makes a port for `handle` on interface `device` and reads the settings. Returns NULL, with a text
 * in `error` (PCAP_ERRBUF_SIZE bytes), if a setting is invalid or memory is short.
 */
struct pcapv3_port* pcapv3_port_open(pcap_t* handle, const struct pcapv3_host_ops* host,
                                     const char* device, char* error);
/* Writes the summary if it was requested, unmaps the ring and frees the port. NULL is allowed. */
void pcapv3_port_close(struct pcapv3_port* port);
const char* pcapv3_port_error(const struct pcapv3_port* port);

/* The first returns whether this process reads the port or, if none has read it yet, has made it,
 * rather than being a forked one that has a copy of it; the second, whether nobody else can have a
 * copy. */
int pcapv3_port_is_own(const struct pcapv3_port* port);
int pcapv3_port_is_sole(const struct pcapv3_port* port);

/* These return whether a summary was requested; whether a handle in immediate mode uses V3 here;
 * and whether it also gets a second ring, of V2 slots (adaptive/slot_ring.h). */
int pcapv3_port_wants_summary(const struct pcapv3_port* port);
int pcapv3_port_takes_immediate(const struct pcapv3_port* port);
int pcapv3_port_adapts(const struct pcapv3_port* port);

/*
 * fans_out returns whether the handle shares an interface's packets with others. If so, the
 * drop-all filter must be attached to its socket before it is bound, and it must join the others
 * when it is bound to interface `index` and has its ring. These return 0, or -1 with a text in
 * pcapv3_port_error().
 */
int pcapv3_port_fans_out(const struct pcapv3_port* port);
int pcapv3_port_attach_drop_all(struct pcapv3_port* port, int fd);
int pcapv3_port_join_fanout(struct pcapv3_port* port, int fd, int index, int loopback);

/*
 * Continues with the socket `spare` in place of the handle's `fd`, which is that socket's from then
 * on: a new ring, the old filter, and a group. `spare` must have the drop-all filter and be bound
 * to interface `index`, and all packets must have been read. Returns 0, or -1 with everything as it
 * was, and the reason in the debug log. The ring has as many blocks as the handle's first one, or
 * fewer if memory is short.
 */
int pcapv3_port_replace_socket(struct pcapv3_port* port, int fd, int spare, int index,
                               int loopback);

/* What a ring is requested for. */
struct pcapv3_ring_request {
  unsigned buffer_bytes; /* the tool's, or stock's default */
  int timeout_ms;
  int immediate;
  int ifindex; /* -1 for all */
  int cooked;
  unsigned max_retire_ms; /* the longest retire timeout; 0: no such limit */
  int flow_hash;          /* each packet must have a flow hash */
  size_t private_size;    /* bytes of each block reserved for the program */
};

/*
 * Makes and maps the port's ring on socket `fd`, which must already be at TPACKET_V3. Returns -1
 * with errno if that is impossible; pcapv3_port_error() then has a text if there is more to say.
 */
int pcapv3_port_make_ring(struct pcapv3_port* port, int fd,
                          const struct pcapv3_ring_request* request);

/* Returns where the ring is, and how many blocks of how many bytes it has. Without a ring, it has
 * no blocks. */
struct pcapv3_ring {
  void* base;
  unsigned block_count;
  unsigned block_bytes;
};
struct pcapv3_ring pcapv3_port_ring(const struct pcapv3_port* port);
/* Returns how many blocks hold packets that have not been read, plus the one that the kernel is
 * filling. */
unsigned pcapv3_port_unfinished_blocks(const struct pcapv3_port* port);

/* Looks at the handle again: must be called after activation, and after everything that changes a
 * struct pcapv3_host_view. */
void pcapv3_port_refresh(struct pcapv3_port* port);
/* Does the same as pcapv3_port_refresh() and notes since when the handle has its new filter. Must
 * be called as soon as the kernel has that filter. */
void pcapv3_port_filter_set(struct pcapv3_port* port);

/*
 * After a read that a break ended and that delivered everything that had come by then, stores
 * ps_recv and ps_drop for pcap_stats(3PCAP), frozen as of the break, and returns 1, until the next
 * read; otherwise returns 0. Signal handlers may call it.
 */
int pcapv3_port_frozen_stats(const struct pcapv3_port* port, struct pcap_stat* stats);
/* The second adds what PACKET_STATISTICS returned and cleared; the first must be called before that
 * is read. */
void pcapv3_port_before_count(struct pcapv3_port* port);
void pcapv3_port_count(struct pcapv3_port* port, unsigned packets, unsigned drops,
                       unsigned freezes);

/* Returns whether the program holds a block. */
int pcapv3_port_has_outstanding(const struct pcapv3_port* port);

/* Logs that this handle is a stock one, because of `why`, if PCAPV3_DEBUG is set. */
void pcapv3_port_log_stock(struct pcapv3_port* port, const char* why);

/* ---- Names of several ports ---- */

enum { PCAPV3_MAX_PORTS = 64, PCAPV3_NAME_BYTES = 16 /* IF_NAMESIZE */ };

struct pcapv3_port_names {
  unsigned count;
  char names[PCAPV3_MAX_PORTS][PCAPV3_NAME_BYTES];
};

/* Reads a list of ports, "eth1,eth2". Returns -1, with a text in `error` (PCAP_ERRBUF_SIZE bytes),
 * if it is not a valid one. */
int pcapv3_read_port_names(const char* list, struct pcapv3_port_names* names, char* error);

/*
 * Gets number `number`, counted from 0, of the lists that PCAPV3_PORTS adds to device lists.
 * Returns 1, with its ports in `names` and its name in `name`, of `room` bytes; 0 if there are
 * fewer lists; -1, with a text in `error`, if the setting is invalid.
 */
int pcapv3_listed_ports(unsigned number, struct pcapv3_port_names* names, char* name, size_t room,
                        char* error);

/* ---- Readers ---- */

struct pcapv3_reader;

/* Makes the reader of a handle, whose break flag is `break_flag`, and reads the settings. Returns
 * NULL, with a text in `error` (PCAP_ERRBUF_SIZE bytes), if that fails. */
struct pcapv3_reader* pcapv3_reader_open(pcap_t* handle, const struct pcapv3_host_ops* host,
                                         volatile sig_atomic_t* break_flag,
                                         struct pcapv3_break* breaking, char* error);
/* Closes the reader's descriptors and frees it. NULL is allowed. */
void pcapv3_reader_close(struct pcapv3_reader* reader);
const char* pcapv3_reader_error(const struct pcapv3_reader* reader);

/* Has the reader read `port`, which must have its ring; `socket` is its socket. */
void pcapv3_reader_set_port(struct pcapv3_reader* reader, struct pcapv3_port* port, int socket);

/*
 * Gives a port in immediate mode a second ring, of V2 slots. `frames` must be an unbound socket of
 * the same type as the handle's, cooked or not, made before that one; the reader closes it from
 * then on. Making the ring begins before the handle is activated, and goes on meanwhile. When it is
 * made, its socket must be bound as the handle's is, and added. The first read joins the two
 * (adaptive/pair.h). The functions that return an int return 0, or -1 with the reason in the debug
 * log: the port then does without, and pcapv3_reader_drop_frames() must be called if begin was.
 */
struct pcapv3_slots_request {
  int ifindex; /* 0: all interfaces */
  int cooked;
  unsigned snapshot;     /* maximum bytes of a packet wanted */
  unsigned max_frame;    /* the bytes of the interface's largest frame, as stock code sees it; 0: it
                            does not know */
  unsigned buffer_bytes; /* the tool's, or stock's default */
};
void pcapv3_reader_begin_frames(struct pcapv3_reader* reader, struct pcapv3_port* port, int frames,
                                const struct pcapv3_slots_request* request);
int pcapv3_reader_made_frames(struct pcapv3_reader* reader);
int pcapv3_reader_add_frames(struct pcapv3_reader* reader);
void pcapv3_reader_drop_frames(struct pcapv3_reader* reader);
/* The first begins to close that ring, once nothing is read any more, and returns while that goes
 * on; the second waits until it is closed. NULL is allowed. */
struct pcapv3_frames;
struct pcapv3_frames* pcapv3_reader_close_frames(struct pcapv3_reader* reader);
void pcapv3_wait_for_frames(struct pcapv3_frames* frames);
/* Return that ring's socket; -1 if there is none (any more) or, from the second, if no packets come
 * there. */
int pcapv3_reader_frames_socket(const struct pcapv3_reader* reader);
int pcapv3_reader_second_socket(const struct pcapv3_reader* reader);

/* Makes what reading several ports as one needs. Returns 0, or -1 with a text. */
int pcapv3_reader_open_ports(struct pcapv3_reader* reader);
/* Reads ports 0 to `count - 1`, either as the first ports or in place of the same number of present
 * ones. Must be called before the first read. Returns 0, or -1 with a text; the reader then keeps
 * what it had. */
int pcapv3_reader_set_ports(struct pcapv3_reader* reader, unsigned count,
                            struct pcapv3_port* const* ports, const int* sockets);
/* Returns the longest retire timeout that such ports' rings should have, in milliseconds. */
unsigned pcapv3_reader_max_retire_ms(const struct pcapv3_reader* reader);

/* Takes all ports out. Must be called before they are closed. */
void pcapv3_reader_remove_ports(struct pcapv3_reader* reader);

/* Returns whether a read has been called. */
int pcapv3_reader_has_read(const struct pcapv3_reader* reader);
/* Must be called after the ports' refresh: even in a callback, the packets after the present one
 * are delivered as the ports' plans now say. */
void pcapv3_reader_follow(struct pcapv3_reader* reader);
/* Set whether reads never wait, and whether a read waits until it has a packet, however long. */
void pcapv3_reader_set_nonblocking(struct pcapv3_reader* reader, int nonblocking);
void pcapv3_reader_set_no_timeout(struct pcapv3_reader* reader, int no_timeout);

/* The first returns a descriptor for select(2), poll(2) and epoll(7), readable whenever a packet
 * can be delivered; -1 if it is the port's socket. The second returns whether the program is one of
 * those that must not get one; their reads return after `timeout_ms`, if that is above 0, without a
 * packet. */
int pcapv3_reader_descriptor(const struct pcapv3_reader* reader);
int pcapv3_reader_hides_descriptor(struct pcapv3_reader* reader, int timeout_ms);
/* Must be called when the program is given the descriptor, which from then on reports when it is
 * time to read. Returns 0 if the program must get the port's socket instead. Any thread may call
 * it. */
int pcapv3_reader_watch_descriptor(struct pcapv3_reader* reader);

/* Must be called when the program is given the port's socket, which then stays as it is: its ring
 * no longer grows (growth/growth.h). Any thread may call it. */
void pcapv3_reader_keep_socket(struct pcapv3_reader* reader);

/* Has all packets of a port in immediate mode come as blocks from now on, for a program that does
 * more with the socket than read. Those that already came by the second ring are still read. If
 * none ever did, and nobody has the descriptor, the port is read as if it had never had a second
 * ring, and the program waits on its socket. Any thread may call it. */
void pcapv3_reader_use_blocks_only(struct pcapv3_reader* reader);

/* Reads packets as libpcap's read_op: pcap_dispatch(3PCAP) says what it returns. */
int pcapv3_reader_read(struct pcapv3_reader* reader, int count, pcap_handler callback,
                       u_char* user);
/* Called in the callback: returns whether the packet stays where it is until the next read. */
int pcapv3_reader_keeps_packet(const struct pcapv3_reader* reader);
/* Acquires a block, as pcap_v3_next_block(3) describes. */
struct pcap_v3_block;
int pcapv3_reader_acquire(struct pcapv3_reader* reader, int timeout_ms,
                          struct pcap_v3_block** block);

#ifdef __cplusplus
}
#endif

#endif
