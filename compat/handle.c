/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A handle on one network interface: its operations, which replace stock code's once it is
 * activated, and what an activation adds to stock code's own.
 *
 *   - Packets and blocks are read by the module's reader.
 *   - In immediate mode the handle stays on V3, with a second socket for single packets.
 *   - For fan-out, the socket joins its group.
 *   - If the handle is closed while blocks are outstanding, the socket, which these keep open, is
 *     made silent.
 *
 * None of this applies to a handle that has to be a stock one (PCAPV3=off, monitor mode, CAN, a
 * kernel without a sound V3).
 */
#include "compat/handle.h"

#include <config.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "compat/blocks.h"
#include "compat/names.h"
#include "compat/status.h"
#include "compat/stock.h"
#include "pcap-int.h"
#include "pcap-linux-v3/dump_run.h"

static struct pcapv3_handle* joined(pcap_t* p) { return pcapv3_handle_of(p); }

static void set_error(pcap_t* p, const char* text) {
  snprintf(p->errbuf, sizeof(p->errbuf), "%s", text);
}

/* ---- Its operations ---- */

static int port_read(pcap_t* p, int count, pcap_handler callback, u_char* user) {
  pcapv3_dump_run.header = 0; /* for a read in another's callback: this one may wait */
  return pcapv3_reader_read(joined(p)->reader, count, callback, user);
}

/* Makes the reader, if it is this handle's own, deliver by the port's present plan. */
static void follow(pcap_t* p) {
  if (joined(p)->reader != NULL) pcapv3_reader_follow(joined(p)->reader);
}

void pcapv3_refresh(pcap_t* p) {
  pcapv3_port_refresh(joined(p)->port);
  follow(p);
}

static int port_setfilter(pcap_t* p, struct bpf_program* filter) {
  int old_blocks = 0;
  const int status = pcapv3_stock_setfilter(p, filter, &old_blocks);
  if (old_blocks != 0) {
    /* These are the blocks that have been handed over, the one that is being filled and, as in
     * stock code, one more if packets are coming, since a packet can have passed the old filter and
     * be stored behind these. */
    const int unfinished = (int)pcapv3_port_unfinished_blocks(joined(p)->port);
    pcapv3_stock_filter_old_blocks(p, unfinished > 1 ? unfinished + 1 : 1);
  }
  pcapv3_port_filter_set(joined(p)->port);
  follow(p);
  return status;
}

static int port_setdirection(pcap_t* p, pcap_direction_t direction) {
  const int status = pcapv3_stock_setdirection(p, direction);
  pcapv3_refresh(p);
  return status;
}

static int port_set_datalink(pcap_t* p, int link_type) {
  const int status = pcapv3_stock_set_datalink(p, link_type);
  pcapv3_refresh(p);
  return status;
}

static int port_setnonblock(pcap_t* p, int nonblock) {
  const int status = pcapv3_stock_setnonblock(p, nonblock);
  if (joined(p)->reader != NULL) {
    pcapv3_reader_set_nonblocking(joined(p)->reader, pcapv3_stock_state(p).timeout < 0);
  }
  pcapv3_refresh(p);
  return status;
}

static int port_stats(pcap_t* p, struct pcap_stat* stats) {
  /* After a drain the statistics are frozen until the next read. */
  if (!pcapv3_port_frozen_stats(joined(p)->port, stats)) return pcapv3_stock_stats(p, stats);
  stats->ps_ifdrop = pcapv3_stock_state(p).interface_dropped;
  return 0;
}

static void port_breakloop(pcap_t* p) {
  pcapv3_request_break(&joined(p)->breaking);
  pcapv3_stock_breakloop(p);
  pcapv3_wake_reader(&joined(p)->breaking);
}

/* pcap_next(3PCAP) and pcap_next_ex(3PCAP) return the packet in its block, which is not released
 * until the next call. A block's last packet is copied instead: while its block is kept, the socket
 * reports itself readable (af_packet.c: packet_poll) and select(2) would not wait. */
static void port_oneshot(u_char* user, const struct pcap_pkthdr* header, const u_char* bytes) {
  const pcap_t* p = ((struct oneshot_userdata*)user)->pd;
  /* (With two rings the descriptor to select on reports only packets that have come.) */
  const struct pcapv3_reader* reader = joined((pcap_t*)p)->reader;
  if (reader != NULL && pcapv3_reader_keeps_packet(reader)) {
    ONESHOT(user, header, bytes);
  } else {
    joined((pcap_t*)p)->copying_oneshot(user, header, bytes);
  }
}

