/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the seam calls in the module, in C: ports, each the module's half of a handle on one
 * interface, and readers, each of which reads one port or several as one. (What the module calls is
 * in host_ops.h.)
 *
 * A port and a reader belong to their handle and to the thread that uses that; what others may call
 * says so. No exception leaves these functions, and none of them allocates memory once the ring is
 * there, but for acquiring blocks: the first time, and after a filter was set.
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

/* Returns whether the settings leave the module on. When not, handles are stock ones. */
int pcapv3_is_on(void);

/* ---- Breaks ---- */

/*
 * What pcap_breakloop(3PCAP) works on (break.h). It lies in the handle's own memory, which is all
 * zero at first, and so is there until that is freed, whatever of the handle is closed before.
 */
struct pcapv3_break {
  unsigned long long memory[32];
};

/* pcap_breakloop(3PCAP) is being called: from any thread or in a signal handler. To be called
 * before the break flag is set, and after it. */
void pcapv3_request_break(struct pcapv3_break* breaking);
void pcapv3_wake_reader(const struct pcapv3_break* breaking);

/* The handle is about to be closed: waits for a read by another thread that is on its way out, at
 * most 50 ms. */
void pcapv3_wait_for_reader(const struct pcapv3_break* breaking);

/* ---- Ports ---- */

struct pcapv3_port;

/*
 * Makes a port for `handle` on interface `device` and reads the settings. Returns NULL, with a text
 * in `error` (PCAP_ERRBUF_SIZE bytes), if one can't be used or memory is short.
 */
struct pcapv3_port* pcapv3_port_open(pcap_t* handle, const struct pcapv3_host_ops* host,
                                     const char* device, char* error);
/* Writes the summary if one was asked for, unmaps the ring and frees the port. NULL is allowed. */
void pcapv3_port_close(struct pcapv3_port* port);
const char* pcapv3_port_error(const struct pcapv3_port* port);

/* Whether this process is the one that reads the port, or else has made it, and not one that was
 * forked and has a copy of it; and whether nobody can have a copy. */
int pcapv3_port_is_own(const struct pcapv3_port* port);
int pcapv3_port_is_sole(const struct pcapv3_port* port);

/* Whether a summary was asked for; whether a handle in immediate mode is to use V3 here; and
 * whether it is to have a ring of frames besides (adaptive/slot_ring.h). */
int pcapv3_port_wants_summary(const struct pcapv3_port* port);
int pcapv3_port_takes_immediate(const struct pcapv3_port* port);
int pcapv3_port_adapts(const struct pcapv3_port* port);

/*
 * Whether the handle is to share an interface's packets with others. If so, its socket gets a
 * drop-all filter before it is bound, and joins the others when it is and has its ring, on
 * interface `index`. Each returns 0, or -1 with a text in pcapv3_port_error().
 */
int pcapv3_port_fans_out(const struct pcapv3_port* port);
int pcapv3_port_attach_drop_all(struct pcapv3_port* port, int fd);
int pcapv3_port_join_fanout(struct pcapv3_port* port, int fd, int index, int loopback);

/*
 * Goes on with the socket `spare`, shut and bound to interface `index`, in place of the handle's
 * `fd`, which is that one's from then on: a new ring, the old filter, and a group. All packets have
 * been read. Returns 0, or -1 with everything as it was, and the reason in the debug log. The ring
 * has as many blocks as the handle's first one, or fewer if memory is short.
 */
int pcapv3_port_replace_socket(struct pcapv3_port* port, int fd, int spare, int index,
                               int loopback);

/* What the ring is to be made for. */
struct pcapv3_ring_request {
  unsigned buffer_bytes; /* the tool's, or stock's default */
  int timeout_ms;
  int immediate;
  int ifindex; /* index; -1 for all */
  int cooked;
  unsigned max_retire_ms; /* the longest retire timeout; 0: no such limit */
  int flow_hash;          /* packets are to have one */
  size_t private_size;    /* bytes of each block for the program */
};

/*
 * Makes and maps the port's ring on socket `fd`, already at TPACKET_V3. Returns -1 with errno if
 * that is impossible; pcapv3_port_error() then has a text if there is more to say.
 */
