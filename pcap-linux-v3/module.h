/*
 * What libpcap calls in the module: ports, each the module's half of a capture handle, of which the
 * other half is a stock handle (compat/pcap_linux.c joins them); and aggregates, which read several
 * ports as one (compat/aggregate.c).
 *
 * C linkage. A port belongs to its handle and to the thread that uses that; only the break flag is
 * touched by others. No exception leaves these functions, and none of them allocates memory once
 * the ring is there, but for taking blocks: the first time, and after a filter was set.
 */
#ifndef PCAP_LINUX_V3_MODULE_H
#define PCAP_LINUX_V3_MODULE_H

#include <pcap/pcap.h>
#include <signal.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pcapv3_port;

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

/* Whether the settings leave the module on. When not, handles are stock ones. */
int pcapv3_is_on(void);

/*
 * Makes a port for `handle` on interface `device` and reads the settings. NULL, with a text in
 * `error` (PCAP_ERRBUF_SIZE bytes), if one can't be used or memory is short.
 */
struct pcapv3_port* pcapv3_open(pcap_t* handle, struct pcapv3_break* breaking, const char* device,
                                char* error);

/* For a port that is read by itself: opens what a drain of the kernel's block needs. */
void pcapv3_open_grace_period(struct pcapv3_port* port);

/* Whether this process is the one that reads the port, or else has made it, and not one that was
 * forked and has a copy of it; and whether nobody can have a copy. */
int pcapv3_is_own(const struct pcapv3_port* port);
int pcapv3_is_sole(const struct pcapv3_port* port);

/* Writes the summary if one was asked for, unmaps the ring and frees the port. NULL is allowed. */
void pcapv3_close(struct pcapv3_port* port);

/* Whether a summary was asked for. */
int pcapv3_keeps_books(const struct pcapv3_port* port);

/* Whether a handle in immediate mode is to use V3 here; and whether it is to have a ring of frames
 * besides (frame_ring.h). */
int pcapv3_takes_immediate(const struct pcapv3_port* port);
int pcapv3_adapts(const struct pcapv3_port* port);

/*
 * Gives a port that other one. `frames` is a socket of the same type as the handle's, cooked or
 * not, made before that, not bound, and the port's to close from then on. It is begun with before
 * the handle is activated on interface `interface` (0: all), and goes on meanwhile; then its socket
 * is bound as the handle's. The first read joins the two (pair.h). pcapv3_made_frames() is 0, or -1
 * with the debug log told: the port does without.
 */
void pcapv3_begin_frames(struct pcapv3_port* port, int frames, int interface, int cooked);
int pcapv3_made_frames(struct pcapv3_port* port);
void pcapv3_drop_frames(struct pcapv3_port* port);
/* Begins to close it, which goes on meanwhile, when nothing is read any more; and waits for that.
 * NULL is allowed. */
struct pcapv3_frames;
struct pcapv3_frames* pcapv3_close_frames(struct pcapv3_port* port);
void pcapv3_wait_for_frames(struct pcapv3_frames* frames);
/* That socket; -1 if there is none (any more), or for the second, if no packets come there. */
int pcapv3_frames_socket(const struct pcapv3_port* port);
int pcapv3_second_socket(const struct pcapv3_port* port);

/*
 * Whether the handle is to share an interface's packets with others. If so, its socket is shut
 * before it is bound, and joins the others when it is and has its ring, on interface `index`. Each
 * is 0, or -1 with a text in pcapv3_error().
 */
int pcapv3_fans_out(const struct pcapv3_port* port);
int pcapv3_shut(struct pcapv3_port* port, int fd);
int pcapv3_join_fanout(struct pcapv3_port* port, int fd, int index, int loopback);

/*
 * Goes on with the socket `spare`, shut and bound to interface `index`, in place of the handle's
 * `fd`, which is that one's from then on: a new ring, the old filter, and a group. All packets have
 * been read. 0, or -1 with everything as it was, and the debug log told. The ring has as many
 * blocks as the handle's first one, or fewer if memory is short.
 */
int pcapv3_renew(struct pcapv3_port* port, int fd, int spare, int index, int loopback);

