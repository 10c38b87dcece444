/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What libpcap and programs call for handles of whatever kind: making one, listing devices, and the
 * functions that give a program a handle's descriptors. Each passes the call on to the handle's
 * kind (handle.c, multi.c).
 */
#include <config.h>
#include <pcap/pcap.h>
#include <pthread.h>
#include <stdio.h>

#include "compat/handle.h"
#include "compat/multi.h"
#include "compat/names.h"
#include "compat/stock.h"
#include "pcap-int.h"
#include "pcap-linux-v3/module.h"

int pcapv3_stock_find_devices(pcap_if_list_t*, char*);
const char* pcapv3_stock_lib_version(void);
int pcapv3_stock_fileno(pcap_t*);
int pcapv3_stock_get_selectable_fd(pcap_t*);

pcap_t* CREATE_INTERFACE(const char* device, char* error) {
  if (!pcapv3_is_on()) return pcapv3_stock_create_interface(device, error);
  if (pcapv3_is_multi(device)) return pcapv3_multi_create(device, error);
  return pcapv3_handle_create(device, error);
}

int FIND_DEVICES(pcap_if_list_t* devices, char* error) {
  const int status = pcapv3_stock_find_devices(devices, error);
  return status != 0 || !pcapv3_is_on() ? status : pcapv3_multi_find_devices(devices, error);
}

int pcap_fileno(pcap_t* p) {
  pcapv3_handle_give_socket(p);
  return pcapv3_multi_give_descriptor(p, pcapv3_stock_fileno(p));
}

int pcap_get_selectable_fd(pcap_t* p) {
  const int descriptor = pcapv3_handle_give_descriptor(p, pcapv3_stock_get_selectable_fd(p));
  return pcapv3_multi_give_descriptor(p, descriptor);
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