/* ---- Immediate mode by two rings ---- */

enum { kStockBufferBytes = 2 * 1024 * 1024 }; /* pcap-linux.c: pcap_activate_linux */

static int is_loopback(const pcap_t* p, int index) {
  return index > 0 && index == pcapv3_stock_state(p).lo_ifindex;
}

/* Begins to make the second ring. This takes the kernel as long as all else in an activation, and
 * goes on in the background. */
static void begin_second(pcap_t* p, struct pcapv3_port* port, int cooked) {
  const int fd = socket(PF_PACKET, (cooked ? SOCK_DGRAM : SOCK_RAW) | SOCK_CLOEXEC, 0);
  joined(p)->second_cooked = cooked;
  if (fd < 0) return;
  const int snapshot = p->snapshot; /* pcap_activate_linux() adjusts it likewise */
  const struct pcapv3_slots_request request = {
      .ifindex = pcapv3_stock_index(p, fd),
      .cooked = cooked,
      .snapshot =
          snapshot <= 0 || snapshot > MAXIMUM_SNAPLEN ? MAXIMUM_SNAPLEN : (unsigned)snapshot,
      .max_frame = pcapv3_stock_max_frame(p, fd),
      .buffer_bytes = p->opt.buffer_size != 0 ? p->opt.buffer_size : kStockBufferBytes,
  };
  pcapv3_reader_begin_frames(joined(p)->reader, port, fd, &request);
}

/* Makes the second socket like the handle's own in all respects, and makes the reader read both;
 * the first read joins them. Without it, a handle in immediate mode has blocks only. */
static void add_second(pcap_t* p) {
  const struct pcapv3_stock_state stock = pcapv3_stock_state(p);
  struct pcapv3_reader* reader = joined(p)->reader;
  if (!stock.cooked != !joined(p)->second_cooked) {
    /* The guess about the kind of socket was wrong. This new socket is newer than the handle's own:
     * after the interface has been down, all packets come in blocks (fanout.cc). */
    pcapv3_reader_drop_frames(reader);
    begin_second(p, joined(p)->port, stock.cooked);
  }
  if (pcapv3_reader_made_frames(reader) != 0 ||
      pcapv3_stock_bind(p, pcapv3_reader_frames_socket(reader), stock.ifindex) != 0 ||
      pcapv3_reader_add_frames(reader) != 0) {
    pcapv3_reader_drop_frames(reader);
    return;
  }
  p->selectable_fd = pcapv3_reader_descriptor(reader);
}

/* Makes the handle's own reader read the port's packets. */
static void read_port(pcap_t* p, int adapts) {
  struct pcapv3_reader* reader = joined(p)->reader;
  pcapv3_reader_set_port(reader, joined(p)->port, p->fd);
  pcapv3_reader_set_no_timeout(reader, pcapv3_stock_state(p).timeout == 0);
  pcapv3_reader_set_nonblocking(reader, pcapv3_stock_state(p).timeout < 0);
  if (adapts) add_second(p);
  if (pcapv3_reader_hides_descriptor(reader, p->opt.timeout)) p->selectable_fd = -1;
}

/* Closes the reader. Here and below, a program's signal handlers run as long as its process lives,
 * and may call any function of a handle that is being closed. They must find what they use whole,
 * or not at all, so it is removed from the handle first. */
static void close_reader(pcap_t* p) {
  struct pcapv3_reader* reader = joined(p)->reader;
  if (reader == NULL) return;
  joined(p)->reader = NULL;
  atomic_signal_fence(memory_order_seq_cst);
  pcapv3_reader_close(reader);
}

/* Uses blocks only from now on, for a program that may do with the handle's socket what the library
 * can't see. Any thread may call it. */
static void settle(pcap_t* p) {
  if (p->read_op != port_read || joined(p)->reader == NULL) return;
  pcapv3_reader_use_blocks_only(joined(p)->reader);
}

static void leave_port(pcap_t* p) {
  struct pcapv3_port* port = joined(p)->port;
  close_reader(p);
  if (pcapv3_has_ring(p)) pcapv3_stock_hide_ring(p);
  joined(p)->port = NULL;
  atomic_signal_fence(memory_order_seq_cst);
  pcapv3_port_close(port);
}

/* ---- Its end ---- */

