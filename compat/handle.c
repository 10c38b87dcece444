/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A handle on one network interface: its operations, which take the place of stock code's once it
 * is activated, and what an activation adds to stock code's own.
 *
 *   - reading packets and blocks: the module's reader.
 *   - immediate mode: stays on V3, with a second socket for single packets.
 *   - fan-out: the socket joins its group.
 *   - closing while the program has blocks: the socket, which these keep, falls silent.
 *
 * Where a handle has to be a stock one (PCAPV3=off, monitor mode, CAN, a kernel without a sound
 * V3), none of this applies to it.
 */
#include "compat/handle.h"

#include <config.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "compat/blocks.h"
#include "compat/child.h"
#include "compat/multi.h"
#include "compat/names.h"
#include "compat/stock.h"
#include "pcap-int.h"
#include "pcap-linux-v3/dump_run.h"

static struct pcapv3_handle* joined(pcap_t* p) { return pcapv3_handle_of(p); }

static void set_error(pcap_t* p, const char* text) {
  snprintf(p->errbuf, sizeof(p->errbuf), "%s", text);
}

/* ---- Its operations ---- */

static int port_read(pcap_t* p, int count, pcap_handler callback, u_char* user) {
  pcapv3_dump_run.header = 0; /* in the callback of another read: this one may wait */
  return pcapv3_reader_read(joined(p)->reader, count, callback, user);
}

/* The reader, if it is this handle's own, delivers as the port says now. */
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
    /* Those that have been handed over, the one that is being filled and, as stock code has it, one
     * more if packets are coming, since one can have passed the old filter and be stored behind
     * these. */
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
  /* After a drain the books are closed until the next read. */
  if (!pcapv3_port_frozen_stats(joined(p)->port, stats)) return pcapv3_stock_stats(p, stats);
  stats->ps_ifdrop = pcapv3_stock_state(p).interface_dropped;
  return 0;
}

static void port_breakloop(pcap_t* p) {
  pcapv3_request_break(&joined(p)->breaking);
  pcapv3_stock_breakloop(p);
  pcapv3_wake_reader(&joined(p)->breaking);
}

/* pcap_next(3PCAP) and pcap_next_ex(3PCAP) lend the packet out of its block, which stays the
 * reader's until the next call. But for a block's last packet: while its block is kept, the socket
 * calls itself readable (af_packet.c: packet_poll) and select(2) would not wait. */
static void port_oneshot(u_char* user, const struct pcap_pkthdr* header, const u_char* bytes) {
  const pcap_t* p = ((struct oneshot_userdata*)user)->pd;
  /* (The descriptor that is selected on for two rings reports only packets that have come.) */
  const struct pcapv3_reader* reader = joined((pcap_t*)p)->reader;
  if (reader != NULL && pcapv3_reader_keeps_packet(reader)) {
    ONESHOT(user, header, bytes);
  } else {
    joined((pcap_t*)p)->copying_oneshot(user, header, bytes);
  }
}

/* ---- Immediate mode by two rings ---- */

static int is_loopback(const pcap_t* p, int index) {
  return index > 0 && index == pcapv3_stock_state(p).lo_ifindex;
}

/* Begins to make the second ring, which takes the kernel as long as all else in an activation, and
 * goes on meanwhile. */
static void begin_second(pcap_t* p, struct pcapv3_port* port, int cooked) {
  const int fd = socket(PF_PACKET, (cooked ? SOCK_DGRAM : SOCK_RAW) | SOCK_CLOEXEC, 0);
  joined(p)->second_cooked = cooked;
  if (fd < 0) return;
  pcapv3_reader_begin_frames(joined(p)->reader, port, fd, pcapv3_stock_index(p, fd), cooked);
}

/* Makes the second socket in all like the handle's own, and has the two read, which are joined by
 * the first read. Without it, a handle in immediate mode has blocks only. */
