/* SPDX-License-Identifier: BSD-3-Clause */
/* A program that does not link libpcap but loads it, as some do: `dlopen_capture SONAME DEVICE`
 * captures one packet. It says that it listens as tcpdump does. maps.test looks at what it has
 * mapped meanwhile. */

#include <dlfcn.h>
#include <pcap/pcap.h>
#include <stdio.h>
#include <stdlib.h>

static void* load(void* library, const char* name) {
  void* symbol = dlsym(library, name);
  if (symbol == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    exit(2);
  }
  return symbol;
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: dlopen_capture SONAME DEVICE\n");
    return 2;
  }
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 2;
  }
  __typeof__(pcap_open_live)* open_live = load(library, "pcap_open_live");
  __typeof__(pcap_next_ex)* next_ex = load(library, "pcap_next_ex");
  __typeof__(pcap_close)* close_pcap = load(library, "pcap_close");

  char text[PCAP_ERRBUF_SIZE] = "";
  pcap_t* pcap = open_live(argv[2], 65535, 1, 100, text);
  if (pcap == NULL) {
    fprintf(stderr, "%s: %s\n", argv[2], text);
    return 1;
  }
  fprintf(stderr, "listening on %s\n", argv[2]);

  struct pcap_pkthdr* header;
  const u_char* bytes;
  int status;
  while ((status = next_ex(pcap, &header, &bytes)) == 0) {
  }
  if (status == 1) printf("%u bytes\n", header->len);
  close_pcap(pcap);
  return status == 1 ? 0 : 1;
}
