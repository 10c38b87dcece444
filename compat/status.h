/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The text of PCAP_ERROR_IFACE_NOT_UP, which has the name of the port that was not up, if that was
 * one of several. All of this belongs to the calling thread.
 */
#ifndef PCAP_LINUX_V3_COMPAT_STATUS_H
#define PCAP_LINUX_V3_COMPAT_STATUS_H

/* From now on, the text of pcap_statustostr(3PCAP) has this name. */
void pcapv3_note_not_up(const char* port);
/* From now on, it is stock libpcap's. Must be called when a handle is about to be activated. */
void pcapv3_forget_not_up(void);

#endif