/* Makes the socket silent. Outstanding blocks keep the ring mapped, and the mapping keeps the
 * socket open whatever is closed (af_packet.c: packet_mmap; the mapping holds the file). Until they
 * are released, the socket must cost nobody anything: no packet comes to it any more, and it leaves
 * the interface, except for its place in a group of PACKET_FANOUT, which it can't leave. */
static void silence(pcap_t* p) {
  /* No packet has this protocol, which is "internal only". A protocol of 0 would mean to keep the
   * present one. */
  const struct sockaddr_ll nowhere = {.sll_family = AF_PACKET,
                                      .sll_protocol = htons(0x0005 /* ETH_P_SNAP */)};
  pcapv3_stock_attach_drop_all(p);
  (void)bind(p->fd, (const struct sockaddr*)&nowhere, sizeof(nowhere));
  if (p->opt.promisc) {
    const struct packet_mreq request = {.mr_ifindex = pcapv3_stock_state(p).ifindex,
                                        .mr_type = PACKET_MR_PROMISC};
    (void)setsockopt(p->fd, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &request, sizeof(request));
  }
}

static void port_cleanup(pcap_t* p) {
  struct pcapv3_port* port = joined(p)->port;
  pcapv3_wait_for_reader(&joined(p)->breaking);
  if (pcapv3_port_has_outstanding(port) && pcapv3_port_is_sole(port)) silence(p);
  /* The summary includes what the kernel counted. Reading the counts clears them, for a forked
   * process, too. (Packets of a group that came after the last read are missing elsewhere.) */
  struct pcap_stat last;
  if (pcapv3_port_wants_summary(port) && pcapv3_port_is_own(port) &&
      (pcapv3_port_fans_out(port) || !pcapv3_port_frozen_stats(port, &last))) {
    pcapv3_host_ops.count(p);
  }
  /* A handle that is being closed is a stock one. */
  pcapv3_stock_take_over(p);
  p->oneshot_callback = joined(p)->copying_oneshot;
  struct pcapv3_reader* reader = joined(p)->reader;
  struct pcapv3_frames* second = NULL;
  if (reader != NULL) {
    pcapv3_reader_remove_ports(reader);
    second = pcapv3_reader_close_frames(reader);
  }
  leave_port(p);
  pcapv3_stock_cleanup(p);
  /* This comes last: it takes the kernel milliseconds, and the group has been left by now. */
  if (joined(p)->closed != NULL) joined(p)->closed(p);
  pcapv3_wait_for_frames(second);
}

/* ---- Its activation ---- */

/* Returns why this handle can't have a port, or NULL if it can. */
static const char* must_be_stock(const pcap_t* p, const struct pcapv3_port* port) {
  if (p->opt.rfmon) return "monitor mode";
  if (pcapv3_stock_has_broken_v3())
    return "this kernel has no sound TPACKET_V3 (3.19 and later have)";
  /* A multi-interface capture can only use V3, however coarse the kernel's timer is. */
  if (p->opt.immediate && joined((pcap_t*)p)->multi == NULL && !pcapv3_port_takes_immediate(port))
    return "immediate mode is to use V2";
  return NULL;
}

static int join_fanout(pcap_t* p, struct pcapv3_port* port) {
  const int index = pcapv3_stock_state(p).ifindex;
  if (pcapv3_port_join_fanout(port, p->fd, index, is_loopback(p, index)) == 0) {
    return 0;
  }
  set_error(p, pcapv3_port_error(port));
  return -1;
}

