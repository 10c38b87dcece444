/*
 * The seam: the one file that sees the inside of libpcap's pcap-linux.c.
 *
 * It includes that file as it is, from libpcap's own source, with a few names and system calls
 * redirected by the preprocessor, and joins each capture handle on a network interface to a port of
 * the module (pcap-linux-v3/module.h). A handle is created, activated, filtered, waited on,
 * injected into and closed by stock code. What differs:
 *
 *   - PACKET_RX_RING, mmap and munmap: the module makes, maps and unmaps the ring, in the shape it
 *     wants. Stock code is told that shape, so that its own walks over the ring stay right.
 *   - SO_ATTACH_FILTER: no moment without packets when a filter is set, and no failure because the
 *     interface has been down.
 *   - fan-out: the socket lets nothing in until it has joined its group.
 *   - PACKET_STATISTICS: asked for with the third counter that V3 has.
 *   - reading packets: the module's.
 *   - immediate mode: stays on V3, with a second socket for single packets.
 *   - closing while the program has blocks: the socket, which these keep, falls silent.
 *
 * Where a handle has to be a stock one (PCAPV3=off, monitor mode, CAN, a kernel without a sound
 * V3), none of this applies to it.
 */
#define _GNU_SOURCE
#include <config.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "compat/blocks.h"
#include "compat/member.h"
#include "compat/names.h"
#include "pcap-int.h"
#include "pcap-linux-v3/dump_run.h"
#include "pcap-linux-v3/module.h"

/* What older kernel headers lack (asm-generic/socket.h of 5.14, linux/sockios.h of 4.10). */
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
#ifndef SIOCGSKNS
#define SIOCGSKNS 0x894C
#endif

#ifdef PCAP_LINUX_V3_PCAPINT
#define pcapint_create_interface pcapv3_stock_create_interface
#define pcapint_platform_finddevs pcapv3_stock_find_devices
#else
#define pcap_create_interface pcapv3_stock_create_interface
#define pcap_platform_finddevs pcapv3_stock_find_devices
#endif
#define pcap_lib_version pcapv3_stock_lib_version

pcap_t* pcapv3_stock_create_interface(const char*, char*);
int pcapv3_stock_find_devices(pcap_if_list_t*, char*);
const char* pcapv3_stock_lib_version(void);

/* A handle as it is allocated here: libpcap's struct, stock code's private one behind it, and what
 * joins it to the module behind that. All zero at first (pcap.c: pcap_alloc_pcap_t). */
#define HANDLE_WITH_PORT(stock_type)                            \
  struct {                                                      \
    pcap_t handle;                                              \
    stock_type stock;                                           \
    struct pcapv3_port* port;     /* NULL: a stock handle */    \
    int immediate;                /* what the tool asked for */ \
    int flow_hash;                /* likewise */                \
    pcap_handler copying_oneshot; /* stock code's */            \
    struct pcapv3_port* joining;  /* a group, once active */    \
    struct pcapv3_reader* reader; /* NULL: another handle's */  \
    pcap_t* aggregate;            /* that reads it, or NULL */  \
    int arptype;                  /* of its interface */        \
    int cooked;                   /* as that wants it: */       \
    unsigned most_retire_ms;      /* pcapv3_member_prepare() */ \
    int spare;                    /* a socket, or 0 */          \
    int second_cooked;            /* begin_second() */          \
    struct pcapv3_break breaking; /* good until it is freed */  \
  }
#undef PCAP_CREATE_COMMON
#define PCAP_CREATE_COMMON(ebuf, type) \
  CREATE_COMMON(ebuf, sizeof(HANDLE_WITH_PORT(type)), offsetof(HANDLE_WITH_PORT(type), stock))

static int seam_setsockopt(pcap_t*, int, int, int, const void*, socklen_t);
static int seam_getsockopt(pcap_t*, int, int, int, void*, socklen_t*);
static void* seam_mmap(pcap_t*, void*, size_t, int, int, int, off_t);
static int seam_munmap(pcap_t*, void*, size_t);
static int seam_ioctl(pcap_t*, int, unsigned long, void*);

/* pcap-linux.c has the handle it works on in scope under this name wherever that matters; in the
 * few functions that have none, this one stands for "no handle". */
static pcap_t* const handle = NULL;
#define setsockopt(...) seam_setsockopt(handle, __VA_ARGS__)
#define getsockopt(...) seam_getsockopt(handle, __VA_ARGS__)
#define mmap(...) seam_mmap(handle, __VA_ARGS__)
#define munmap(...) seam_munmap(handle, __VA_ARGS__)
#define ioctl(...) seam_ioctl(handle, __VA_ARGS__)

#include <pcap-linux.c>

#undef setsockopt
#undef getsockopt
#undef mmap
#undef munmap
#undef ioctl
#undef pcap_lib_version
#undef pcap_create_interface
#undef pcapint_create_interface
#undef pcap_platform_finddevs
#undef pcapint_platform_finddevs