/* What the ring is to be made for. */
struct pcapv3_wish {
  unsigned buffer_bytes; /* the tool's, or stock's default */
  int timeout_ms;
  int immediate;
  int interface; /* index; -1 for all */
  int cooked;
  unsigned most_retire_ms; /* the longest retire timeout; 0: no such limit */
  int flow_hash;           /* packets are to have one */
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
/* How many blocks hold packets that have not been read, with the one that the kernel is filling. */
unsigned pcapv3_unfinished_blocks(const struct pcapv3_port* port);

/* Looks at the handle again: after activation, and after everything that changes a
 * struct pcapv3_linux_view. */
void pcapv3_refresh(struct pcapv3_port* port);

/* The handle has a new filter: pcapv3_refresh(), and it is known since when. To be called as soon
 * as the kernel has it. */
void pcapv3_filter_set(struct pcapv3_port* port);

/* Reads packets; a read_op of libpcap: pcap_dispatch(3PCAP) tells what it returns. */
int pcapv3_read(struct pcapv3_port* port, int count, pcap_handler callback, u_char* user);

/* In the callback: whether the packet stays where it is until the next pcapv3_read(), because
 * others of its block are still to be read. */
int pcapv3_can_lend(const struct pcapv3_port* port);

/* Whether the program is one of those that are to have no descriptor to select on. */
int pcapv3_hides_descriptor(const struct pcapv3_port* port);

/*
 * After a read that a break ended and that handed over all that had come by then: the counts for
 * pcap_stats(3PCAP) as of the break, ps_recv and ps_drop, and 1. Until the next read they stay;
 * else 0.
 */
int pcapv3_closed_books(const struct pcapv3_port* port, struct pcap_stat* stats);

/* Adds what PACKET_STATISTICS told and cleared, and is to be told before that is asked for. */
void pcapv3_before_count(struct pcapv3_port* port);
void pcapv3_count(struct pcapv3_port* port, unsigned packets, unsigned drops, unsigned freezes);

/* Takes a block, as pcap_v3_take_block(3) tells; and whether one is not back. */
struct pcap_v3_block;
int pcapv3_take(struct pcapv3_port* port, int timeout_ms, struct pcap_v3_block** block);
int pcapv3_has_lent(const struct pcapv3_port* port);

/* A line for the debug log: this handle is a stock one, because of `why`. */
void pcapv3_say_stock(struct pcapv3_port* port, const char* why);

/* ---- Aggregates, and ports with two rings, which are read as one of one port ---- */

enum { PCAPV3_MOST_PORTS = 64, PCAPV3_NAME_BYTES = 16 /* IF_NAMESIZE */ };

struct pcapv3_port_names {
  unsigned count;
  char names[PCAPV3_MOST_PORTS][PCAPV3_NAME_BYTES];
};

/* Reads a list of ports, "eth1,eth2". -1, with a text in `error` (PCAP_ERRBUF_SIZE bytes), if it
 * can't be one. */
int pcapv3_read_port_names(const char* list, struct pcapv3_port_names* names, char* error);

/*
 * Number `number`, from 0 on, of the aggregates that PCAPV3_PORTS asks device lists to show. 1,
 * with its ports in `names` and its name in `name`, of `room` bytes; 0 if there are not so many;
 * -1, with a text in `error`, if the setting can't be used.
 */
int pcapv3_listed_aggregate(unsigned number, struct pcapv3_port_names* names, char* name,
                            size_t room, char* error);

struct pcapv3_aggregate;

/* Makes the module's half of an aggregate's handle, whose break flag is `break_flag`, and reads the
 * settings. With `lone` it is for one port, whose own handle it is. NULL, with a text in `error`
 * (PCAP_ERRBUF_SIZE bytes). */
struct pcapv3_aggregate* pcapv3_aggregate_open(pcap_t* handle, volatile sig_atomic_t* break_flag,
                                               struct pcapv3_break* breaking, int lone,
                                               char* error);
/* Closes its descriptors. The ports have been removed before. NULL is allowed. */
void pcapv3_aggregate_close(struct pcapv3_aggregate* aggregate);
const char* pcapv3_aggregate_error(const struct pcapv3_aggregate* aggregate);

/* The longest retire timeout that its ports' rings should have, in milliseconds. */
unsigned pcapv3_aggregate_most_retire_ms(const struct pcapv3_aggregate* aggregate);

/* Whether pcapv3_aggregate_read() has been called. */
int pcapv3_aggregate_has_read(const struct pcapv3_aggregate* aggregate);

/* Takes in port number `index`, whose socket is `socket`; 0, with a text, if that fails. The port
 * stays its handle's, which removes it before it goes; so does any that was not taken in. */
int pcapv3_aggregate_add(struct pcapv3_aggregate* aggregate, unsigned index,
                         struct pcapv3_port* port, int socket);
/* Takes in ports 0 to `count - 1`, before the first read, in place of as many that it has, or as
 * the first. 0, with a text, if that fails: it has what it had. */
int pcapv3_aggregate_replace(struct pcapv3_aggregate* aggregate, unsigned count,
                             struct pcapv3_port* const* ports, const int* sockets);
void pcapv3_aggregate_remove(struct pcapv3_aggregate* aggregate, unsigned index);

/* Whether reads never wait, and whether one waits until it has a packet, however long. */
void pcapv3_aggregate_set_nonblocking(struct pcapv3_aggregate* aggregate, int nonblocking);
void pcapv3_aggregate_set_endless(struct pcapv3_aggregate* aggregate, int endless);

/* For select(2), poll(2) and epoll(7): readable whenever a packet can be delivered. And whether the
 * program is one of those that are not to have it, whose reads return after `timeout_ms`, if that
 * is above 0, without a packet. */
int pcapv3_aggregate_descriptor(const struct pcapv3_aggregate* aggregate);
int pcapv3_aggregate_hides_descriptor(struct pcapv3_aggregate* aggregate, int timeout_ms);
/* Tells that the program is given the descriptor, which has to say from now on when it is time to
 * read. 0 if it is to get the lone port's socket instead. From any thread. */
int pcapv3_aggregate_watch_descriptor(struct pcapv3_aggregate* aggregate);

/* Has all packets of a lone port come as blocks from now on, for a program that does more with the
 * socket than to read. Those that came as frames before are still read. If there were none ever,
 * and nobody has the descriptor, the port is alone: it is read as if there had never been frames,
 * and the program waits for its socket. From any thread. */
void pcapv3_aggregate_settle(struct pcapv3_aggregate* aggregate);
int pcapv3_aggregate_is_alone(const struct pcapv3_aggregate* aggregate);

/* As pcapv3_read() and pcapv3_take(). */
int pcapv3_aggregate_read(struct pcapv3_aggregate* aggregate, int count, pcap_handler callback,
                          u_char* user);
int pcapv3_aggregate_take(struct pcapv3_aggregate* aggregate, int timeout_ms,
                          struct pcap_v3_block** block);

#ifdef __cplusplus
}
#endif

#endif
