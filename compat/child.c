/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The handle of one port of a multi-interface capture: an ordinary handle on one interface
 * (handle.c), made, opened and closed by stock code, that has no reader of its own. It can do two
 * things more: it can be opened as a cooked socket whatever its interface is, and it goes on with
 * another interface of the same name when its own is gone.
 */
#include "compat/child.h"

#include <config.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compat/handle.h"
#include "compat/stock.h"
#include "pcap-int.h"

/* Older kernel headers lack these (they are in asm-generic/socket.h from 5.14, linux/sockios.h from
 * 4.10). */
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
#ifndef SIOCGSKNS
#define SIOCGSKNS 0x894C
#endif

static struct pcapv3_handle* joined(pcap_t* p) { return pcapv3_handle_of(p); }

/* Returns 1 if two sockets are in the same network namespace, 0 if not, and -1 if the kernel does
 * not say. */
static int share_namespace(int one, int other) {
  uint64_t cookies[2];
  socklen_t lengths[2] = {sizeof(cookies[0]), sizeof(cookies[1])};
  if (getsockopt(one, SOL_SOCKET, SO_NETNS_COOKIE, &cookies[0], &lengths[0]) == 0 &&
      getsockopt(other, SOL_SOCKET, SO_NETNS_COOKIE, &cookies[1], &lengths[1]) == 0) {
    return cookies[0] == cookies[1];
  }
  /* Kernels before 5.14 have only this, which needs CAP_NET_ADMIN (net/socket.c: sock_ioctl). */
  const int spaces[2] = {ioctl(one, SIOCGSKNS), ioctl(other, SIOCGSKNS)};
  struct stat files[2];
  int same = -1;
  if (spaces[0] >= 0 && spaces[1] >= 0 && fstat(spaces[0], &files[0]) == 0 &&
      fstat(spaces[1], &files[1]) == 0) {
    same = files[0].st_dev == files[1].st_dev && files[0].st_ino == files[1].st_ino;
  }
  for (int i = 0; i < 2; ++i) {
    if (spaces[i] >= 0) (void)close(spaces[i]);
  }
  return same;
}

/* Opens the spare socket. A socket in a group can't be bound again (af_packet.c: packet_do_bind),
 * so that a port whose interface comes back needs another one, and by then the process may lack the
 * privilege to open it. It is in the network namespace that the thread is in now, which is the
 * handle's own while that is being activated. */
static void open_spare(pcap_t* p) {
  const int type = pcapv3_stock_state(p).cooked ? SOCK_DGRAM : SOCK_RAW;
  const int fd = socket(PF_PACKET, type | SOCK_CLOEXEC, 0);
  joined(p)->spare = fd > 0 ? fd : 0;
}

static void close_spare(pcap_t* p) {
  if (joined(p)->spare != 0) (void)close(joined(p)->spare);
  joined(p)->spare = 0;
}

/* Opens another one. Called by the thread that reads. */
static void open_next_spare(pcap_t* p) {
  open_spare(p);
  if (joined(p)->spare == 0 || share_namespace(joined(p)->spare, p->fd) == 1) return;
  close_spare(p); /* in another namespace the ifindex means another interface */
}

/* ---- Opening ---- */

static void note_activated(pcap_t* p) {
  joined(p)->arptype = pcapv3_stock_arptype(p);
  if (joined(p)->cooked) (void)pcapv3_stock_set_datalink(p, DLT_LINUX_SLL2);
  if (pcapv3_port_fans_out(joined(p)->port)) open_spare(p);
}

pcap_t* pcapv3_child_create(const char* device, pcap_t* multi, char* error) {
  pcap_t* p = pcapv3_handle_create(device, error);
  if (p == NULL) return NULL;
  /* pcap_create() does the same once it has a handle. */
  if ((p->opt.device = strdup(device)) == NULL) {
    snprintf(error, PCAP_ERRBUF_SIZE, "no memory for a port");
    pcap_close(p);
    return NULL;
  }
  joined(p)->multi = multi;
  joined(p)->activated = note_activated;
  joined(p)->closed = close_spare;
  return p;
}

void pcapv3_child_prepare(pcap_t* p, int cooked, unsigned max_retire_ms) {
  joined(p)->cooked = cooked;
  joined(p)->max_retire_ms = max_retire_ms;
}

struct pcapv3_port* pcapv3_child_port(pcap_t* p) {
  return joined(p)->port;
}

void pcapv3_child_restore_filter(pcap_t* p, struct bpf_program* filter) {
  if (filter->bf_insns != NULL) {
    (void)pcap_setfilter(p, filter);
    return;
  }
  pcapv3_stock_forget_filter(p);
  pcapv3_refresh(p);
}

/* ---- Coming back ---- */

/* Goes on with the spare socket, on interface `index`, and opens another spare one. Returns 0 if
 * that worked. */
static int take_spare(pcap_t* p, int index) {
  struct pcapv3_port* port = joined(p)->port;
  if (joined(p)->spare == 0) open_next_spare(p); /* this failed before */
  const int spare = joined(p)->spare;
  /* An interface that is not up has to be waited for: before Linux 6.13 a socket can join a group
   * only when it is running (af_packet.c: fanout_add), and a spare one that can't is used up. */
  if (spare == 0 || !pcapv3_stock_is_up(p, spare) ||
      pcapv3_port_attach_drop_all(port, spare) != 0 || pcapv3_stock_bind(p, spare, index) != 0) {
    return -1;
  }
  pcapv3_host_ops.count(p); /* adds the old socket's last counts */
  const int loopback = index == pcapv3_stock_state(p).lo_ifindex;
  const int status = pcapv3_port_replace_socket(port, p->fd, spare, index, loopback);
  close_spare(p); /* it may have a ring */
  open_next_spare(p);
  if (status != 0) return -1;
  pcapv3_stock_show_ring(p);
  p->offset = 0;
  return 0;
}

int pcapv3_child_bind_again(pcap_t* p) {
  const int index = pcapv3_stock_index(p, p->fd);
  if (index <= 0 ||
      (!pcapv3_stock_state(p).cooked && pcapv3_stock_arptype(p) != joined(p)->arptype)) {
    return -1;
  }
  if (pcapv3_port_fans_out(joined(p)->port)) {
    if (take_spare(p, index) != 0) return -1;
  } else {
    /* The socket is bound to the interface even if that is down (af_packet.c: packet_do_bind), and
     * read when it comes up. */
    const int status = pcapv3_stock_bind(p, p->fd, index);
    if (status != 0 && status != PCAP_ERROR_IFACE_NOT_UP) return -1;
  }
  if (p->opt.promisc) {
    const struct packet_mreq request = {.mr_ifindex = index, .mr_type = PACKET_MR_PROMISC};
    (void)setsockopt(p->fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request, sizeof(request));
  }
  pcapv3_stock_set_interface(p, index);
  pcapv3_refresh(p);
  return 0;
}

int pcapv3_child_is_elsewhere(pcap_t* p) {
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const int elsewhere = fd >= 0 && share_namespace(fd, p->fd) == 0;
  if (fd >= 0) (void)close(fd);
  return elsewhere;
}

int pcapv3_child_is_gone(pcap_t* p) {
  int error;
  socklen_t length = sizeof(error);
  (void)getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &error, &length);
  return pcapv3_stock_device_exists(p) == 0;
}
