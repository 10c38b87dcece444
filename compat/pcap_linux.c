/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The one file that sees the inside of libpcap's pcap-linux.c.
 *
 * It includes that file as it is, from libpcap's own source, with a few names and system calls
 * redirected by the preprocessor, and gives the rest of the seam and the module access to what is
 * private there (stock.h, host_ops.h). Stock code creates, activates, filters, waits on, injects
 * into and closes a handle on a network interface. Where the handle has a port, the redirected
 * calls differ from the originals:
 *
 *   - PACKET_RX_RING, mmap and munmap: the module makes, maps and unmaps the ring, in a shape of
 *     its own, and reports that shape to stock code, whose own walks over the ring stay right.
 *   - SO_ATTACH_FILTER: packets keep coming while a filter is set, and setting one does not fail
 *     because the interface has been down.
 *   - Fan-out: the socket lets nothing in until it has joined its group.
 *   - PACKET_STATISTICS: the call also gets the third counter, which V3 has.
 *
 * The operations of a handle with a port are in handle.c.
 */
#define _GNU_SOURCE
#include <config.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "compat/handle.h"
#include "compat/names.h"
#include "compat/stock.h"
#include "pcap-int.h"
#include "pcap-linux-v3/module.h"

#ifdef PCAP_LINUX_V3_PCAPINT
#define pcapint_create_interface pcapv3_stock_create_interface
#define pcapint_platform_finddevs pcapv3_stock_find_devices
#else
#define pcap_create_interface pcapv3_stock_create_interface
#define pcap_platform_finddevs pcapv3_stock_find_devices
#endif
#define pcap_lib_version pcapv3_stock_lib_version

const char* pcapv3_stock_lib_version(void);

int pcapv3_stock_find_devices(pcap_if_list_t*, char*);

/* A handle is allocated in this shape: libpcap's struct, stock code's private one behind it, and
 * what joins the handle to the module behind that. */
#define HANDLE_WITH_PORT(stock_type) \
  struct {                           \
    pcap_t handle;                   \
    stock_type stock;                \
    struct pcapv3_handle joined;     \
  }
#undef PCAP_CREATE_COMMON
#define PCAP_CREATE_COMMON(ebuf, type) \
  CREATE_COMMON(ebuf, sizeof(HANDLE_WITH_PORT(type)), offsetof(HANDLE_WITH_PORT(type), stock))

static int seam_setsockopt(pcap_t*, int, int, int, const void*, socklen_t);
static int seam_getsockopt(pcap_t*, int, int, int, void*, socklen_t*);
static void* seam_mmap(pcap_t*, void*, size_t, int, int, int, off_t);
static int seam_munmap(pcap_t*, void*, size_t);
static int seam_ioctl(pcap_t*, int, unsigned long, void*);

/* pcap-linux.c has the handle that it works on in scope under this name wherever that matters. In
 * the few functions that have none, this variable stands for "no handle". */
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

static struct pcap_linux* stock_of(const pcap_t* p) { return &((port_handle*)p)->stock; }

struct pcapv3_handle* pcapv3_handle_of(pcap_t* p) {
  return &((port_handle*)p)->joined;
}

/* ---- The redirected system calls ---- */

/* Returns whether the link type's packets need what the module does not do. */
int pcapv3_stock_has_own_link_type(const pcap_t* p) { return p->linktype == DLT_CAN_SOCKETCAN; }

/* Returns the port's second socket, or -1 if there is none or no packets come to it yet. It gets
 * the same options and filter as the handle's own socket. */
static int second_socket(pcap_t* p) {
  return p != NULL && pcapv3_handle_of(p)->reader != NULL
             ? pcapv3_reader_second_socket(pcapv3_handle_of(p)->reader)
             : -1;
}

int pcapv3_has_ring(pcap_t* p) {
  const struct pcapv3_port* port = pcapv3_handle_of(p)->port;
  return port != NULL && pcapv3_port_ring(port).block_count != 0;
}

