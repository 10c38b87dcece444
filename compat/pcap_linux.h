/*
 * What the module may ask of libpcap about a handle: the whole of it. Implemented in pcap_linux.c,
 * which alone sees the inside of libpcap.
 *
 * C linkage; all of these run on the thread that reads the handle. None takes ownership.
 */
#ifndef PCAP_LINUX_V3_COMPAT_PCAP_LINUX_H
#define PCAP_LINUX_V3_COMPAT_PCAP_LINUX_H

#include <pcap/pcap.h>
#include <signal.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A handle as stock code has set it up: what reading its packets depends on. */
struct pcapv3_linux_view {
  int socket;
  int cooked;    /* the kernel stores no link-layer header (SOCK_DGRAM) */
  int link_type; /* DLT_ value the program has now */
  int snapshot;  /* bytes of a packet wanted at most */
  int vlan_offset;
  int nanoseconds;
  pcap_direction_t direction;
  int interface;          /* index; -1 for all */
  int loopback;           /* lo's index; -1 if there is none */
  int filter_here;        /* packets must pass pcapv3_linux_filter() */
  int filter_is_whole;    /* what the filter asks for is all in the packet, or in its VLAN tag */
  unsigned filter_blocks; /* only those in this many blocks from the current one on; 0: in all */
  int endless;            /* a read waits until it has a packet, however long */
  int nonblocking;        /* a read never waits */
  int has_filter;         /* the program has set one */
  int break_event; /* an eventfd(2) that pcap_breakloop(3PCAP) writes to; -1: there is none */
  int own_clock;   /* time stamps are the interface's and can't be held against CLOCK_REALTIME */
};
void pcapv3_linux_look(pcap_t* handle, struct pcapv3_linux_view* view);

/*
 * Waits as the handle's mode and time-out tell: until the socket can be read or has an error, or
 * not at all. 0; PCAP_ERROR with the handle's error text set, also when the interface is gone; or
 * PCAP_ERROR_BREAK, the break flag then being cleared.
 */
int pcapv3_linux_wait(pcap_t* handle);

/* As pcapv3_linux_wait(), but only looks whether the interface is there, also when the socket calls
 * itself readable for a block that is lent. */
int pcapv3_linux_check(pcap_t* handle);

/* Whether that has found the interface down, and not up since: as it may be going away, it is to be
 * looked at again soon. */
int pcapv3_linux_is_down(pcap_t* handle);

/* What pcap_breakloop(3PCAP) sets, from any thread or signal handler. */
volatile sig_atomic_t* pcapv3_linux_break_flag(pcap_t* handle);

/* Runs the handle's filter over a packet; 0 rejects it. */
int pcapv3_linux_filter(pcap_t* handle, const u_char* bytes, unsigned wire_length,
                        unsigned captured_length, int tagged, unsigned short tci);

/* The program of that filter, which changes when the program sets one, and what runs it: also
 * without the handle, on any thread. */
const struct bpf_insn* pcapv3_linux_filter_code(pcap_t* handle, unsigned* count);
int pcapv3_linux_run_filter(const struct bpf_insn* code, const u_char* bytes, unsigned wire_length,
                            unsigned captured_length, int tagged, unsigned short tci);

/*
 * Tells that a block whose packets had to be filtered here, because the kernel's filter is younger
 * than they are, has been read. Returns how many are left; after the last one the view changes.
 */
unsigned pcapv3_linux_block_filtered(pcap_t* handle);

/* Has the kernel's counts up to now passed to pcapv3_count(). */
void pcapv3_linux_count(pcap_t* handle);

/* Adds what the second socket has counted before its counts are the handle's, as
 * pcapv3_linux_count() does from then on. */
void pcapv3_linux_add_counts(pcap_t* handle, unsigned packets, unsigned drops);

/* Sets the handle's error text. */
void pcapv3_linux_error(pcap_t* handle, const char* text);

/* Stock code's text for an interface that is gone. */
#define PCAP_LINUX_GONE "The interface disappeared"

#ifdef __cplusplus
}
#endif

#endif
