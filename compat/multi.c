/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The multi-interface handle, which pcap_create("eth1,eth2") makes.
 *
 * To a program it is a handle like any other. Here it owns one ordinary handle for each port
 * (child.c), which stock code makes, opens and closes. What a program sets is passed on to each of
 * them, and what it can ask about is mirrored from them. Reading is left to the module
 * (pcap-linux-v3/reader.h).
 *
 * All ports have the same link type. It is that of their interfaces if these agree. Otherwise, or
 * if the program asks for it, it is LINUX_SLL2, for which they are opened as cooked sockets.
 */
#include "compat/multi.h"

#include <config.h>
#include <net/if.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compat/blocks.h"
#include "compat/child.h"
#include "compat/names.h"
#include "compat/status.h"
#include "pcap-int.h"
#include "pcap-linux-v3/dump_run.h"

struct multi {
  struct pcapv3_port_names names;
  pcap_t* ports[PCAPV3_MAX_PORTS]; /* all of them exist once the handle is activated */
  int cooked;
  int nonblocking;
  int flow_hash;
  size_t private_size;
  struct pcapv3_reader* reader;
  struct pcapv3_break breaking; /* valid until the handle is freed */
  int closing;
  struct pcap_stat last;              /* the counts, while it is being closed */
  char names_error[PCAP_ERRBUF_SIZE]; /* why the list of names can't be used */
};

static struct multi* of(pcap_t* p) { return p->priv; }

/* Sets the handle's error text to `text`, with a port's name before it. Truncates long texts. */
static void set_error(pcap_t* p, const char* port, const char* text) {
  char copy[PCAP_ERRBUF_SIZE];
  snprintf(copy, sizeof(copy), "%s", text);
  snprintf(p->errbuf, sizeof(p->errbuf), "%s: %.*s", port,
           (int)(sizeof(p->errbuf) - IF_NAMESIZE - 3), copy);
}

/* ---- The ports' handles ---- */

static int create_port(pcap_t* p, unsigned i, char* error) {
  struct multi* a = of(p);
  if (a->ports[i] == NULL) a->ports[i] = pcapv3_child_create(a->names.names[i], p, error);
  return a->ports[i] != NULL ? 0 : PCAP_ERROR;
}

/* Closes a port. A signal handler that runs meanwhile finds the port whole, or not at all. */
static void close_port(pcap_t* p, unsigned i) {
  pcap_t* port = of(p)->ports[i];
  if (port == NULL) return;
  of(p)->ports[i] = NULL;
  atomic_signal_fence(memory_order_seq_cst);
  pcap_close(port);
}

static void close_ports(pcap_t* p) {
  for (unsigned i = 0; i < of(p)->names.count; ++i) close_port(p, i);
}

/* Makes the module read the ports that are open now, in place of those that it had, if any. Returns
 * 0, or an error with its text; the module then keeps what it had. */
static int replace_ports(pcap_t* p) {
  struct multi* a = of(p);
  struct pcapv3_port* ports[PCAPV3_MAX_PORTS];
  int sockets[PCAPV3_MAX_PORTS];
  for (unsigned i = 0; i < a->names.count; ++i) {
    ports[i] = pcapv3_child_port(a->ports[i]);
    sockets[i] = a->ports[i]->fd;
  }
  if (pcapv3_reader_set_ports(a->reader, a->names.count, ports, sockets) == 0) return 0;
  snprintf(p->errbuf, sizeof(p->errbuf), "%s", pcapv3_reader_error(a->reader));
  return PCAP_ERROR;
}

/* Opens a port with what the program has set. Returns a status of pcap_activate(3PCAP). If that is
 * below 0, the port is closed again and the handle's error text is set. */
