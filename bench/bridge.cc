// SPDX-License-Identifier: BSD-3-Clause
// A bridge in user space: what arrives on either of two interfaces is sent out of the other, as
// long as a command runs, which is the traffic and its measure (ping, say). Each direction is a
// handle in immediate mode, read as programs with several descriptors do: poll on those that
// libpcap offers, then pcap_dispatch. Which libpcap it is, is the environment's choice.
//
//   bridge INTERFACE INTERFACE COMMAND...    its exit status is the command's
#include <pcap/pcap.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

[[noreturn]] void give_up(const char* what, const char* why) {
  std::fprintf(stderr, "bridge: %s: %s\n", what, why);
  std::exit(EXIT_FAILURE);
}

pcap_t* open_port(const char* interface) {
  char error[PCAP_ERRBUF_SIZE];
  pcap_t* port = pcap_create(interface, error);
  if (port == nullptr) give_up(interface, error);
  pcap_set_snaplen(port, 65535);
  pcap_set_promisc(port, 1);
  pcap_set_immediate_mode(port, 1);
  if (pcap_activate(port) < 0) give_up(interface, pcap_geterr(port));
  // Or it would read what it has sent.
  if (pcap_setdirection(port, PCAP_D_IN) != 0) give_up("pcap_setdirection", pcap_geterr(port));
  if (pcap_setnonblock(port, 1, error) != 0) give_up("pcap_setnonblock", error);
  return port;
}

void pass_on(u_char* to, const pcap_pkthdr* header, const u_char* bytes) {
  auto* port = reinterpret_cast<pcap_t*>(to);
  if (pcap_inject(port, bytes, header->caplen) < 0) give_up("pcap_inject", pcap_geterr(port));
}

/// How long poll may take, in ms: some descriptors do not tell of every packet.
int poll_limit(pcap_t* port) {
  const timeval* limit = pcap_get_required_select_timeout(port);
  return limit == nullptr ? INT_MAX
                          : static_cast<int>(limit->tv_sec * 1000 + limit->tv_usec / 1000);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) give_up("usage", "bridge INTERFACE INTERFACE COMMAND...");
  pcap_t* const ports[2] = {open_port(argv[1]), open_port(argv[2])};
  const pid_t command = fork();
  if (command == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execvp(argv[3], argv + 3);
    _exit(127);
  }
  pollfd ready[3] = {{.fd = pcap_get_selectable_fd(ports[0]), .events = POLLIN, .revents = 0},
                     {.fd = pcap_get_selectable_fd(ports[1]), .events = POLLIN, .revents = 0},
                     {.fd = static_cast<int>(syscall(SYS_pidfd_open, command, 0)),
                      .events = POLLIN,
                      .revents = 0}};
  if (command < 0 || ready[2].fd < 0) give_up(argv[3], std::strerror(errno));
  while ((ready[2].revents & POLLIN) == 0) {
    const int limit = std::min(poll_limit(ports[0]), poll_limit(ports[1]));
    const int n = poll(ready, 3, limit == INT_MAX ? -1 : limit);
    if (n < 0 && errno != EINTR) give_up("poll", std::strerror(errno));
    for (int i = 0; i < 2; ++i) {
      if (n > 0 && ready[i].revents == 0) continue;  // after a time-out both are looked at
      auto* other = reinterpret_cast<u_char*>(ports[1 - i]);
      if (pcap_dispatch(ports[i], -1, pass_on, other) < 0) {
        give_up("pcap_dispatch", pcap_geterr(ports[i]));
      }
    }
  }
  int status = 0;
  waitpid(command, &status, 0);
  for (pcap_t* port : ports) pcap_close(port);
  return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE;
}
