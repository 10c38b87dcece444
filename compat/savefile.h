/*
 * Writing savefiles: what a reader of packets tells whoever dumps them in its callback. Implemented
 * in savefile.c.
 */
#ifndef PCAP_LINUX_V3_COMPAT_SAVEFILE_H
#define PCAP_LINUX_V3_COMPAT_SAVEFILE_H

#ifdef __cplusplus
extern "C" {
#endif

/* Both are the calling thread's. (Initial-exec: see pcap_linux.c: activating_cooked.) */
#define SAVEFILE_THREADS \
  extern __thread __attribute__((tls_model("initial-exec"), visibility("hidden")))

/* Another packet follows at once, without a wait, and will be dumped to the same file, so that what
 * is dumped now need not be written out. Set by a live read around its callbacks; where one is left
 * by longjmp(3), it stays set until the thread's next read. */
SAVEFILE_THREADS int pcapv3_savefile_more;

/* How many packets in a row have been dumped to one file for which that matters. */
SAVEFILE_THREADS unsigned pcapv3_savefile_row;

#ifdef __cplusplus
}
#endif

#endif