static int activate_port(pcap_t* p, unsigned i) {
  struct multi* a = of(p);
  const char* name = a->names.names[i];
  char error[PCAP_ERRBUF_SIZE] = "";
  if (create_port(p, i, error) != 0) {
    set_error(p, name, error);
    return PCAP_ERROR;
  }
  pcap_t* port = a->ports[i];
  /* These values passed the setters' checks on the handle. */
  port->snapshot = p->snapshot;
  port->opt.promisc = p->opt.promisc;
  port->opt.timeout = p->opt.timeout;
  port->opt.immediate = p->opt.immediate;
  port->opt.buffer_size = p->opt.buffer_size;
  port->opt.tstamp_type = p->opt.tstamp_type;
  port->opt.tstamp_precision = p->opt.tstamp_precision;
  port->opt.protocol = p->opt.protocol;
  (void)pcapv3_set_flow_hash(port, a->flow_hash);
  (void)pcapv3_set_private_size(port, a->private_size);
  pcapv3_child_prepare(port, a->cooked, pcapv3_reader_max_retire_ms(a->reader));
  int status = pcap_activate(port);
  if (status != 0) {
    const char* text = pcap_geterr(port);
    set_error(p, name, text[0] != '\0' ? text : pcap_statustostr(status));
    if (status == PCAP_ERROR_IFACE_NOT_UP) pcapv3_note_not_up(name);
  }
  if (status < 0) close_port(p, i);
  return status;
}

/* Opens all ports, cooked or not. Returns what activate_port() returns; below 0, all are closed. */
static int activate_ports(pcap_t* p, int cooked) {
  struct multi* a = of(p);
  int warning = 0;
  a->cooked = cooked;
  for (unsigned i = 1; i < a->names.count; ++i) {
    const unsigned index = if_nametoindex(a->names.names[i]);
    for (unsigned j = 0; j < i && index != 0; ++j) {
      if (if_nametoindex(a->names.names[j]) != index) continue;
      set_error(p, a->names.names[i], "it is the same interface as another one in the list");
      close_ports(p);
      return PCAP_ERROR;
    }
  }
  for (unsigned i = 0; i < a->names.count; ++i) {
    const int status = activate_port(p, i);
    if (status < 0) {
      close_ports(p);
      return status;
    }
    if (status > 0) warning = status; /* its text is set */
  }
  return warning;
}

/* Returns whether all ports' packets have the same link-layer header. */
static int same_link_type(pcap_t* p) {
  const struct multi* a = of(p);
  for (unsigned i = 1; i < a->names.count; ++i) {
    if (pcap_datalink(a->ports[i]) != pcap_datalink(a->ports[0])) return 0;
  }
  return 1;
}

/* Copies what a program can ask about from the first port, whose settings all ports have. */
static void mirror(pcap_t* p) {
  const pcap_t* port = of(p)->ports[0];
  p->linktype = port->linktype;
  p->linktype_ext = port->linktype_ext;
  p->snapshot = port->snapshot;
  p->bufsize = port->bufsize;
  p->bpf_codegen_flags = port->bpf_codegen_flags;
  for (unsigned i = 1; i < of(p)->names.count; ++i) {
    p->bpf_codegen_flags &= of(p)->ports[i]->bpf_codegen_flags;
  }
}

/* Lists the link types to choose from: the interfaces' own, and LINUX_SLL2, whose header
 * distinguishes ports. */
static int list_link_types(pcap_t* p) {
  const pcap_t* port = of(p)->ports[0];
  const int own = of(p)->cooked ? 0 : port->dlt_count > 0 ? port->dlt_count : 1;
  u_int* list = calloc((size_t)own + 1, sizeof(*list));
  if (list == NULL) return -1;
  for (int i = 0; i < own; ++i) {
    list[i] = port->dlt_count > 0 ? port->dlt_list[i] : (u_int)port->linktype;
  }
  list[own] = DLT_LINUX_SLL2;
  free(p->dlt_list);
  p->dlt_list = list;
  p->dlt_count = own + 1;
  return 0;
}

/* ---- What the module asks ---- */

static int host_is_gone(pcap_t* p, unsigned i) { return pcapv3_child_is_gone(of(p)->ports[i]); }

static int host_bind_again(pcap_t* p, unsigned i) {
  return pcapv3_child_bind_again(of(p)->ports[i]);
}

static void host_error(pcap_t* p, const char* text) {
  snprintf(p->errbuf, sizeof(p->errbuf), "%s", text);
}

