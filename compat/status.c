/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The text of a status that an activation returned (status.h), and pcap_open_live(3PCAP), which
 * returns only that text.
 */
#include "compat/status.h"

#include <config.h>
#include <net/if.h>
#include <pcap/pcap.h>
#include <stdio.h>

/* The status of an activation is the port's, because programs act on it, and they show the text of
 * the status. Stock code has no other text for this status, so its text gets the port's name here.
 * (Initial-exec, because the other models for such a variable need one more library.) */
static __thread char not_up[IF_NAMESIZE + 32] __attribute__((tls_model("initial-exec")));

const char* pcapv3_stock_statustostr(int);

void pcapv3_note_not_up(const char* port) {
  snprintf(not_up, sizeof(not_up), "%s: %s", port,
           pcapv3_stock_statustostr(PCAP_ERROR_IFACE_NOT_UP));
}

void pcapv3_forget_not_up(void) { not_up[0] = '\0'; }

const char* pcap_statustostr(int status) {
  const char* text = pcapv3_stock_statustostr(status);
  return status == PCAP_ERROR_IFACE_NOT_UP && not_up[0] != '\0' ? not_up : text;
}

pcap_t* pcapv3_stock_open_live(const char*, int, int, int, char*);

pcap_t* pcap_open_live(const char* device, int snaplen, int promisc, int timeout_ms, char* error) {
  pcapv3_forget_not_up();
  pcap_t* p = pcapv3_stock_open_live(device, snaplen, promisc, timeout_ms, error);
  if (p == NULL && not_up[0] != '\0') {
    snprintf(error, PCAP_ERRBUF_SIZE, "%s: %s", device, not_up);
  }
  return p;
}