static void add_second(pcap_t* p) {
  const struct pcapv3_stock_state stock = pcapv3_stock_state(p);
  struct pcapv3_reader* reader = joined(p)->reader;
  if (!stock.cooked != !joined(p)->second_cooked) {
    /* It was taken for another kind. This socket is younger than the handle's own: when the
     * interface has been down, all packets come in blocks (fanout.cc). */
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

/* Has the port's packets read by the handle's own reader. */
static void read_port(pcap_t* p, int adapts) {
  struct pcapv3_reader* reader = joined(p)->reader;
  pcapv3_reader_set_port(reader, joined(p)->port, p->fd);
  pcapv3_reader_set_no_timeout(reader, pcapv3_stock_state(p).timeout == 0);
  pcapv3_reader_set_nonblocking(reader, pcapv3_stock_state(p).timeout < 0);
  if (adapts) add_second(p);
  if (pcapv3_reader_hides_descriptor(reader, p->opt.timeout)) p->selectable_fd = -1;
}

/* Here and below: a program's signal handlers run as long as its process lives, and may call any
 * function of a handle that is being closed. They find what they use whole, or not at all: it is
 * taken off the handle first. */
static void close_reader(pcap_t* p) {
  struct pcapv3_reader* reader = joined(p)->reader;
  if (reader == NULL) return;
  joined(p)->reader = NULL;
  atomic_signal_fence(memory_order_seq_cst);
  pcapv3_reader_close(reader);
}

/* For a program that does more with the handle's socket than this knows of. Any thread may do it.
 */
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

/* Blocks that are still out keep the ring mapped, and that keeps the socket open whatever is closed
 * (af_packet.c: packet_mmap; the mapping holds the file). It is made to cost nobody anything until
 * they are back: nothing comes to it any more, and the interface is rid of it, but for its place in
 * a group of PACKET_FANOUT, which it can't leave. */
static void silence(pcap_t* p) {
  /* What no packet is of, because a protocol of 0 means to keep the present one: "internal only".
   */
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
  /* What the kernel counted goes to the summary. Reading clears it, for a forked process too. (A
   * group's packets that came after the last read are missing elsewhere.) */
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
  pcapv3_child_close_spare(
      p); /* last: it takes the kernel milliseconds, and the group is left by now */
  pcapv3_wait_for_frames(second);
}

/* ---- Its activation ---- */

/* Why this handle can't have a port; NULL if it can. */
static const char* must_be_stock(const pcap_t* p, const struct pcapv3_port* port) {
  if (p->opt.rfmon) return "monitor mode";
  if (pcapv3_stock_has_broken_v3())
    return "this kernel has no sound TPACKET_V3 (3.19 and later have)";
  /* A capture on several interfaces has no other way than V3, whatever the kernel's timer is worth.
   */
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
  if (joined(p)->multi == NULL) pcapv3_multi_forget_not_up();
  if (p->opt.device == NULL) {
    /* A failed activation frees the name (pcap.c: pcap_cleanup_live_common); stock code reads it.
     */
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
    p->opt.immediate = 0; /* which is what makes prepare_tpacket_socket() choose V2 */
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
  if (joined(p)->multi != NULL) pcapv3_child_activated(p);
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
  settle(p); /* frames can't be lent */
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

/* ---- What the rest of libpcap and programs call ---- */

int pcapv3_stock_find_devices(pcap_if_list_t*, char*);
const char* pcapv3_stock_lib_version(void);

pcap_t* CREATE_INTERFACE(const char* device, char* error) {
  if (!pcapv3_is_on()) return pcapv3_stock_create_interface(device, error);
  if (pcapv3_is_multi(device)) return pcapv3_multi_create(device, error);
  return pcapv3_handle_create(device, error);
}

int FIND_DEVICES(pcap_if_list_t* devices, char* error) {
  const int status = pcapv3_stock_find_devices(devices, error);
  return status != 0 || !pcapv3_is_on() ? status : pcapv3_multi_find_devices(devices, error);
}

int pcapv3_stock_fileno(pcap_t*);
int pcapv3_stock_get_selectable_fd(pcap_t*);

int pcap_fileno(pcap_t* p) {
  settle(p);
  return pcapv3_multi_give_descriptor(p, pcapv3_stock_fileno(p));
}

int pcap_get_selectable_fd(pcap_t* p) {
  int descriptor = pcapv3_stock_get_selectable_fd(p);
  if (descriptor >= 0 && p->read_op == port_read && joined(p)->reader != NULL &&
      !pcapv3_reader_watch_descriptor(joined(p)->reader)) {
    descriptor = p->fd;
  }
  return pcapv3_multi_give_descriptor(p, descriptor);
}

static char version[256];

static void write_version(void) {
  snprintf(version, sizeof(version), "%s, pcap-linux-v3 %s", pcapv3_stock_lib_version(),
           PCAP_LINUX_V3_VERSION);
}

const char* pcap_lib_version(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  (void)pthread_once(&once, write_version);
  return version;
}