static const struct pcapv3_host_ops host_ops = {
    .is_gone = host_is_gone,
    .bind_again = host_bind_again,
    .error = host_error,
};

/* ---- The operations of the handle ---- */

static int no_operation(pcap_t* p) {
  snprintf(p->errbuf, sizeof(p->errbuf), "the handle is being closed");
  return PCAP_ERROR;
}

static int multi_read(pcap_t* p, int count, pcap_handler callback, u_char* user) {
  pcapv3_dump_run.header = 0; /* for a read in another's callback: this one may wait */
  return pcapv3_reader_read(of(p)->reader, count, callback, user);
}

static int multi_inject(pcap_t* p, const void* bytes, int size) {
  (void)bytes;
  (void)size;
  snprintf(p->errbuf, sizeof(p->errbuf),
           "%s: a packet can't be sent on several ports at once; open one of them for that",
           p->opt.device);
  return PCAP_ERROR;
}

/* What a program sets holds for all ports or, if one refuses it, for none: the ports that it was
 * already set on get their old value back. */

static int multi_setfilter(pcap_t* p, struct bpf_program* filter) {
  struct multi* a = of(p);
  if (filter == NULL) {
    snprintf(p->errbuf, sizeof(p->errbuf), "there is no filter to set");
    return PCAP_ERROR;
  }
  struct bpf_program before = p->fcode;
  memset(&p->fcode, 0, sizeof(p->fcode)); /* else INSTALL_FILTER() would free it */
  int status = INSTALL_FILTER(p, filter) != 0 ? PCAP_ERROR : 0;
  for (unsigned i = 0; i < a->names.count && status == 0; ++i) {
    if (pcap_setfilter(a->ports[i], &p->fcode) == 0) continue;
    set_error(p, a->names.names[i], pcap_geterr(a->ports[i]));
    for (unsigned j = 0; j <= i; ++j) pcapv3_child_restore_filter(a->ports[j], &before);
    status = PCAP_ERROR;
  }
  if (status == 0) {
    pcap_freecode(&before);
  } else {
    pcap_freecode(&p->fcode);
    p->fcode = before;
  }
  pcapv3_reader_follow(a->reader);
  return status;
}

static int set_directions(pcap_t* p, pcap_direction_t direction) {
  struct multi* a = of(p);
  for (unsigned i = 0; i < a->names.count; ++i) {
    if (pcap_setdirection(a->ports[i], direction) == 0) continue;
    set_error(p, a->names.names[i], pcap_geterr(a->ports[i]));
    for (unsigned j = 0; j <= i; ++j) (void)pcap_setdirection(a->ports[j], p->direction);
    return PCAP_ERROR;
  }
  return 0;
}

static int multi_setdirection(pcap_t* p, pcap_direction_t direction) {
  const int status = set_directions(p, direction);
  if (status == 0) p->direction = direction;
  pcapv3_reader_follow(of(p)->reader);
  return status;
}

static int set_link_types(pcap_t* p, int link_type) {
  struct multi* a = of(p);
  int before[PCAPV3_MAX_PORTS];
  for (unsigned i = 0; i < a->names.count; ++i) {
    before[i] = pcap_datalink(a->ports[i]);
    if (before[i] == link_type || pcap_set_datalink(a->ports[i], link_type) == 0) continue;
    set_error(p, a->names.names[i], pcap_geterr(a->ports[i]));
    for (unsigned j = 0; j < i; ++j) (void)pcap_set_datalink(a->ports[j], before[j]);
    return PCAP_ERROR;
  }
  return 0;
}

/* Opens all ports again, cooked or not, for packets of `link_type`. If that fails, the old ones are
 * kept. */