typedef HANDLE_WITH_PORT(struct pcap_linux) port_handle;

static port_handle* joined(pcap_t* p) { return (port_handle*)p; }

/* ---- The system calls that are redirected ---- */

/* Link types whose packets want what the module does not do. */
static int is_stocks(const pcap_t* p) { return p->linktype == DLT_CAN_SOCKETCAN; }

/* The port's second socket, once packets come there, which has what the handle's own has; -1 if
 * there is none. */
static int second_socket(pcap_t* p) {
  return p != NULL && joined(p)->reader != NULL ? pcapv3_reader_second_socket(joined(p)->reader)
                                                : -1;
}

static int has_ring(const port_handle* h) {
  return h->port != NULL && pcapv3_port_ring(h->port).block_count != 0;
}

static int seam_setsockopt(pcap_t* p, int fd, int level, int name, const void* value,
                           socklen_t length) {
  if (p != NULL && has_ring(joined(p)) && level == SOL_SOCKET && name == SO_ATTACH_FILTER &&
      value == &total_fcode) {
    /* set_kernel_filter() keeps all packets out for a moment, so that it can empty the socket's
     * queue before the new filter. A ring has no use for that: its blocks from before are filtered
     * by the reader, and the packets of that moment would be lost. Where it can't, it goes on
     * without. Otherwise it reads from the socket, and gives up if an error is pending there, such
     * as that the interface was down for a while, which is the next read's to see. */
    errno = ENOPROTOOPT;
    return -1;
  }
  if (fd >= 0 && second_socket(p) >= 0 && fd == p->fd && level == SOL_SOCKET &&
      (name == SO_ATTACH_FILTER || name == SO_DETACH_FILTER) &&
      setsockopt(second_socket(p), level, name, value, length) != 0 && name == SO_ATTACH_FILTER) {
    return -1; /* stock code then does without a filter in the kernel, on both */
  }
  if (p != NULL && joined(p)->joining != NULL && level == SOL_PACKET && name == PACKET_RX_RING &&
      pcapv3_port_shut(joined(p)->joining, fd) != 0) {
    return -1;
  }
  /* create_ring()'s own variable, which it passes as not const and reads the ring's shape from. */
  struct tpacket_req3* request = (struct tpacket_req3*)value;
  if (p == NULL || joined(p)->port == NULL || level != SOL_PACKET || name != PACKET_RX_RING ||
      length != sizeof(*request) || request->tp_block_nr == 0 ||
      joined(p)->stock.tp_version != TPACKET_V3 || is_stocks(p)) {
    return setsockopt(fd, level, name, value, length);
  }
  struct pcapv3_port* port = joined(p)->port;
  const struct pcapv3_wish wish = {
      .buffer_bytes = p->opt.buffer_size,
      .timeout_ms = p->opt.timeout,
      .immediate = joined(p)->immediate,
      .interface = joined(p)->stock.ifindex,
      .cooked = joined(p)->stock.cooked,
      .most_retire_ms = joined(p)->most_retire_ms,
      .flow_hash = joined(p)->flow_hash,
  };
  if (pcapv3_port_make_ring(port, fd, &wish) != 0) {
    request->tp_block_nr = 1; /* keeps create_ring() from asking again for less */
    return -1;
  }
  const struct pcapv3_ring ring = pcapv3_port_ring(port);
  request->tp_block_size = ring.block_bytes;
  request->tp_block_nr = ring.block_count;
  /* One "frame" a block, as create_ring() has it for V3. */
  request->tp_frame_size = request->tp_block_size;
  request->tp_frame_nr = request->tp_block_nr;
  return 0;
}

static int seam_getsockopt(pcap_t* p, int fd, int level, int name, void* value, socklen_t* length) {
  if (p == NULL || joined(p)->port == NULL || level != SOL_PACKET) {
    return getsockopt(fd, level, name, value, length);
  }
  if (name == PACKET_HDRLEN && *(const int*)value == TPACKET_V3 && joined(p)->immediate &&
      is_stocks(p)) {
    /* To init_tpacket(): no such version. A stock handle gets V2 then, as it should. */
    errno = EINVAL;
    return -1;
  }
  if (name != PACKET_STATISTICS || joined(p)->stock.tp_version != TPACKET_V3) {
    return getsockopt(fd, level, name, value, length);
  }
  pcapv3_port_before_count(joined(p)->port);
  struct tpacket_stats_v3 stats;
  socklen_t stats_length = sizeof(stats);
  const int status = getsockopt(fd, level, name, &stats, &stats_length);
  if (status == 0) {
    struct tpacket_stats second = {0};
    socklen_t second_length = sizeof(second);
    if (second_socket(p) >= 0 &&
        getsockopt(second_socket(p), level, name, &second, &second_length) == 0) {
      stats.tp_packets += second.tp_packets;
      stats.tp_drops += second.tp_drops;
    }
    pcapv3_port_count(joined(p)->port, stats.tp_packets, stats.tp_drops, stats.tp_freeze_q_cnt);
    /* The shorter struct that the caller wants is the start of this one. */
    memcpy(value, &stats, *length < sizeof(stats) ? *length : sizeof(stats));
  }
  return status;
}

