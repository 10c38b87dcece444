/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Writing savefiles: pcap_dump(3PCAP) with one lock at most, and regular files in large pieces.
 * This file owns how large a stream's buffer is and when it is written out. Opening, headers,
 * errors, positions and flushing are left to libpcap's sf-pcap.c (here by other names, see
 * Makefile.am: rename_stocks) and to stdio. A dumper is a FILE and stays one, because programs use
 * it as one.
 *
 * A regular file that is opened here gets a large buffer. A program that is about to wait must not
 * leave more in it than stock's buffer would hold. But a FILE that may have been closed meanwhile
 * must not be touched, so nobody can write it out at that time. Instead the reader announces which
 * packets are followed at once by another that will be dumped, too (dump_run.h). Only those stay in
 * the buffer, if the callback dumps them as it got them. That the next one will be dumped is a
 * guess, based on those before it. So a callback that has dumped one packet after the other to one
 * file and then stops, turns to another file or breaks off the read (pcap_breakloop(3PCAP),
 * longjmp(3)) leaves what is in the buffer there until anything is dumped to that file. In such a
 * callback there is also more for fork(2) to copy than with stock.
 */
#define _GNU_SOURCE
#include <pcap/pcap.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "pcap-linux-v3/dump_run.h"

#if __has_include(<sys/single_threaded.h>) /* glibc 2.32 */
#include <sys/single_threaded.h>
#define IS_ALONE __libc_single_threaded
#else
#define IS_ALONE 0
#endif

#include "pcap-linux-v3/module.h"

void pcapv3_stock_dump(u_char*, const struct pcap_pkthdr*, const u_char*);
pcap_dumper_t* pcapv3_stock_dump_open(pcap_t*, const char*);
pcap_dumper_t* pcapv3_stock_dump_open_append(pcap_t*, const char*);
void pcapv3_stock_dump_close(pcap_dumper_t*);

enum {
  /* It is a page more than a round number, because our streams are recognized by it: no other
   * buffer has this size. */
  kLargeBytes = 256 * 1024 + 4096,
  /* The size that glibc gives a file's buffer on most file systems. */
  kStockBytes = 4096,
  /* Copying a packet this small behind its header costs less than calling fwrite() twice. */
  kSmallBytes = 256,
};

/* ---- Large buffers ---- */

/* A buffer belongs to its stream until that is closed. Programs may close it by fclose(3), which is
 * not noticed here: the buffer is then freed when another stream gets the same address. */
struct buffer {
  struct buffer* next;
  const FILE* stream; /* to compare, never to use */
  char bytes[kLargeBytes];
};
static struct buffer* buffers;
static pthread_mutex_t buffers_lock = PTHREAD_MUTEX_INITIALIZER;

static void keep(struct buffer* buffer) {
  (void)pthread_mutex_lock(&buffers_lock);
  buffer->next = buffers;
  buffers = buffer;
  (void)pthread_mutex_unlock(&buffers_lock);
}

static struct buffer* take(const FILE* stream) {
  (void)pthread_mutex_lock(&buffers_lock);
  struct buffer** at = &buffers;
  while (*at != NULL && (*at)->stream != stream) at = &(*at)->next;
  struct buffer* buffer = *at;
  if (buffer != NULL) *at = buffer->next;
  (void)pthread_mutex_unlock(&buffers_lock);
  return buffer;
}