static int change_ports(pcap_t* p, int cooked, int link_type) {
  struct multi* a = of(p);
  pcap_t* before[PCAPV3_MAX_PORTS];
  const int cooked_before = a->cooked;
  memcpy(before, a->ports, sizeof(before));
  memset(a->ports, 0, sizeof(a->ports));
  if (activate_ports(p, cooked) < 0 || set_directions(p, p->direction) != 0 ||
      set_link_types(p, link_type) != 0 || replace_ports(p) != 0) {
    close_ports(p);
    memcpy(a->ports, before, sizeof(before));
    a->cooked = cooked_before;
    pcapv3_forget_not_up(); /* to the program, this was no activation */
    return PCAP_ERROR;
  }
  for (unsigned i = 0; i < a->names.count; ++i) pcap_close(before[i]);
  mirror(p);
  return 0;
}

/* Sets the link type. A change between the interfaces' own and LINUX_SLL2 opens the ports again. */
static int multi_set_datalink(pcap_t* p, int link_type) {
  struct multi* a = of(p);
  const int cooked = link_type == DLT_LINUX_SLL2;
  if (cooked == a->cooked) {
    const int status = set_link_types(p, link_type);
    pcapv3_reader_follow(a->reader);
    return status;
  }
  if (p->fcode.bf_insns != NULL || pcapv3_reader_has_read(a->reader)) {
    snprintf(p->errbuf, sizeof(p->errbuf),
             "%s: the link type has to be chosen before a filter is set and packets are read",
             p->opt.device);
    return PCAP_ERROR;
  }
  if (pcapv3_child_is_elsewhere(a->ports[0])) {
    snprintf(p->errbuf, sizeof(p->errbuf),
             "%s: the link type can't be changed from another network namespace than it was opened "
             "in",
             p->opt.device);
    return PCAP_ERROR;
  }
  return change_ports(p, cooked, link_type);
}

static int multi_getnonblock(pcap_t* p) { return of(p)->nonblocking; }

static int multi_setnonblock(pcap_t* p, int nonblocking) {
  of(p)->nonblocking = nonblocking != 0;
  pcapv3_reader_set_nonblocking(of(p)->reader, nonblocking != 0);
  return 0;
}

static int multi_stats(pcap_t* p, struct pcap_stat* stats) {
  struct multi* a = of(p);
  if (a->closing) {
    *stats = a->last;
    return 0;
  }
  memset(stats, 0, sizeof(*stats));
  for (unsigned i = 0; i < a->names.count; ++i) {
    struct pcap_stat port;
    if (a->ports[i] == NULL) continue; /* in a signal handler, while ports are opened again */
    if (pcap_stats(a->ports[i], &port) != 0) {
      set_error(p, a->names.names[i], pcap_geterr(a->ports[i]));
      return PCAP_ERROR;
    }
    stats->ps_recv += port.ps_recv;
    stats->ps_drop += port.ps_drop;
    stats->ps_ifdrop += port.ps_ifdrop;
  }
  return 0;
}

static void multi_breakloop(pcap_t* p) {
  pcapv3_request_break(&of(p)->breaking);
  p->break_loop = 1;
  pcapv3_wake_reader(&of(p)->breaking);
}

/* These are what a signal handler may still call while the handle is being closed. */
static int no_read(pcap_t* p, int count, pcap_handler callback, u_char* user) {
  (void)count;
  (void)callback;
  (void)user;
  return no_operation(p);
}
static int no_setfilter(pcap_t* p, struct bpf_program* filter) {
  (void)filter;
  return no_operation(p);
}
static int no_setdirection(pcap_t* p, pcap_direction_t direction) {
  (void)direction;
  return no_operation(p);
}
static int no_set_number(pcap_t* p, int number) {
  (void)number;
  return no_operation(p);
}

static void close_all(pcap_t* p) {
  struct multi* a = of(p);
  struct pcapv3_reader* reader = a->reader;
  if (reader != NULL) pcapv3_reader_remove_ports(reader);
  close_ports(p);
  a->reader = NULL;
  atomic_signal_fence(memory_order_seq_cst);
  pcapv3_reader_close(reader);
  p->fd = -1; /* it was the reader's, and was closed with it */
}