static void* seam_mmap(pcap_t* p, void* at, size_t length, int protection, int flags, int fd,
                       off_t offset) {
  if (p != NULL && has_ring(joined(p)) && fd == p->fd) {
    return pcapv3_port_ring(joined(p)->port).base;
  }
  return mmap(at, length, protection, flags, fd, offset);
}

static int seam_munmap(pcap_t* p, void* at, size_t length) {
  if (p != NULL && has_ring(joined(p)) && at == pcapv3_port_ring(joined(p)->port).base) {
    return 0; /* pcapv3_port_close() does */
  }
  return munmap(at, length);
}

/* Set while a handle is activated on this thread that is to be cooked. iface_get_arptype() asks
 * without a handle. (Initial-exec: the other ways to have such a variable want a library more.) */
static __thread int activating_cooked __attribute__((tls_model("initial-exec")));

static int seam_ioctl(pcap_t* p, int fd, unsigned long request, void* argument) {
  (void)p;
  const int status = ioctl(fd, request, argument);
  if (status == 0 && request == SIOCGIFHWADDR && activating_cooked) {
    /* A type for which setup_socket() takes a cooked socket, without a warning. */
    ((struct ifreq*)argument)->ifr_hwaddr.sa_family = ARPHRD_PPP;
  }
  return status;
}

/* ---- What the module asks ---- */

/* Whether a filter can be run here with the kernel's outcome: it loads nothing that only the kernel
 * has, such as the packet's direction (linux/filter.h: SKF_AD_OFF), but for VLAN tags. */
static int can_judge(const struct bpf_program* filter) {
  for (u_int i = 0; i < filter->bf_len; ++i) {
    const struct bpf_insn* load = &filter->bf_insns[i];
    if (BPF_CLASS(load->code) != BPF_LD || BPF_MODE(load->code) != BPF_ABS) continue;
    if (load->k < (bpf_u_int32)SKF_AD_OFF) continue;
    if (load->k != (bpf_u_int32)(SKF_AD_OFF + SKF_AD_VLAN_TAG) &&
        load->k != (bpf_u_int32)(SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT)) {
      return 0;
    }
  }
  return 1;
}

static void host_error(pcap_t* p, const char* text) {
  snprintf(p->errbuf, sizeof(p->errbuf), "%s", text);
}

static int has_own_clock(const pcap_t* p) {
  return p->opt.tstamp_type == PCAP_TSTAMP_ADAPTER ||
         p->opt.tstamp_type == PCAP_TSTAMP_ADAPTER_UNSYNCED;
}

static void host_look(pcap_t* p, struct pcapv3_host_view* view) {
  const struct pcap_linux* stock = &joined(p)->stock;
  view->socket = p->fd;
  view->cooked = stock->cooked;
  view->link_type = p->linktype;
  view->snapshot = p->snapshot;
  view->vlan_offset = stock->vlan_offset;
  view->nanoseconds = p->opt.tstamp_precision == PCAP_TSTAMP_PRECISION_NANO;
  view->direction = p->direction;
  view->interface = stock->ifindex;
  view->loopback = stock->lo_ifindex;
  view->filter_here = stock->filter_in_userland && p->fcode.bf_insns != NULL;
  view->filter_is_whole = view->filter_here && can_judge(&p->fcode);
  view->filter_blocks = view->filter_here ? (unsigned)stock->blocks_to_filter_in_userland : 0;
  view->has_filter = p->fcode.bf_insns != NULL;
  view->own_clock = has_own_clock(p);
}

/* Waits for nothing, and sees whether the interface is there. */
static int look_at_once(pcap_t* p) {
  struct pcap_linux* stock = &joined(p)->stock;
  const int poll_timeout = stock->poll_timeout;
  stock->poll_timeout = 0;
  const int status = pcap_wait_for_frames_mmap(p);
  stock->poll_timeout = poll_timeout;
  return status;
}