int pcapv3_port_make_ring(struct pcapv3_port* port, int fd,
                          const struct pcapv3_ring_request* request);

/* The ring: where it is, how many blocks of how many bytes. No blocks: the port has no ring. */
struct pcapv3_ring {
  void* base;
  unsigned block_count;
  unsigned block_bytes;
};
struct pcapv3_ring pcapv3_port_ring(const struct pcapv3_port* port);
/* How many blocks hold packets that have not been read, with the one that the kernel is filling. */
unsigned pcapv3_port_unfinished_blocks(const struct pcapv3_port* port);

/* Looks at the handle again: after activation, and after everything that changes a
 * struct pcapv3_host_view. */
void pcapv3_port_refresh(struct pcapv3_port* port);
/* The handle has a new filter: pcapv3_port_refresh(), and it is known since when. To be called as
 * soon as the kernel has it. */
void pcapv3_port_filter_set(struct pcapv3_port* port);

/*
 * After a read that a break ended and that handed over all that had come by then: the counts for
 * pcap_stats(3PCAP) as of the break, ps_recv and ps_drop, and 1. Until the next read they stay;
 * else 0. Signal handlers may call it.
 */
int pcapv3_port_frozen_stats(const struct pcapv3_port* port, struct pcap_stat* stats);
/* Adds what PACKET_STATISTICS told and cleared, and is to be told before that is asked for. */
void pcapv3_port_before_count(struct pcapv3_port* port);
void pcapv3_port_count(struct pcapv3_port* port, unsigned packets, unsigned drops,
                       unsigned freezes);

/* Whether the program holds a block. */
int pcapv3_port_has_outstanding(const struct pcapv3_port* port);

/* A line for the debug log: this handle is a stock one, because of `why`. */
void pcapv3_port_log_stock(struct pcapv3_port* port, const char* why);

/* ---- Names of several ports ---- */

enum { PCAPV3_MAX_PORTS = 64, PCAPV3_NAME_BYTES = 16 /* IF_NAMESIZE */ };

struct pcapv3_port_names {
  unsigned count;
  char names[PCAPV3_MAX_PORTS][PCAPV3_NAME_BYTES];
};

/* Reads a list of ports, "eth1,eth2". Returns -1, with a text in `error` (PCAP_ERRBUF_SIZE bytes),
 * if it can't be one. */
int pcapv3_read_port_names(const char* list, struct pcapv3_port_names* names, char* error);

/*
 * Number `number`, from 0 on, of the lists that PCAPV3_PORTS asks device lists to show. Returns 1,
 * with its ports in `names` and its name in `name`, of `room` bytes; 0 if there are not so many;
 * -1, with a text in `error`, if the setting can't be used.
 */
int pcapv3_listed_ports(unsigned number, struct pcapv3_port_names* names, char* name, size_t room,
                        char* error);

/* ---- Readers ---- */

struct pcapv3_reader;

/* Makes the reader of a handle, whose break flag is `break_flag`, and reads the settings. Returns
 * NULL, with a text in `error` (PCAP_ERRBUF_SIZE bytes). */
struct pcapv3_reader* pcapv3_reader_open(pcap_t* handle, const struct pcapv3_host_ops* host,
                                         volatile sig_atomic_t* break_flag,
                                         struct pcapv3_break* breaking, char* error);
/* Closes its descriptors. NULL is allowed. */
void pcapv3_reader_close(struct pcapv3_reader* reader);
const char* pcapv3_reader_error(const struct pcapv3_reader* reader);

/* Reads `port`, which has its ring; `socket` is its socket. */
void pcapv3_reader_set_port(struct pcapv3_reader* reader, struct pcapv3_port* port, int socket);

/*
 * Gives a port in immediate mode a second ring, of frames. `frames` is a socket of the same type as
 * the handle's, cooked or not, made before that, not bound, and the reader's to close from then on.
 * It is begun with before the handle is activated on interface `interface` (0: all), and goes on
 * meanwhile. When it is made, its socket is bound as the handle's, and added. The first read joins
 * the two (adaptive/pair.h). Those that return an int return 0, or -1 with the reason in the debug
 * log: the port does without, and pcapv3_reader_drop_frames() is to be called if begin was.
 */
