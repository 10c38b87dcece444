/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Writing savefiles: what a reader of packets announces to the code that dumps them in its callback
 * (dump_ahead.h writes it; compat/savefile.c, which is pcap_dump(3PCAP), reads it).
 */
#ifndef PCAP_LINUX_V3_DUMP_RUN_H
#define PCAP_LINUX_V3_DUMP_RUN_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Both belong to the calling thread. (Initial-exec: the other ways to have such a variable need one
 * more library.) */
#define DUMP_RUN_THREADS \
  extern __thread __attribute__((tls_model("initial-exec"), visibility("hidden")))

/*
 * Identifies the packets that are followed at once, without a wait, by another one that will be
 * dumped to the same file, so that they need not be written out when they are dumped: those with
 * `header`, an address on the reader's stack, and with bytes behind `from` and before `to`, in the
 * block that it walks. `header` is 0 if there are none.
 *
 * A live read sets it around its callbacks. A read that is left by longjmp(3) or an exception can't
 * reset it; but whoever dumps after that has another header, or at least none of the block's
 * packets that lie behind the last one dumped. So nothing here has to be right after such a jump.
 */
struct dump_run {
  uintptr_t header; /* its address, to compare */
  const unsigned char* from;
  const unsigned char* to;
};
DUMP_RUN_THREADS struct dump_run pcapv3_dump_run;

/* The number of packets in a row that were dumped to one file for which this matters. */
DUMP_RUN_THREADS unsigned pcapv3_dump_row;

#ifdef __cplusplus
}
#endif

#endif
