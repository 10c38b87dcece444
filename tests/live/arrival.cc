// SPDX-License-Identifier: BSD-3-Clause
// What a program does that watches two ports without a handle on both: a handle each, poll() on
// both, and into FILE what they give, as it comes. SIGINT ends it, once nothing has come for a
// second.
#include <pcap.h>
#include <poll.h>
#include <signal.h>

#include <cstdio>
#include <cstdlib>

namespace {

volatile sig_atomic_t g_ending = 0;

void on_signal(int) { g_ending = 1; }

[[noreturn]] void give_up(const char* what, const char* why) {
  std::fprintf(stderr, "%s: %s\n", what, why);
  std::exit(EXIT_FAILURE);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) give_up("usage", "arrival FILE PORT PORT");
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);

  char error[PCAP_ERRBUF_SIZE] = "";
  pcap_t* handles[2];
  pollfd ready[2];
  for (int i = 0; i < 2; ++i) {
    pcap_t* handle = handles[i] = pcap_create(argv[2 + i], error);
    if (handle == nullptr) give_up(argv[2 + i], error);
    // As pcap_open_live(), with room for everything: nothing is to be missing but the order.
    if (pcap_set_timeout(handle, 100) != 0 || pcap_set_buffer_size(handle, 64 << 20) != 0 ||
        pcap_activate(handle) < 0 || pcap_setnonblock(handle, 1, error) != 0) {
      give_up(argv[2 + i], pcap_geterr(handle));
    }
    ready[i] = {.fd = pcap_get_selectable_fd(handles[i]), .events = POLLIN, .revents = 0};
  }
  pcap_dumper_t* file = pcap_dump_open(handles[0], argv[1]);
  if (file == nullptr) give_up(argv[1], pcap_geterr(handles[0]));
  std::fprintf(stderr, "listening on %s and %s\n", argv[2], argv[3]);

  for (;;) {
    const int count = poll(ready, 2, 1000);
    if (count == 0 && g_ending != 0) break;
    for (int i = 0; i < 2 && count > 0; ++i) {
      if (ready[i].revents == 0) continue;
      if (pcap_dispatch(handles[i], -1, pcap_dump, reinterpret_cast<u_char*>(file)) < 0) {
        give_up(argv[2 + i], pcap_geterr(handles[i]));
      }
    }
  }
  pcap_dump_close(file);
  for (pcap_t* handle : handles) pcap_close(handle);
  return EXIT_SUCCESS;
}