static void multi_cleanup(pcap_t* p) {
  struct multi* a = of(p);
  struct pcap_stat last = {0};
  pcapv3_wait_for_reader(&a->breaking);
  /* Reading the kernel's counts clears them, for a forked process, too. */
  if (a->ports[0] != NULL && pcapv3_port_is_own(pcapv3_child_port(a->ports[0]))) {
    (void)multi_stats(p, &last);
  }
  a->last = last;
  atomic_signal_fence(memory_order_seq_cst);
  a->closing = 1;
  p->read_op = no_read;
  p->setfilter_op = no_setfilter;
  p->setdirection_op = no_setdirection;
  p->set_datalink_op = no_set_number;
  p->setnonblock_op = no_set_number;
  close_all(p);
  CLEAN_UP_COMMON(p);
}

static int fail(pcap_t* p, int status) {
  close_all(p);
  return status;
}

static int multi_activate(pcap_t* p) {
  struct multi* a = of(p);
  pcapv3_forget_not_up();
  if (a->names_error[0] != '\0') {
    snprintf(p->errbuf, sizeof(p->errbuf), "%s", a->names_error);
    return PCAP_ERROR_NO_SUCH_DEVICE;
  }
  if (p->opt.rfmon) return fail(p, PCAP_ERROR_RFMON_NOTSUP);
  a->reader = pcapv3_reader_open(p, &host_ops, &p->break_loop, &a->breaking, p->errbuf);
  if (a->reader == NULL) return fail(p, PCAP_ERROR);
  if (pcapv3_reader_open_ports(a->reader) != 0) {
    host_error(p, pcapv3_reader_error(a->reader));
    return fail(p, PCAP_ERROR);
  }

  int status = activate_ports(p, 0);
  if (status >= 0 && !same_link_type(p)) {
    close_ports(p);
    status = activate_ports(p, 1);
  }
  if (status < 0) return fail(p, status);
  if (replace_ports(p) != 0) return fail(p, PCAP_ERROR);
  mirror(p);
  if (list_link_types(p) != 0) {
    snprintf(p->errbuf, sizeof(p->errbuf), "no memory for a list of link types");
    return fail(p, PCAP_ERROR);
  }
  pcapv3_reader_set_no_timeout(a->reader, p->opt.timeout == 0);
  p->fd = p->selectable_fd = pcapv3_reader_descriptor(a->reader);
  if (pcapv3_reader_hides_descriptor(a->reader, p->opt.timeout)) p->selectable_fd = -1;
  p->read_op = multi_read;
  p->inject_op = multi_inject;
  p->setfilter_op = multi_setfilter;
  p->setdirection_op = multi_setdirection;
  p->set_datalink_op = multi_set_datalink;
  p->getnonblock_op = multi_getnonblock;
  p->setnonblock_op = multi_setnonblock;
  p->stats_op = multi_stats;
  p->breakloop_op = multi_breakloop;
  p->cleanup_op = multi_cleanup;
  return status;
}

/* ---- Blocks (blocks.h) ---- */

struct pcapv3_reader* pcapv3_reader_of(pcap_t* p) {
  return p->read_op == multi_read ? of(p)->reader : NULL;
}

int pcapv3_multi_set_flow_hash(pcap_t* p, int flow_hash) {
  if (p->activate_op != multi_activate) return -1;
  of(p)->flow_hash = flow_hash;
  return 0;
}

int pcapv3_multi_set_private_size(pcap_t* p, size_t size) {
  if (p->activate_op != multi_activate) return -1;
  of(p)->private_size = size;
  return 0;
}

static void cleanup_unactivated(pcap_t* p) {
  close_ports(p);
  CLEAN_UP_COMMON(p);
}

/* ---- Making one ---- */

int pcapv3_is_multi(const char* device) {
  return strchr(device, ',') != NULL && if_nametoindex(device) == 0;
}

/* Lists the time-stamp types that all ports have, except of clocks that no two cards share. */
static int list_stamp_types(pcap_t* p) {
  const struct multi* a = of(p);
  const pcap_t* first = a->ports[0];
  p->tstamp_type_list = calloc((size_t)first->tstamp_type_count + 1, sizeof(u_int));
  if (p->tstamp_type_list == NULL) return -1;
  for (int i = 0; i < first->tstamp_type_count; ++i) {
    const u_int type = first->tstamp_type_list[i];
    unsigned have = type != PCAP_TSTAMP_ADAPTER_UNSYNCED;
    for (unsigned j = 1; j < a->names.count; ++j) {
      for (int k = 0; k < a->ports[j]->tstamp_type_count; ++k) {
        have += a->ports[j]->tstamp_type_list[k] == type;
      }
    }
    if (have == a->names.count) p->tstamp_type_list[p->tstamp_type_count++] = type;
  }
  return 0;
}

