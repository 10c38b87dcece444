// SPDX-License-Identifier: BSD-3-Clause
// Sends TCP frames out of an interface or several in turn, to a hardware address that is nobody's:
// so many a second, or as fast as it goes. The sequence number tells frames apart. What is received
// is the reader's.
//
// Sending frame by frame costs about 1.2 us each. So the frames of a batch are given to the kernel
// as one large TCP segment, which it cuts up for an interface that can't (skb_gso_segment), and
// whose ability to is switched off for that. The receiver gets single packets, one after the other,
// as it gets them from a network card that is polled.
#include <arpa/inet.h>
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

// linux/virtio_net.h can't be included in C++ (it has a member named class).
struct VirtioHeader {
  std::uint8_t flags;  // 1: the checksum is to be filled in
  std::uint8_t type;   // 1: TCP over IPv4, to be segmented
  std::uint16_t header_bytes;
  std::uint16_t segment_bytes;
  std::uint16_t checksum_start;
  std::uint16_t checksum_offset;
};

struct Headers {
  VirtioHeader virtio;
  ether_header ethernet;
  iphdr ip;
  tcphdr tcp;
} __attribute__((packed));

constexpr std::size_t kFrameHeaders = sizeof(Headers) - sizeof(VirtioHeader);
constexpr std::uint64_t kSecond = 1'000'000'000;

[[noreturn]] void give_up(const char* what) {
  std::fprintf(stderr, "sender: %s: %s\n", what, std::strerror(errno));
  std::exit(EXIT_FAILURE);
}

/// `count` frames of `size` bytes as one message.
std::vector<char> make_message(std::size_t size, std::size_t count) {
  const std::size_t payload = size - kFrameHeaders;
  std::vector<char> bytes(sizeof(Headers) + payload * count);
  Headers h = {};
  h.virtio = {.flags = 1,
              .type = static_cast<std::uint8_t>(count > 1 ? 1 : 0),
              .header_bytes = kFrameHeaders,
              .segment_bytes = static_cast<std::uint16_t>(count > 1 ? payload : 0),
              .checksum_start = sizeof(ether_header) + sizeof(iphdr),
              .checksum_offset = offsetof(tcphdr, check)};
  h.ethernet = {{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}, htons(ETHERTYPE_IP)};
  h.ip.version = 4;
  h.ip.ihl = sizeof(iphdr) / 4;
  h.ip.tot_len = htons(static_cast<std::uint16_t>(bytes.size() - offsetof(Headers, ip)));
  h.ip.ttl = 1;
  h.ip.protocol = IPPROTO_TCP;
  h.ip.saddr = htonl(0xc6336401);  // 198.51.100.0/24: for documentation
  h.ip.daddr = htonl(0xc6336402);
  h.tcp.doff = sizeof(tcphdr) / 4;
  std::memcpy(bytes.data(), &h, sizeof(h));
  return bytes;
}

void switch_off(int fd, const char* interface, std::uint32_t command) {
  ethtool_value off = {.cmd = command, .data = 0};
  ifreq request = {};
  std::snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", interface);
  request.ifr_data = reinterpret_cast<char*>(&off);
  if (ioctl(fd, SIOCETHTOOL, &request) != 0) give_up("SIOCETHTOOL");
}

std::uint64_t now() {
  timespec t = {};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * kSecond + static_cast<std::uint64_t>(t.tv_nsec);
}

void sleep_until(std::uint64_t when, std::uint64_t early) {
  if (now() + early >= when) return;  // even a sleep that is over already costs a timer interrupt
  const timespec t = {.tv_sec = static_cast<time_t>(when / kSecond),
                      .tv_nsec = static_cast<long>(when % kSecond)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr) == EINTR) {
  }
}

/// A socket that sends out of `interface`, whose TSO is off from now on.
int open_socket(const char* interface) {
  const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  const int on = 1;
  sockaddr_ll address = {};
  address.sll_family = AF_PACKET;
  address.sll_ifindex = static_cast<int>(if_nametoindex(interface));
  if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) != 0 ||
      bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    give_up(interface);
  }
  switch_off(fd, interface, ETHTOOL_STSO);
  return fd;
}

/// The sockets that messages go to in turn: `interfaces` is NAME[:TIMES],..., TIMES in a row.
std::vector<int> open_sockets(char* interfaces) {
  std::vector<int> turns;
  for (char* name = std::strtok(interfaces, ","); name != nullptr;
       name = std::strtok(nullptr, ",")) {
    char* times = std::strchr(name, ':');
    if (times != nullptr) *times++ = '\0';
    turns.insert(turns.end(), times != nullptr ? std::strtoul(times, nullptr, 10) : 1,
                 open_socket(name));
  }
  return turns;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr,
                 "usage: %s INTERFACE[:TIMES][,...] COUNT SIZE[,SIZE]... [RATE [BATCH [EARLY]]]\n"
                 "Several interfaces take turns, each with TIMES batches in a row.\n"
                 "EARLY: what is due within so many us is sent at once, to sleep less often\n"
                 "COUNT 0 only switches off the interface's offloads, TSO and GSO\n",
                 argv[0]);
    return EXIT_FAILURE;
  }
  const std::uint64_t count = std::strtoull(argv[2], nullptr, 10);
  const std::uint64_t rate = argc > 4 ? std::strtoull(argv[4], nullptr, 10) : 0;
  const std::size_t batch = argc > 5 ? std::strtoul(argv[5], nullptr, 10) : 1;
  const std::uint64_t early = argc > 6 ? std::strtoull(argv[6], nullptr, 10) * 1000 : 0;
  std::vector<std::vector<char>> messages;
  for (char* size = std::strtok(argv[3], ","); size != nullptr; size = std::strtok(nullptr, ",")) {
    messages.push_back(make_message(std::max(std::strtoul(size, nullptr, 10), kFrameHeaders + 1),
                                    std::max<std::size_t>(batch, 1)));
    if (messages.back().size() > 65535) give_up("the batch is too large");
  }

  const std::vector<int> sockets = open_sockets(argv[1]);
  if (sockets.empty()) give_up("no interface");
  if (count == 0) switch_off(sockets[0], argv[1], ETHTOOL_SGSO);  // the name was cut off there
  prctl(PR_SET_TIMERSLACK, 1);

  const std::uint64_t start = now();
  std::uint32_t sequence = 0;
  std::size_t turn = 0;
  for (std::uint64_t sent = 0; sent < count;) {
    if (rate != 0) sleep_until(start + sent * kSecond / rate, early);
    for (std::vector<char>& message : messages) {
      const std::uint32_t number = htonl(sequence);
      std::memcpy(message.data() + offsetof(Headers, tcp.seq), &number, sizeof(number));
      if (send(sockets[turn], message.data(), message.size(), 0) < 0) give_up("send");
      turn = turn + 1 < sockets.size() ? turn + 1 : 0;
      sequence += static_cast<std::uint32_t>(message.size() - sizeof(Headers));
      sent += batch;
    }
  }
  if (count > 0) {
    std::printf("mpps %.6f\n",
                static_cast<double>(count) * 1e3 / static_cast<double>(now() - start));
  }
}