void pcapv3_reader_begin_frames(struct pcapv3_reader* reader, struct pcapv3_port* port, int frames,
                                int ifindex, int cooked);
int pcapv3_reader_made_frames(struct pcapv3_reader* reader);
int pcapv3_reader_add_frames(struct pcapv3_reader* reader);
void pcapv3_reader_drop_frames(struct pcapv3_reader* reader);
/* Begins to close it, which goes on meanwhile, when nothing is read any more; and waits for that.
 * NULL is allowed. */
struct pcapv3_frames;
struct pcapv3_frames* pcapv3_reader_close_frames(struct pcapv3_reader* reader);
void pcapv3_wait_for_frames(struct pcapv3_frames* frames);
/* That socket; -1 if there is none (any more), or for the second, if no packets come there. */
int pcapv3_reader_frames_socket(const struct pcapv3_reader* reader);
int pcapv3_reader_second_socket(const struct pcapv3_reader* reader);

/* Makes what reading several ports as one needs. Returns 0, or -1 with a text. */
int pcapv3_reader_open_ports(struct pcapv3_reader* reader);
/* Reads ports 0 to `count - 1`, before the first read, in place of as many that it has, or as the
 * first. Returns 0, or -1 with a text: it has what it had. */
int pcapv3_reader_set_ports(struct pcapv3_reader* reader, unsigned count,
                            struct pcapv3_port* const* ports, const int* sockets);
/* The longest retire timeout that such ports' rings should have, in milliseconds. */
unsigned pcapv3_reader_max_retire_ms(const struct pcapv3_reader* reader);

/* Reads none any more. To be called before the ports are closed. */
void pcapv3_reader_remove_ports(struct pcapv3_reader* reader);

/* Whether a read has been called. */
int pcapv3_reader_has_read(const struct pcapv3_reader* reader);
/* To be called after the ports' refresh: in a callback, the packets after the present one are
 * delivered as the ports say now. */
void pcapv3_reader_follow(struct pcapv3_reader* reader);
/* Whether reads never wait, and whether one waits until it has a packet, however long. */
void pcapv3_reader_set_nonblocking(struct pcapv3_reader* reader, int nonblocking);
void pcapv3_reader_set_no_timeout(struct pcapv3_reader* reader, int no_timeout);

/* A descriptor for select(2), poll(2) and epoll(7), readable whenever a packet can be delivered; -1
 * if it is the port's socket. And whether the program is one of those that are not to have one,
 * whose reads return after `timeout_ms`, if that is above 0, without a packet. */
int pcapv3_reader_descriptor(const struct pcapv3_reader* reader);
int pcapv3_reader_hides_descriptor(struct pcapv3_reader* reader, int timeout_ms);
/* The program is given the descriptor, which has to say from now on when it is time to read.
 * Returns 0 if it is to get the port's socket instead. By any thread. */
int pcapv3_reader_watch_descriptor(struct pcapv3_reader* reader);

/* Has all packets of a port in immediate mode come as blocks from now on, for a program that does
 * more with the socket than to read. Those that came as frames before are still read. If there were
 * none ever, and nobody has the descriptor, the port is read as if there had never been frames, and
 * the program waits for its socket. By any thread. */
void pcapv3_reader_use_blocks_only(struct pcapv3_reader* reader);

/* Reads packets; a read_op of libpcap: pcap_dispatch(3PCAP) says what it returns. */
int pcapv3_reader_read(struct pcapv3_reader* reader, int count, pcap_handler callback,
                       u_char* user);
/* In the callback: whether the packet stays where it is until the next read. */
int pcapv3_reader_keeps_packet(const struct pcapv3_reader* reader);
/* Acquires a block, as pcap_v3_next_block(3) says. */
struct pcap_v3_block;
int pcapv3_reader_acquire(struct pcapv3_reader* reader, int timeout_ms,
                          struct pcap_v3_block** block);

#ifdef __cplusplus
}
#endif

#endif