static long long monotonic_ms(void) {
  struct timespec now;
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static int host_wait(pcap_t* p) {
  struct pcap_linux* stock = &joined(p)->stock;
  if (p->selectable_fd != -1 || stock->poll_timeout == 0 || stock->timeout <= 0) {
    return pcap_wait_for_frames_mmap(p);
  }
  /* The program has nothing to select on and relies on the time-out, which stock code leaves to the
   * ring: then nothing ends a wait on an idle link. Neither a signal nor the event of a break that
   * is over is an end. */
  const long long until = monotonic_ms() + stock->timeout;
  for (;;) {
    struct pollfd events[] = {{.fd = p->fd, .events = POLLIN},
                              {.fd = stock->poll_breakloop_fd, .events = POLLIN}};
    const long long left = until - monotonic_ms();
    const int ready = poll(events, 2, left > 0 ? (int)left : 0);
    if (ready < 0 && errno != EINTR) return pcap_wait_for_frames_mmap(p); /* which says why */
    if (ready == 0) return look_at_once(p);
    if (ready > 0 && events[0].revents != 0) return pcap_wait_for_frames_mmap(p);
    if (ready > 0) {
      uint64_t breaks;
      (void)!read(stock->poll_breakloop_fd, &breaks, sizeof(breaks));
    }
    if (p->break_loop) {
      p->break_loop = 0;
      return PCAP_ERROR_BREAK;
    }
  }
}

static int is_up(const pcap_t* p) {
  struct ifreq request = {.ifr_flags = 0};
  snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", joined((pcap_t*)p)->stock.device);
  return ioctl(p->fd, SIOCGIFFLAGS, &request) == 0 && (request.ifr_flags & IFF_UP) != 0;
}

static int host_check(pcap_t* p) {
  struct pcap_linux* stock = &joined(p)->stock;
  const int status = look_at_once(p);
  if (status != 0) return status;
  if (device_still_exists(p) != 0) {
    /* What pcap_wait_for_frames_mmap() looks at only when the socket is not readable. */
    if (stock->netdown && is_up(p)) {
      stock->netdown = 0;
      p->required_select_timeout = NULL;
    }
    return 0;
  }
  host_error(p, PCAPV3_INTERFACE_GONE);
  return PCAP_ERROR;
}

static int host_is_down(pcap_t* p) { return joined(p)->stock.netdown; }

static int host_wait_for_break(pcap_t* p, int ms) {
  struct pollfd event = {.fd = joined(p)->stock.poll_breakloop_fd, .events = POLLIN};
  return poll(&event, 1, ms) > 0;
}

static int host_run_filter(void* code, const u_char* bytes, unsigned wire_length,
                           unsigned captured_length, int tagged, unsigned short tci) {
  const struct pcap_bpf_aux_data aux = {.vlan_tag_present = (u_short)tagged, .vlan_tag = tci};
  return FILTER_WITH_AUX_DATA(code, bytes, wire_length, captured_length, &aux) != 0;
}

static int host_filter(void* p, const u_char* bytes, unsigned wire_length, unsigned captured_length,
                       int tagged, unsigned short tci) {
  return host_run_filter(((pcap_t*)p)->fcode.bf_insns, bytes, wire_length, captured_length, tagged,
                         tci);
}

static const struct bpf_insn* host_filter_code(pcap_t* p, unsigned* count) {
  *count = p->fcode.bf_len;
  return p->fcode.bf_insns;
}

static unsigned host_block_filtered(pcap_t* p) {
  struct pcap_linux* stock = &joined(p)->stock;
  if (stock->blocks_to_filter_in_userland > 0 && --stock->blocks_to_filter_in_userland == 0) {
    stock->filter_in_userland = 0;
  }
  return (unsigned)stock->blocks_to_filter_in_userland;
}

static void host_count(pcap_t* p) {
  /* The part of pcap_stats_linux() that opens no file, which a process may not allow itself. */
  struct tpacket_stats stats;
  socklen_t length = sizeof(stats);
  if (seam_getsockopt(p, p->fd, SOL_PACKET, PACKET_STATISTICS, &stats, &length) != 0) return;
  joined(p)->stock.stat.ps_recv += stats.tp_packets;
  joined(p)->stock.stat.ps_drop += stats.tp_drops;
}

static void host_add_counts(pcap_t* p, unsigned packets, unsigned drops) {
  joined(p)->stock.stat.ps_recv += packets;
  joined(p)->stock.stat.ps_drop += drops;
  pcapv3_port_before_count(joined(p)->port);
  pcapv3_port_count(joined(p)->port, packets, drops, 0);
}

static const struct pcapv3_host_ops host_ops = {
    .look = host_look,
    .wait = host_wait,
    .check = host_check,
    .wait_for_break = host_wait_for_break,
    .is_down = host_is_down,
    .filter = host_filter,
    .filter_code = host_filter_code,
    .run_filter = host_run_filter,
    .block_filtered = host_block_filtered,
    .count = host_count,
    .add_counts = host_add_counts,
    .error = host_error,
};

/* ---- The operations of a handle with a port ---- */

static int no_read(pcap_t* p, int count, pcap_handler callback, u_char* user) {
  (void)count;
  (void)callback;
  (void)user;
  host_error(p, "the handle is being closed");
  return PCAP_ERROR;
}

static int port_read(pcap_t* p, int count, pcap_handler callback, u_char* user) {
  pcapv3_dump_run.header = 0; /* in the callback of another read: this one may wait */
  return pcapv3_reader_read(joined(p)->reader, count, callback, user);
}

/* The reader, if it is this handle's own, delivers as the port says now. */
static void follow(pcap_t* p) {
  if (joined(p)->reader != NULL) pcapv3_reader_follow(joined(p)->reader);
}

static void refresh(pcap_t* p) {
  pcapv3_port_refresh(joined(p)->port);
  follow(p);
}

static int port_setfilter(pcap_t* p, struct bpf_program* filter) {
  struct pcap_linux* stock = &joined(p)->stock;
  /* Which stock code leaves as it was if the new filter can't run in the kernel, so that it would
   * be forgotten after so many blocks. */
  stock->blocks_to_filter_in_userland = 0;
  /* Stock code counts the blocks that the kernel may have filled with the old filter on by what it
   * has not: it looks at one after the other. Of 64 or 1000 that takes longer than all else here
   * where no page of them has been touched yet. So it sees one only, and they are counted from the
   * other side: those that have been handed over, the one that is being filled and, as there, one
   * more if packets are coming, since one can have passed the old filter and be stored behind
   * these. */
  p->offset = 0;
  p->cc = 1;
  const int status = pcap_setfilter_linux(p, filter);
  p->cc = (int)pcapv3_port_ring(joined(p)->port).block_count;
  if (stock->blocks_to_filter_in_userland != 0) {
    const int unfinished = (int)pcapv3_port_unfinished_blocks(joined(p)->port);
    stock->blocks_to_filter_in_userland = unfinished > 1 ? unfinished + 1 : 1;
  }
  pcapv3_port_filter_set(joined(p)->port);
  follow(p);
  return status;
}

static int port_setdirection(pcap_t* p, pcap_direction_t direction) {
  const int status = pcap_setdirection_linux(p, direction);
  refresh(p);
  return status;
}

static int port_set_datalink(pcap_t* p, int link_type) {
  const int status = pcap_set_datalink_linux(p, link_type);
  refresh(p);
  return status;
}

static int port_setnonblock(pcap_t* p, int nonblock) {
  const int status = pcap_setnonblock_linux(p, nonblock);
  if (joined(p)->reader != NULL) {
    pcapv3_reader_set_nonblocking(joined(p)->reader, joined(p)->stock.timeout < 0);
  }
  refresh(p);
  return status;
}

static int port_stats(pcap_t* p, struct pcap_stat* stats) {
  /* After a drain the books are closed until the next read. */
  if (!pcapv3_port_frozen_stats(joined(p)->port, stats)) return pcap_stats_linux(p, stats);
  stats->ps_ifdrop = joined(p)->stock.stat.ps_ifdrop;
  return 0;
}

static void port_breakloop(pcap_t* p) {
  pcapv3_request_break(&joined(p)->breaking);
  pcap_breakloop_linux(p);
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

/* Whether two sockets are of one network namespace: 1 or 0, or -1 if the kernel does not tell. */
static int share_namespace(int one, int other) {
  uint64_t cookies[2];
  socklen_t lengths[2] = {sizeof(cookies[0]), sizeof(cookies[1])};
  if (getsockopt(one, SOL_SOCKET, SO_NETNS_COOKIE, &cookies[0], &lengths[0]) == 0 &&
      getsockopt(other, SOL_SOCKET, SO_NETNS_COOKIE, &cookies[1], &lengths[1]) == 0) {
    return cookies[0] == cookies[1];
  }
  /* Before 5.14, and only with CAP_NET_ADMIN (net/socket.c: sock_ioctl). */
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

/* A socket in a group can't be bound again (af_packet.c: packet_do_bind), so that a port whose
 * interface comes back needs another one; by then there may be no privilege to open it. It is of
 * the network namespace that the thread is in now: the handle's own, while that is activated. */
static void open_spare(pcap_t* p) {
  const int type = joined(p)->stock.cooked ? SOCK_DGRAM : SOCK_RAW;
  const int fd = socket(PF_PACKET, type | SOCK_CLOEXEC, 0);
  joined(p)->spare = fd > 0 ? fd : 0;
}

static void close_spare(pcap_t* p) {
  if (joined(p)->spare != 0) (void)close(joined(p)->spare);
  joined(p)->spare = 0;
}

/* Another one, by the thread that reads. */
static void open_next_spare(pcap_t* p) {
  open_spare(p);
  if (joined(p)->spare == 0 || share_namespace(joined(p)->spare, p->fd) == 1) return;
  close_spare(p); /* an interface with the same number there is another one */
}

/* ---- Immediate mode by two rings ---- */

static int is_loopback(const pcap_t* p, int index) {
  return index > 0 && index == joined((pcap_t*)p)->stock.lo_ifindex;
}

/* Begins to make the second ring, which takes the kernel as long as all else in an activation, and
 * goes on meanwhile. */
static void begin_second(pcap_t* p, struct pcapv3_port* port, int cooked) {
  const int fd = socket(PF_PACKET, (cooked ? SOCK_DGRAM : SOCK_RAW) | SOCK_CLOEXEC, 0);
  joined(p)->second_cooked = cooked;
  char text[PCAP_ERRBUF_SIZE];
  if (fd < 0) return;
  pcapv3_reader_begin_frames(joined(p)->reader, port, fd, iface_get_id(fd, p->opt.device, text),
                             cooked);
}

/* Makes the second socket in all like the handle's own, and has the two read, which are joined by
 * the first read. Without it, a handle in immediate mode has blocks only. */
static void add_second(pcap_t* p) {
  const struct pcap_linux* stock = &joined(p)->stock;
  struct pcapv3_reader* reader = joined(p)->reader;
  char text[PCAP_ERRBUF_SIZE]; /* the handle's own may be a warning */
  if (!stock->cooked != !joined(p)->second_cooked) {
    /* It was taken for another kind. This socket is younger than the handle's own: when the
     * interface has been down, all packets come in blocks (fanout.cc). */
    pcapv3_reader_drop_frames(reader);
    begin_second(p, joined(p)->port, stock->cooked);
  }
  if (pcapv3_reader_made_frames(reader) != 0 ||
      iface_bind(pcapv3_reader_frames_socket(reader), stock->ifindex, text, pcap_protocol(p)) !=
          0 ||
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
  pcapv3_reader_set_no_timeout(reader, joined(p)->stock.timeout == 0);
  pcapv3_reader_set_nonblocking(reader, joined(p)->stock.timeout < 0);
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
  /* Unmapped here; destroy_ring() must not do it again. */
  if (has_ring(joined(p))) joined(p)->stock.mmapbuf = NULL;
  joined(p)->port = NULL;
  atomic_signal_fence(memory_order_seq_cst);
  pcapv3_port_close(port);
}

/* A handle that is being closed is a stock one, but that it reads nothing any more. */
static void use_stock_functions(pcap_t* p) {
  p->read_op = no_read;
  p->setfilter_op = pcap_setfilter_linux;
  p->setdirection_op = pcap_setdirection_linux;
  p->set_datalink_op = pcap_set_datalink_linux;
  p->setnonblock_op = pcap_setnonblock_linux;
  p->stats_op = pcap_stats_linux;
  p->breakloop_op = pcap_breakloop_linux;
  p->oneshot_callback = joined(p)->copying_oneshot;
}

/* Blocks that are still out keep the ring mapped, and that keeps the socket open whatever is closed
 * (af_packet.c: packet_mmap; the mapping holds the file). It is made to cost nobody anything until
 * they are back: nothing comes to it any more, and the interface is rid of it, but for its place in
 * a group of PACKET_FANOUT, which it can't leave. */
static void silence(pcap_t* p) {
  /* What no packet is of, because a protocol of 0 means to keep the present one: "internal only".
   */
  const struct sockaddr_ll nowhere = {.sll_family = AF_PACKET,
                                      .sll_protocol = htons(0x0005 /* ETH_P_SNAP */)};
  (void)setsockopt(p->fd, SOL_SOCKET, SO_ATTACH_FILTER, &total_fcode, sizeof(total_fcode));
  (void)bind(p->fd, (const struct sockaddr*)&nowhere, sizeof(nowhere));
  if (p->opt.promisc) {
    const struct packet_mreq wish = {.mr_ifindex = joined(p)->stock.ifindex,
                                     .mr_type = PACKET_MR_PROMISC};
    (void)setsockopt(p->fd, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &wish, sizeof(wish));
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
    host_count(p);
  }
  use_stock_functions(p);
  struct pcapv3_reader* reader = joined(p)->reader;
  struct pcapv3_frames* second = NULL;
  if (reader != NULL) {
    pcapv3_reader_remove_ports(reader);
    second = pcapv3_reader_close_frames(reader);
  }
  leave_port(p);
  pcap_cleanup_linux(p);
  close_spare(p); /* last: it takes the kernel milliseconds, and the group is left by now */
  pcapv3_wait_for_frames(second);
}

/* What stock code does with a ring that it has made (create_ring()), as far as it matters. The
 * array of blocks that it walks (pcap_setfilter_linux()) is as long as its first ring: no later one
 * has more blocks, though it may have fewer. */
static void show_ring(pcap_t* p) {
  struct pcap_linux* stock = &joined(p)->stock;
  const struct pcapv3_ring ring = pcapv3_port_ring(joined(p)->port);
  stock->mmapbuf = ring.base;
  /* create_ring() reckons in unsigned int; a ring can be larger than that. */
  stock->mmapbuflen = (size_t)ring.block_bytes * ring.block_count;
  p->cc = (int)ring.block_count;
  for (unsigned i = 0; i < ring.block_count; ++i) {
    RING_GET_FRAME_AT(p, i) = stock->mmapbuf + (size_t)i * ring.block_bytes;
  }
}

/* Why this handle can't have a port; NULL if it can. */
static const char* must_be_stock(const pcap_t* p, const struct pcapv3_port* port) {
  if (p->opt.rfmon) return "monitor mode";
  if (has_broken_tpacket_v3()) return "this kernel has no sound TPACKET_V3 (3.19 and later have)";
  /* An aggregate has no other way than V3, whatever the kernel's timer is worth. */
  if (p->opt.immediate && joined((pcap_t*)p)->aggregate == NULL &&
      !pcapv3_port_takes_immediate(port))
    return "immediate mode is to use V2";
  return NULL;
}

static int join_fanout(pcap_t* p, struct pcapv3_port* port) {
  const struct pcap_linux* stock = &joined(p)->stock;
  if (pcapv3_port_join_fanout(port, p->fd, stock->ifindex, is_loopback(p, stock->ifindex)) == 0) {
    return 0;
  }
  host_error(p, pcapv3_port_error(port));
  return -1;
}

static int port_activate(pcap_t* p) {
  if (joined(p)->aggregate == NULL) pcapv3_forget_not_up();
  if (p->opt.device == NULL) {
    /* A failed activation frees the name (pcap.c: pcap_cleanup_live_common); stock code reads it.
     */
    host_error(p, "a handle whose activation has failed can't be activated again");
    return PCAP_ERROR;
  }
  struct pcapv3_port* port = pcapv3_port_open(p, &host_ops, p->opt.device, p->errbuf);
  if (port != NULL && joined(p)->aggregate == NULL) {
    joined(p)->reader =
        pcapv3_reader_open(p, &host_ops, &p->break_loop, &joined(p)->breaking, p->errbuf);
    if (joined(p)->reader == NULL) {
      pcapv3_port_close(port);
      port = NULL;
    }
  }
  if (port == NULL) {
    pcap_cleanup_linux(p); /* as pcap_activate_linux() does when it fails */
    return PCAP_ERROR;
  }
  const char* why = must_be_stock(p, port);
  joined(p)->immediate = p->opt.immediate;
  if (why == NULL) {
    joined(p)->port = port;
    p->opt.immediate = 0; /* which is what makes prepare_tpacket_socket() choose V2 */
  }
  if (pcapv3_port_fans_out(port)) joined(p)->joining = port;
  const int adapts = why == NULL && joined(p)->immediate && joined(p)->aggregate == NULL &&
                     !has_own_clock(p) && pcapv3_port_adapts(port);
  if (adapts) begin_second(p, port, strcmp(p->opt.device, "any") == 0);
  activating_cooked = joined(p)->cooked;
  int status = pcap_activate_linux(p);
  activating_cooked = 0;
  p->opt.immediate = joined(p)->immediate;

  joined(p)->joining = NULL;
  if (status >= 0 && pcapv3_port_fans_out(port) && join_fanout(p, port) != 0) {
    joined(p)->port = port;
    leave_port(p);
    pcap_cleanup_linux(p);
    return PCAP_ERROR;
  }
  if (status >= 0 && why == NULL && !has_ring(joined(p))) {
    why = is_stocks(p) ? "CAN frames" : "this kernel has no TPACKET_V3";
  }
  if (status < 0 || why != NULL) {
    if (status == PCAP_ERROR && pcapv3_port_error(port)[0] != '\0') {
      host_error(p, pcapv3_port_error(port));
    }
    if (status >= 0) pcapv3_port_log_stock(port, why);
    if (status >= 0 && joined(p)->aggregate != NULL) {
      snprintf(p->errbuf, sizeof(p->errbuf), "it can't be one of several ports: %s", why);
      pcap_cleanup_linux(p);
      status = PCAP_ERROR;
    }
    joined(p)->port = port;
    leave_port(p);
    return status;
  }

  show_ring(p);
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
  if (joined(p)->aggregate != NULL) {
    char unused[PCAP_ERRBUF_SIZE]; /* the handle's text may be a warning */
    joined(p)->arptype = iface_get_arptype(p->fd, p->opt.device, unused);
  }
  if (joined(p)->cooked) (void)pcap_set_datalink_linux(p, DLT_LINUX_SLL2);
  if (joined(p)->aggregate != NULL && pcapv3_port_fans_out(port)) open_spare(p);
  pcapv3_port_refresh(port);
  if (joined(p)->aggregate == NULL) read_port(p, adapts);
  return status;
}

static void cleanup_unactivated(pcap_t* p) {
  /* Which stock code forgets. */
  if (joined(p)->stock.poll_breakloop_fd != -1) (void)close(joined(p)->stock.poll_breakloop_fd);
  CLEAN_UP_COMMON(p);
}

static pcap_t* create_port(const char* device, char* error) {
  pcap_t* p = pcapv3_stock_create_interface(device, error);
  if (p == NULL) return NULL;
  p->activate_op = port_activate;
  p->cleanup_op = cleanup_unactivated;
  return p;
}

/* ---- A port of an aggregate (member.h) ---- */

pcap_t* pcapv3_member_create(const char* device, pcap_t* aggregate, char* error) {
  pcap_t* p = create_port(device, error);
  if (p == NULL) return NULL;
  /* As pcap_create() does once a handle is there. */
  if ((p->opt.device = strdup(device)) == NULL) {
    snprintf(error, PCAP_ERRBUF_SIZE, "no memory for a port");
    pcap_close(p);
    return NULL;
  }
  joined(p)->aggregate = aggregate;
  return p;
}

void pcapv3_member_prepare(pcap_t* p, int cooked, unsigned most_retire_ms) {
  joined(p)->cooked = cooked;
  joined(p)->most_retire_ms = most_retire_ms;
}

struct pcapv3_port* pcapv3_member_port(pcap_t* p) {
  return joined(p)->port;
}

void pcapv3_member_restore_filter(pcap_t* p, struct bpf_program* filter) {
  if (filter->bf_insns != NULL) {
    (void)pcap_setfilter(p, filter);
    return;
  }
  (void)reset_kernel_filter(p);
  pcap_freecode(&p->fcode);
  joined(p)->stock.filter_in_userland = 0;
  joined(p)->stock.blocks_to_filter_in_userland = 0;
  pcapv3_port_refresh(joined(p)->port);
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

/* ---- Members of an aggregate that come back, in a fan-out group ---- */

/* Goes on with the spare socket, on interface `index`, and opens another; 0 if that worked. */
static int take_spare(pcap_t* p, int index) {
  struct pcapv3_port* port = joined(p)->port;
  char unused[PCAP_ERRBUF_SIZE];
  if (joined(p)->spare == 0) open_next_spare(p); /* which failed before */
  const int spare = joined(p)->spare;
  struct ifreq request = {.ifr_flags = 0};
  snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", joined(p)->stock.device);
  /* One that is not up has to be waited for: before Linux 6.13 a socket joins a group only when it
   * runs (fanout_add), and a spare one that can't is used up. */
  if (spare == 0 || ioctl(spare, SIOCGIFFLAGS, &request) != 0 ||
      (request.ifr_flags & IFF_UP) == 0 || pcapv3_port_shut(port, spare) != 0 ||
      iface_bind(spare, index, unused, pcap_protocol(p)) != 0) {
    return -1;
  }
  host_count(p); /* the last of the old one's */
  const int status = pcapv3_port_renew(port, p->fd, spare, index, is_loopback(p, index));
  close_spare(p); /* which may have a ring */
  open_next_spare(p);
  if (status != 0) return -1;
  show_ring(p);
  p->offset = 0;
  return 0;
}

int pcapv3_member_bind_again(pcap_t* p) {
  struct pcap_linux* stock = &joined(p)->stock;
  char unused[PCAP_ERRBUF_SIZE];
  const int index = iface_get_id(p->fd, stock->device, unused);
  if (index <= 0 ||
      (!stock->cooked && iface_get_arptype(p->fd, stock->device, unused) != joined(p)->arptype)) {
    return -1;
  }
  if (pcapv3_port_fans_out(joined(p)->port)) {
    if (take_spare(p, index) != 0) return -1;
  } else {
    /* An interface that is down is bound to all the same (af_packet.c: packet_do_bind), and read
     * when it comes up. */
    const int status = iface_bind(p->fd, index, unused, pcap_protocol(p));
    if (status != 0 && status != PCAP_ERROR_IFACE_NOT_UP) return -1;
  }
  if (p->opt.promisc) {
    const struct packet_mreq wish = {.mr_ifindex = index, .mr_type = PACKET_MR_PROMISC};
    (void)setsockopt(p->fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &wish, sizeof(wish));
  }
  stock->ifindex = index;
  pcapv3_port_refresh(joined(p)->port);
  return 0;
}

int pcapv3_member_is_elsewhere(pcap_t* p) {
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const int elsewhere = fd >= 0 && share_namespace(fd, p->fd) == 0;
  if (fd >= 0) (void)close(fd);
  return elsewhere;
}

int pcapv3_member_is_gone(pcap_t* p) {
  int error;
  socklen_t length = sizeof(error);
  (void)getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &error, &length);
  return device_still_exists(p) == 0;
}

/* ---- What the rest of libpcap and programs call ---- */

pcap_t* CREATE_INTERFACE(const char* device, char* error) {
  if (!pcapv3_is_on()) return pcapv3_stock_create_interface(device, error);
  if (pcapv3_is_aggregate(device)) return pcapv3_aggregate_create(device, error);
  return create_port(device, error);
}

int FIND_DEVICES(pcap_if_list_t* devices, char* error) {
  const int status = pcapv3_stock_find_devices(devices, error);
  return status != 0 || !pcapv3_is_on() ? status : pcapv3_aggregate_find_devices(devices, error);
}

int pcapv3_stock_fileno(pcap_t*);
int pcapv3_stock_get_selectable_fd(pcap_t*);

int pcap_fileno(pcap_t* p) {
  settle(p);
  return pcapv3_aggregate_give_descriptor(p, pcapv3_stock_fileno(p));
}

int pcap_get_selectable_fd(pcap_t* p) {
  int descriptor = pcapv3_stock_get_selectable_fd(p);
  if (descriptor >= 0 && p->read_op == port_read && joined(p)->reader != NULL &&
      !pcapv3_reader_watch_descriptor(joined(p)->reader)) {
    descriptor = p->fd;
  }
  return pcapv3_aggregate_give_descriptor(p, descriptor);
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