static int port_activate(pcap_t* p) {
  if (joined(p)->multi == NULL) pcapv3_forget_not_up();
  if (p->opt.device == NULL) {
    /* A failed activation frees the name (pcap.c: pcap_cleanup_live_common), but stock code reads
     * it. */
    set_error(p, "a handle whose activation has failed can't be activated again");
    return PCAP_ERROR;
  }
  struct pcapv3_port* port = pcapv3_port_open(p, &pcapv3_host_ops, p->opt.device, p->errbuf);
  if (port != NULL && joined(p)->multi == NULL) {
    joined(p)->reader =
        pcapv3_reader_open(p, &pcapv3_host_ops, &p->break_loop, &joined(p)->breaking, p->errbuf);
    if (joined(p)->reader == NULL) {
      pcapv3_port_close(port);
      port = NULL;
    }
  }
  if (port == NULL) {
    pcapv3_stock_cleanup(p); /* as pcap_activate_linux() does when it fails */
    return PCAP_ERROR;
  }
  const char* why = must_be_stock(p, port);
  joined(p)->immediate = p->opt.immediate;
  if (why == NULL) {
    joined(p)->port = port;
    p->opt.immediate = 0; /* else prepare_tpacket_socket() would choose V2 */
  }
  if (pcapv3_port_fans_out(port)) joined(p)->joining = port;
  const int adapts = why == NULL && joined(p)->immediate && joined(p)->multi == NULL &&
                     !pcapv3_stock_has_own_clock(p) && pcapv3_port_adapts(port);
  if (adapts) begin_second(p, port, strcmp(p->opt.device, "any") == 0);
  int status = pcapv3_stock_activate(p, joined(p)->cooked);
  p->opt.immediate = joined(p)->immediate;

  joined(p)->joining = NULL;
  if (status >= 0 && pcapv3_port_fans_out(port) && join_fanout(p, port) != 0) {
    joined(p)->port = port;
    leave_port(p);
    pcapv3_stock_cleanup(p);
    return PCAP_ERROR;
  }
  if (status >= 0 && why == NULL && !pcapv3_has_ring(p)) {
    why = pcapv3_stock_has_own_link_type(p) ? "CAN frames" : "this kernel has no TPACKET_V3";
  }
  if (status < 0 || why != NULL) {
    if (status == PCAP_ERROR && pcapv3_port_error(port)[0] != '\0') {
      set_error(p, pcapv3_port_error(port));
    }
    if (status >= 0) pcapv3_port_log_stock(port, why);
    if (status >= 0 && joined(p)->multi != NULL) {
      snprintf(p->errbuf, sizeof(p->errbuf), "it can't be one of several ports: %s", why);
      pcapv3_stock_cleanup(p);
      status = PCAP_ERROR;
    }
    joined(p)->port = port;
    leave_port(p);
    return status;
  }

  pcapv3_stock_show_ring(p);
  p->bufsize = MAXIMUM_SNAPLEN; /* stock's V3 "frame", pcap_bufsize(3PCAP) */
  p->read_op = port_read;
  p->setfilter_op = port_setfilter;
  p->setdirection_op = port_setdirection;
  p->set_datalink_op = port_set_datalink;
  p->setnonblock_op = port_setnonblock;
  p->stats_op = port_stats;
  p->breakloop_op = port_breakloop;
  p->cleanup_op = port_cleanup;
  joined(p)->copying_oneshot = p->oneshot_callback;
  p->oneshot_callback = port_oneshot;
  if (joined(p)->activated != NULL) joined(p)->activated(p);
  pcapv3_port_refresh(port);
  if (joined(p)->multi == NULL) read_port(p, adapts);
  return status;
}

pcap_t* pcapv3_handle_create(const char* device, char* error) {
  pcap_t* p = pcapv3_stock_create_interface(device, error);
  if (p == NULL) return NULL;
  p->activate_op = port_activate;
  p->cleanup_op = pcapv3_stock_close_unactivated;
  return p;
}

/* ---- Blocks (blocks.h) ---- */

int pcapv3_has_port(pcap_t* p) { return p->read_op == port_read; }

int pcapv3_take_block(pcap_t* p, int timeout_ms, struct pcap_v3_block** block) {
  settle(p); /* packets in slots can't be acquired */
  return pcapv3_reader_acquire(joined(p)->reader, timeout_ms, block);
}

int pcapv3_set_flow_hash(pcap_t* p, int flow_hash) {
  if (p->activate_op != port_activate) return -1;
  joined(p)->flow_hash = flow_hash;
  return 0;
}

int pcapv3_set_private_size(pcap_t* p, size_t size) {
  if (p->activate_op != port_activate) return -1;
  joined(p)->private_size = size;
  return 0;
}

/* ---- The socket and the descriptor, which the program is given ---- */

/* The program gets the port's socket, which must stay as it is. */
static void keep_socket(const pcap_t* p) {
  if (p->read_op == port_read && joined((pcap_t*)p)->reader != NULL) {
    pcapv3_reader_keep_socket(joined((pcap_t*)p)->reader);
  }
}

void pcapv3_handle_give_socket(pcap_t* p) {
  settle(p);
  keep_socket(p);
}

int pcapv3_handle_give_descriptor(pcap_t* p, int descriptor) {
  if (descriptor < 0 || p->read_op != port_read || joined(p)->reader == NULL ||
      pcapv3_reader_watch_descriptor(joined(p)->reader)) {
    return descriptor;
  }
  keep_socket(p);
  return p->fd;
}