static int list_precisions(pcap_t* p) {
  p->tstamp_precision_list = calloc(2, sizeof(u_int));
  if (p->tstamp_precision_list == NULL) return -1;
  p->tstamp_precision_list[0] = PCAP_TSTAMP_PRECISION_MICRO;
  p->tstamp_precision_list[1] = PCAP_TSTAMP_PRECISION_NANO;
  p->tstamp_precision_count = 2;
  return 0;
}

pcap_t* pcapv3_multi_create(const char* device, char* error) {
  pcap_t* p = PCAP_CREATE_COMMON(error, struct multi);
  if (p == NULL) return NULL;
  p->activate_op = multi_activate;
  p->cleanup_op = cleanup_unactivated;
  struct multi* a = of(p);
  if (pcapv3_read_port_names(device, &a->names, a->names_error) != 0) {
    a->names.count = 0; /* pcap_activate() reports it, as it does for any other name */
    return p;
  }
  for (unsigned i = 0; i < a->names.count; ++i) {
    if (create_port(p, i, error) != 0) {
      pcap_close(p);
      return NULL;
    }
  }
  if (list_stamp_types(p) != 0 || list_precisions(p) != 0) {
    snprintf(error, PCAP_ERRBUF_SIZE, "no memory for a list of time-stamp types");
    pcap_close(p);
    return NULL;
  }
  return p;
}

/* ---- Devices ---- */

/* Returns the flags of a list, as pcap_findalldevs(3PCAP) documents them: it is up and running if
 * one of the ports is. */
static bpf_u_int32 flags_of(struct pcap_if_list* devices, const struct pcapv3_port_names* names) {
  bpf_u_int32 flags = 0;
  int connected = 0;
  for (unsigned i = 0; i < names->count; ++i) {
    const pcap_if_t* port = FIND_DEVICE(devices, names->names[i]);
    if (port == NULL) continue;
    flags |= port->flags & (PCAP_IF_UP | PCAP_IF_RUNNING);
    connected |= (port->flags & PCAP_IF_CONNECTION_STATUS) == PCAP_IF_CONNECTION_STATUS_CONNECTED;
  }
  return flags |
         (connected ? PCAP_IF_CONNECTION_STATUS_CONNECTED : PCAP_IF_CONNECTION_STATUS_DISCONNECTED);
}

int pcapv3_multi_find_devices(struct pcap_if_list* devices, char* error) {
  struct pcapv3_port_names names;
  char name[PCAPV3_MAX_PORTS * IF_NAMESIZE];
  int more;
  for (unsigned i = 0; (more = pcapv3_listed_ports(i, &names, name, sizeof(name), error)) > 0;
       ++i) {
    if (ADD_DEVICE(devices, name, flags_of(devices, &names), "Several ports in time order",
                   error) == NULL) {
      return -1;
    }
  }
  return more;
}

int pcapv3_stock_lookupnet(const char*, bpf_u_int32*, bpf_u_int32*, char*);

/* A list of ports has no network of its own, like "any". */
int pcap_lookupnet(const char* device, bpf_u_int32* net, bpf_u_int32* mask, char* error) {
  if (device == NULL || !pcapv3_is_on() || !pcapv3_is_multi(device)) {
    return pcapv3_stock_lookupnet(device, net, mask, error);
  }
  *net = *mask = 0;
  return 0;
}

/* A program that has the descriptor of a multi-interface handle may wait on it. */
int pcapv3_multi_give_descriptor(pcap_t* p, int descriptor) {
  if (descriptor >= 0 && p->read_op == multi_read) {
    pcapv3_reader_watch_descriptor(of(p)->reader);
  }
  return descriptor;
}
