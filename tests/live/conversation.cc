// SPDX-License-Identifier: BSD-3-Clause
// A TCP conversation between two network namespaces, for scripts: EXCHANGES requests of one byte
// with an answer each, then BULK bytes from the server. NS_SERVER and NS_CLIENT are paths, ADDRESS
// is the server's. All on one CPU: a packet then reaches all that look at it before it is answered.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/socket.h>

#include <cstdio>
#include <cstdlib>

#include "frames.h"

namespace pcapv3::live {
namespace {

constexpr std::uint16_t kPort = 7777;
constexpr std::size_t kAnswer = 300;

void check(bool ok, const char* what) {
  if (!ok) give_up(what);
}

int tcp_socket() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int one = 1;
  check(fd >= 0 && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0 &&
            setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0,
        "socket");
  return fd;
}

void send_all(int fd, std::size_t bytes) {
  static const char kBytes[65536] = {};
  while (bytes != 0) {
    const ssize_t sent = send(fd, kBytes, std::min(bytes, sizeof(kBytes)), MSG_NOSIGNAL);
    check(sent > 0, "send");
    bytes -= static_cast<std::size_t>(sent);
  }
}

/// Receives so many bytes; false when the connection has ended.
bool receive(int fd, std::size_t bytes) {
  char buffer[65536];
  while (bytes != 0) {
    const ssize_t got = recv(fd, buffer, std::min(bytes, sizeof(buffer)), 0);
    check(got >= 0, "recv");
    if (got == 0) return false;
    bytes -= static_cast<std::size_t>(got);
  }
  return true;
}

void serve(int listener, unsigned exchanges, std::size_t bulk) {
  const int fd = accept(listener, nullptr, nullptr);
  check(fd >= 0, "accept");
  for (unsigned i = 0; i < exchanges; ++i) {
    check(receive(fd, 1), "request");
    send_all(fd, kAnswer);
  }
  send_all(fd, bulk);
  close(fd);
}

void converse(const char* server_space, const char* client_space, const char* address,
              unsigned exchanges, std::size_t bulk) {
  cpu_set_t allowed;
  check(sched_getaffinity(0, sizeof(allowed), &allowed) == 0, "sched_getaffinity");
  int cpu = 0;
  while (!CPU_ISSET(cpu, &allowed)) ++cpu;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  check(sched_setaffinity(0, sizeof(one), &one) == 0, "sched_setaffinity");

  sockaddr_in at = {};
  at.sin_family = AF_INET;
  at.sin_port = htons(kPort);
  check(inet_pton(AF_INET, address, &at.sin_addr) == 1, address);
  int listener = -1;
  int client = -1;
  in_namespace(server_space, [&] { listener = tcp_socket(); });
  in_namespace(client_space, [&] { client = tcp_socket(); });
  check(bind(listener, reinterpret_cast<sockaddr*>(&at), sizeof(at)) == 0, "bind");
  check(listen(listener, 1) == 0, "listen");
  std::thread server([&] { serve(listener, exchanges, bulk); });
  check(connect(client, reinterpret_cast<sockaddr*>(&at), sizeof(at)) == 0, "connect");
  for (unsigned i = 0; i < exchanges; ++i) {
    send_all(client, 1);
    check(receive(client, kAnswer), "answer");
  }
  check(receive(client, bulk), "bulk");
  check(!receive(client, 1), "more than was to come");
  close(client);
  server.join();
}

}  // namespace
}  // namespace pcapv3::live

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: %s NS_SERVER NS_CLIENT ADDRESS EXCHANGES BULK\n", argv[0]);
    return EXIT_FAILURE;
  }
  pcapv3::live::converse(argv[1], argv[2], argv[3], static_cast<unsigned>(std::atoi(argv[4])),
                         static_cast<std::size_t>(std::atol(argv[5])));
  return EXIT_SUCCESS;
}