static int seam_setsockopt(pcap_t* p, int fd, int level, int name, const void* value,
                           socklen_t length) {
  if (p != NULL && pcapv3_has_ring(p) && level == SOL_SOCKET && name == SO_ATTACH_FILTER &&
      value == &total_fcode) {
    /* set_kernel_filter() attaches this drop-all filter for a moment, so that it can empty the
     * socket's queue before it sets the new filter. A ring has no use for that: the reader filters
     * its older blocks, and the packets of that moment would be lost. If the call fails, stock code
     * goes on without it. If it succeeded, stock code would read from the socket, and give up if an
     * error is pending there, such as that the interface was down for a while, which the next read
     * must see. */
    errno = ENOPROTOOPT;
    return -1;
  }
  if (fd >= 0 && second_socket(p) >= 0 && fd == p->fd && level == SOL_SOCKET &&
      (name == SO_ATTACH_FILTER || name == SO_DETACH_FILTER) &&
      setsockopt(second_socket(p), level, name, value, length) != 0 && name == SO_ATTACH_FILTER) {
    return -1; /* stock code then does without a filter in the kernel, on both */
  }
  if (p != NULL && pcapv3_handle_of(p)->joining != NULL && level == SOL_PACKET &&
      name == PACKET_RX_RING &&
      pcapv3_port_attach_drop_all(pcapv3_handle_of(p)->joining, fd) != 0) {
    return -1;
  }
  /* This is create_ring()'s own variable, which is not const there, and from which it reads the
   * ring's shape. */
  struct tpacket_req3* request = (struct tpacket_req3*)value;
  if (p == NULL || pcapv3_handle_of(p)->port == NULL || level != SOL_PACKET ||
      name != PACKET_RX_RING || length != sizeof(*request) || request->tp_block_nr == 0 ||
      stock_of(p)->tp_version != TPACKET_V3 || pcapv3_stock_has_own_link_type(p)) {
    return setsockopt(fd, level, name, value, length);
  }
  struct pcapv3_port* port = pcapv3_handle_of(p)->port;
  const struct pcapv3_ring_request wanted = {
      .buffer_bytes = p->opt.buffer_size,
      .timeout_ms = p->opt.timeout,
      .immediate = pcapv3_handle_of(p)->immediate,
      .ifindex = stock_of(p)->ifindex,
      .cooked = stock_of(p)->cooked,
      .max_retire_ms = pcapv3_handle_of(p)->max_retire_ms,
      .flow_hash = pcapv3_handle_of(p)->flow_hash,
      .private_size = pcapv3_handle_of(p)->private_size,
  };
  if (pcapv3_port_make_ring(port, fd, &wanted) != 0) {
    request->tp_block_nr = 1; /* keeps create_ring() from asking again for less */
    return -1;
  }
  const struct pcapv3_ring ring = pcapv3_port_ring(port);
  request->tp_block_size = ring.block_bytes;
  request->tp_block_nr = ring.block_count;
  /* There is one "frame" in a block, as in create_ring() for V3. */
  request->tp_frame_size = request->tp_block_size;
  request->tp_frame_nr = request->tp_block_nr;
  return 0;
}

static int seam_getsockopt(pcap_t* p, int fd, int level, int name, void* value, socklen_t* length) {
  if (p == NULL || pcapv3_handle_of(p)->port == NULL || level != SOL_PACKET) {
    return getsockopt(fd, level, name, value, length);
  }
  if (name == PACKET_HDRLEN && *(const int*)value == TPACKET_V3 && pcapv3_handle_of(p)->immediate &&
      pcapv3_stock_has_own_link_type(p)) {
    /* This says to init_tpacket() that there is no such version. A stock handle then gets V2, as it
     * should. */
    errno = EINVAL;
    return -1;
  }
  if (name != PACKET_STATISTICS || stock_of(p)->tp_version != TPACKET_V3) {
    return getsockopt(fd, level, name, value, length);
  }
  pcapv3_port_before_count(pcapv3_handle_of(p)->port);
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
    pcapv3_port_count(pcapv3_handle_of(p)->port, stats.tp_packets, stats.tp_drops,
                      stats.tp_freeze_q_cnt);
    /* The caller's shorter struct is the start of this one. */
    memcpy(value, &stats, *length < sizeof(stats) ? *length : sizeof(stats));
  }
  return status;
}

static void* seam_mmap(pcap_t* p, void* at, size_t length, int protection, int flags, int fd,
                       off_t offset) {
  if (p != NULL && pcapv3_has_ring(p) && fd == p->fd) {
    return pcapv3_port_ring(pcapv3_handle_of(p)->port).base;
  }
  return mmap(at, length, protection, flags, fd, offset);
}