/* Gives a stream that was just opened a large buffer, if it is a regular file. */
static pcap_dumper_t* enlarge(pcap_t* p, pcap_dumper_t* dumper) {
  FILE* f = (FILE*)dumper;
  struct stat status;
  if (f == NULL || f == stdout || !pcapv3_is_on()) return dumper;
  free(take(f));
  if (fstat(fileno(f), &status) != 0 || !S_ISREG(status.st_mode)) return dumper;
  struct buffer* buffer = malloc(sizeof(*buffer));
  if (buffer == NULL) return dumper;
  /* The buffer holds the file's header, unless the file had one already; setvbuf() would write it
   * out. The seek makes glibc leave writing mode; otherwise it would write the header separately
   * with the first packet (fileops.c: _IO_new_file_overflow). */
  const int has_header = __fpending(f) != 0;
  if (has_header) {
    __fpurge(f);
    rewind(f);
  }
  if (setvbuf(f, buffer->bytes, _IOFBF, sizeof(buffer->bytes)) == 0) {
    buffer->stream = f;
    keep(buffer);
  } else {
    free(buffer);
  }
  return has_header ? pcap_dump_fopen(p, f) : dumper;
}

/* ---- What programs call ---- */

pcap_dumper_t* pcap_dump_open(pcap_t* p, const char* name) {
  return enlarge(p, pcapv3_stock_dump_open(p, name));
}

pcap_dumper_t* pcap_dump_open_append(pcap_t* p, const char* name) {
  return enlarge(p, pcapv3_stock_dump_open_append(p, name));
}

void pcap_dump_close(pcap_dumper_t* dumper) {
  /* This must come before another stream can get the same address. */
  struct buffer* buffer = take((const FILE*)dumper);
  pcapv3_stock_dump_close(dumper);
  free(buffer);
}

/* A packet's record as in pcap-savefile(5), in the host's byte order. */
struct record {
  bpf_u_int32 seconds;
  bpf_u_int32 fraction;
  bpf_u_int32 captured;
  bpf_u_int32 wire;
  u_char bytes[kSmallBytes];
};

/* Returns whether another packet follows at once. */
static int is_followed(const struct pcap_pkthdr* h, const u_char* bytes) {
  struct dump_run* run = &pcapv3_dump_run;
  if ((uintptr_t)h != run->header || bytes <= run->from || bytes >= run->to) return 0;
  run->from = bytes; /* each is dumped once */
  return 1;
}

/* Writes a packet to the buffer. Requires that the stream is locked and its buffer has room. */
static void put(FILE* f, const struct pcap_pkthdr* h, const u_char* bytes) {
  const size_t header = offsetof(struct record, bytes);
  struct record record;
  record.seconds = (bpf_u_int32)h->ts.tv_sec;
  record.fraction = (bpf_u_int32)h->ts.tv_usec;
  record.captured = h->caplen;
  record.wire = h->len;
  if (h->caplen <= sizeof(record.bytes)) {
    memcpy(record.bytes, bytes, h->caplen);
    (void)fwrite_unlocked(&record, header + h->caplen, 1, f);
  } else {
    (void)fwrite_unlocked(&record, header, 1, f);
    (void)fwrite_unlocked(bytes, h->caplen, 1, f);
  }
}

__attribute__((nonnull(1))) void pcap_dump(u_char* user, const struct pcap_pkthdr* h,
                                           const u_char* bytes) {
  FILE* f = (FILE*)user;
  if (__fbufsize(f) != kLargeBytes) {
    pcapv3_stock_dump(user, h, bytes);
    return;
  }
  static __thread const FILE* last __attribute__((tls_model("initial-exec"))); /* to compare */
  pcapv3_dump_row = f == last ? pcapv3_dump_row + 1 : 1;
  last = f;
  const int alone = IS_ALONE != 0;
  if (!alone) flockfile(f);
  /* A packet is put only where the buffer has room, so that nothing is written to the file here: a
   * thread that is cancelled in write(2) would leave the stream locked. */
  const size_t pending = __fpending(f) + offsetof(struct record, bytes) + h->caplen;
  const int fits = pending <= kLargeBytes && !ferror_unlocked(f);
  if (fits) put(f, h, bytes);
  if (!alone) funlockfile(f);
  if (!fits) pcapv3_stock_dump(user, h, bytes);
  if (!is_followed(h, bytes) && pending >= kStockBytes) (void)fflush(f);
}