static int seam_munmap(pcap_t* p, void* at, size_t length) {
  if (p != NULL && pcapv3_has_ring(p) && at == pcapv3_port_ring(pcapv3_handle_of(p)->port).base) {
    return 0; /* pcapv3_port_close() unmaps it */
  }
  return munmap(at, length);
}

/* This is set while this thread activates a handle that must be cooked, because iface_get_arptype()
 * is called without a handle. (Initial-exec, because the other models for such a variable need one
 * more library.) */
static __thread int activating_cooked __attribute__((tls_model("initial-exec")));

static int seam_ioctl(pcap_t* p, int fd, unsigned long request, void* argument) {
  (void)p;
  const int status = ioctl(fd, request, argument);
  if (status == 0 && request == SIOCGIFHWADDR && activating_cooked) {
    /* For this type setup_socket() uses a cooked socket, without a warning. */
    ((struct ifreq*)argument)->ifr_hwaddr.sa_family = ARPHRD_PPP;
  }
  return status;
}

/* ---- What the module asks ---- */

/* Returns whether a userland filter gives the kernel's result: it must not load what only the
 * kernel has, such as the packet's direction (linux/filter.h: SKF_AD_OFF), except VLAN tags. */
static int can_run_here(const struct bpf_program* filter) {
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

int pcapv3_stock_has_own_clock(const pcap_t* p) {
  return p->opt.tstamp_type == PCAP_TSTAMP_ADAPTER ||
         p->opt.tstamp_type == PCAP_TSTAMP_ADAPTER_UNSYNCED;
}

static void host_look(pcap_t* p, struct pcapv3_host_view* view) {
  const struct pcap_linux* stock = stock_of(p);
  view->socket = p->fd;
  view->cooked = stock->cooked;
  view->link_type = p->linktype;
  view->promiscuous = p->opt.promisc && stock->ifindex > 0;
  view->snapshot = p->snapshot;
  view->vlan_offset = stock->vlan_offset;
  view->nanoseconds = p->opt.tstamp_precision == PCAP_TSTAMP_PRECISION_NANO;
  view->direction = p->direction;
  view->ifindex = stock->ifindex;
  view->lo_ifindex = stock->lo_ifindex;
  view->filter_here = stock->filter_in_userland && p->fcode.bf_insns != NULL;
  view->filter_is_whole = view->filter_here && can_run_here(&p->fcode);
  view->filter_blocks = view->filter_here ? (unsigned)stock->blocks_to_filter_in_userland : 0;
  view->has_filter = p->fcode.bf_insns != NULL;
  view->own_clock = pcapv3_stock_has_own_clock(p);
}

/* Checks whether the interface is there, without waiting. */
static int look_at_once(pcap_t* p) {
  struct pcap_linux* stock = stock_of(p);
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
  struct pcap_linux* stock = stock_of(p);
  if (p->selectable_fd != -1 || stock->poll_timeout == 0 || stock->timeout <= 0) {
    return pcap_wait_for_frames_mmap(p);
  }
  /* The program has nothing to select on and relies on the timeout. Stock code leaves that to the
   * ring, so that nothing would end a wait on an idle link. Here the timeout ends it; a signal does
   * not, nor does the event of a break that is over. */
  const long long until = monotonic_ms() + stock->timeout;
  for (;;) {
    struct pollfd events[] = {{.fd = p->fd, .events = POLLIN},
                              {.fd = stock->poll_breakloop_fd, .events = POLLIN}};
    const long long left = until - monotonic_ms();
    const int ready = poll(events, 2, left > 0 ? (int)left : 0);
    if (ready < 0 && errno != EINTR) return pcap_wait_for_frames_mmap(p); /* it reports why */
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

int pcapv3_stock_is_up(const pcap_t* p, int fd) {
  struct ifreq request = {.ifr_flags = 0};
  snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", stock_of(p)->device);
  return ioctl(fd, SIOCGIFFLAGS, &request) == 0 && (request.ifr_flags & IFF_UP) != 0;
}

static int host_check(pcap_t* p) {
  struct pcap_linux* stock = stock_of(p);
  const int status = look_at_once(p);
  if (status != 0) return status;
  if (device_still_exists(p) != 0) {
    /* pcap_wait_for_frames_mmap() looks at this only when the socket is not readable. */
    if (stock->netdown && pcapv3_stock_is_up(p, p->fd)) {
      stock->netdown = 0;
      p->required_select_timeout = NULL;
    }
    return 0;
  }
  host_error(p, PCAPV3_INTERFACE_GONE);
  return PCAP_ERROR;
}

static int host_is_down(pcap_t* p) { return stock_of(p)->netdown; }

static int host_wait_for_break(pcap_t* p, int ms) {
  struct pollfd event = {.fd = stock_of(p)->poll_breakloop_fd, .events = POLLIN};
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
  struct pcap_linux* stock = stock_of(p);
  if (stock->blocks_to_filter_in_userland > 0 && --stock->blocks_to_filter_in_userland == 0) {
    stock->filter_in_userland = 0;
  }
  return (unsigned)stock->blocks_to_filter_in_userland;
}

static void host_count(pcap_t* p) {
  /* This is the part of pcap_stats_linux() that opens no file, which a process may have forbidden
   * itself. */
  struct tpacket_stats stats;
  socklen_t length = sizeof(stats);
  if (seam_getsockopt(p, p->fd, SOL_PACKET, PACKET_STATISTICS, &stats, &length) != 0) return;
  stock_of(p)->stat.ps_recv += stats.tp_packets;
  stock_of(p)->stat.ps_drop += stats.tp_drops;
}

static void host_add_counts(pcap_t* p, unsigned packets, unsigned drops) {
  stock_of(p)->stat.ps_recv += packets;
  stock_of(p)->stat.ps_drop += drops;
  pcapv3_port_before_count(pcapv3_handle_of(p)->port);
  pcapv3_port_count(pcapv3_handle_of(p)->port, packets, drops, 0);
}

static void host_ring_replaced(pcap_t* p) { pcapv3_stock_show_ring(p); }

const struct pcapv3_host_ops pcapv3_host_ops = {
    .look = host_look,
    .wait = host_wait,
    .check = host_check,
    .wait_for_break = host_wait_for_break,
    .is_down = host_is_down,
    .filter = host_filter,
    .filter_code = host_filter_code,
    .run_filter = host_run_filter,
    .block_filtered = host_block_filtered,
    .ring_replaced = host_ring_replaced,
    .count = host_count,
    .add_counts = host_add_counts,
    .error = host_error,
};

/* ---- What the rest of the seam asks (stock.h) ---- */

int pcapv3_stock_activate(pcap_t* p, int cooked) {
  activating_cooked = cooked;
  const int status = pcap_activate_linux(p);
  activating_cooked = 0;
  return status;
}

void pcapv3_stock_cleanup(pcap_t* p) { pcap_cleanup_linux(p); }

int pcapv3_stock_setfilter(pcap_t* p, struct bpf_program* filter, int* old_blocks) {
  struct pcap_linux* stock = stock_of(p);
  /* Stock code leaves this as it was if the new filter can't run in the kernel, so that the filter
   * would be forgotten after that many blocks. */
  stock->blocks_to_filter_in_userland = 0;
  /* Stock code counts the blocks that the kernel may have filled with the old filter by subtracting
   * those that it has not: it looks at one after the other. For 64 or 1000 blocks that takes longer
   * than all else here if none of their pages has been touched yet. So it sees one block only. */
  const int blocks = p->cc;
  p->offset = 0;
  p->cc = 1;
  const int status = pcap_setfilter_linux(p, filter);
  p->cc = blocks;
  *old_blocks = (int)stock->blocks_to_filter_in_userland;
  return status;
}

void pcapv3_stock_filter_old_blocks(pcap_t* p, int blocks) {
  stock_of(p)->blocks_to_filter_in_userland = blocks;
}

void pcapv3_stock_forget_filter(pcap_t* p) {
  (void)reset_kernel_filter(p);
  pcap_freecode(&p->fcode);
  stock_of(p)->filter_in_userland = 0;
  stock_of(p)->blocks_to_filter_in_userland = 0;
}

int pcapv3_stock_setdirection(pcap_t* p, pcap_direction_t direction) {
  return pcap_setdirection_linux(p, direction);
}

int pcapv3_stock_set_datalink(pcap_t* p, int link_type) {
  return pcap_set_datalink_linux(p, link_type);
}

int pcapv3_stock_setnonblock(pcap_t* p, int nonblock) {
  return pcap_setnonblock_linux(p, nonblock);
}

int pcapv3_stock_stats(pcap_t* p, struct pcap_stat* stats) { return pcap_stats_linux(p, stats); }

void pcapv3_stock_breakloop(pcap_t* p) { pcap_breakloop_linux(p); }

static int no_read(pcap_t* p, int count, pcap_handler callback, u_char* user) {
  (void)count;
  (void)callback;
  (void)user;
  host_error(p, "the handle is being closed");
  return PCAP_ERROR;
}

void pcapv3_stock_take_over(pcap_t* p) {
  p->read_op = no_read;
  p->setfilter_op = pcap_setfilter_linux;
  p->setdirection_op = pcap_setdirection_linux;
  p->set_datalink_op = pcap_set_datalink_linux;
  p->setnonblock_op = pcap_setnonblock_linux;
  p->stats_op = pcap_stats_linux;
  p->breakloop_op = pcap_breakloop_linux;
}

struct pcapv3_stock_state pcapv3_stock_state(const pcap_t* p) {
  const struct pcap_linux* stock = stock_of(p);
  return (struct pcapv3_stock_state){
      .ifindex = stock->ifindex,
      .lo_ifindex = stock->lo_ifindex,
      .cooked = stock->cooked,
      .timeout = stock->timeout,
      .interface_dropped = stock->stat.ps_ifdrop,
      .device = stock->device,
  };
}

void pcapv3_stock_set_interface(pcap_t* p, int index) { stock_of(p)->ifindex = index; }

int pcapv3_stock_has_broken_v3(void) { return has_broken_tpacket_v3(); }

void pcapv3_stock_close_unactivated(pcap_t* p) {
  /* Stock code forgets to close this. */
  if (stock_of(p)->poll_breakloop_fd != -1) (void)close(stock_of(p)->poll_breakloop_fd);
  CLEAN_UP_COMMON(p);
}

/* Does what stock code does with a ring that it has made (create_ring()), as far as it matters. The
 * array of blocks that it walks (pcap_setfilter_linux()) is as long as its first ring, and shows no
 * more of a later one. */
void pcapv3_stock_show_ring(pcap_t* p) {
  struct pcap_linux* stock = stock_of(p);
  const struct pcapv3_ring ring = pcapv3_port_ring(pcapv3_handle_of(p)->port);
  stock->mmapbuf = ring.base;
  /* create_ring() computes this in unsigned int; a ring can be larger than that. */
  stock->mmapbuflen = (size_t)ring.block_bytes * ring.block_count;
  const unsigned room = (unsigned)p->cc; /* create_ring() has set this */
  const unsigned count = ring.block_count < room ? ring.block_count : room;
  p->cc = (int)count;
  p->offset = 0;
  for (unsigned i = 0; i < count; ++i) {
    RING_GET_FRAME_AT(p, i) = stock->mmapbuf + (size_t)i * ring.block_bytes;
  }
}

/* Hides the ring, which destroy_ring() must not unmap. */
void pcapv3_stock_hide_ring(pcap_t* p) { stock_of(p)->mmapbuf = NULL; }

int pcapv3_stock_index(const pcap_t* p, int fd) {
  char text[PCAP_ERRBUF_SIZE];
  const char* const device = p->opt.device != NULL ? p->opt.device : stock_of(p)->device;
  return iface_get_id(fd, device, text);
}

int pcapv3_stock_arptype(const pcap_t* p) {
  char text[PCAP_ERRBUF_SIZE];
  return iface_get_arptype(p->fd, stock_of(p)->device, text);
}

int pcapv3_stock_bind(const pcap_t* p, int fd, int index) {
  char text[PCAP_ERRBUF_SIZE];
  return iface_bind(fd, index, text, pcap_protocol((pcap_t*)p));
}

int pcapv3_stock_device_exists(const pcap_t* p) { return device_still_exists((pcap_t*)p); }

unsigned pcapv3_stock_max_frame(pcap_t* p, int fd) {
  enum { kLinkHeader = 18 }; /* of Ethernet, with a VLAN tag, as in create_ring() */
  char text[PCAP_ERRBUF_SIZE];
  const int mtu = iface_get_mtu(fd, p->opt.device, text);
  if (mtu <= 0) return 0;
  const int own = p->fd; /* the handle is not activated yet */
  p->fd = fd;
  const int offloads = iface_get_offload(p);
  p->fd = own;
  return offloads == 0 ? (unsigned)mtu + kLinkHeader : 0;
}

void pcapv3_stock_attach_drop_all(const pcap_t* p) {
  (void)setsockopt(p->fd, SOL_SOCKET, SO_ATTACH_FILTER, &total_fcode, sizeof(total_fcode));
}
