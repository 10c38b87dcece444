// SPDX-License-Identifier: BSD-3-Clause
// Which flows are in which capture files, for the tests of fan-out: a flow whose packets are in two
// files was not kept together. Capturing and playing are left to the scripts.
//
// A flow is what the kernel's symmetric hash takes for one (flow_dissector.c): the addresses, the
// protocol and the ports, whichever of the two ends a packet comes from. Only packets of which that
// can be said without its long list of tunnels are looked at: TCP, UDP and ICMP right over IP.
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <pcap/pcap.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <string>

namespace {

using Bytes = std::span<const std::uint8_t>;

constexpr const char* kUsage =
    "usage: flows unfragmented FILE...   prints those files that have no IPv4 fragments\n"
    "       flows together LEAST FILE... each flow is in one file; there are LEAST or more, in "
    "two\n"
    "                                    files at least\n";

struct CloseFile {
  void operator()(pcap_t* file) const { pcap_close(file); }
};
using File = std::unique_ptr<pcap_t, CloseFile>;

File open(const char* path) {
  char error[PCAP_ERRBUF_SIZE];
  File file(pcap_open_offline(path, error));
  if (file == nullptr) {
    std::fprintf(stderr, "%s: %s\n", path, error);
    std::exit(EXIT_FAILURE);
  }
  return file;
}

std::uint16_t read16(Bytes bytes, std::size_t at) {
  return static_cast<std::uint16_t>(bytes[at] << 8 | bytes[at + 1]);
}

/// The packet from its network header on, and what that is; nothing if it is cut off.
Bytes network(Bytes frame, std::uint16_t& type) {
  std::size_t at = 12;
  while (at + 2 <= frame.size()) {
    type = read16(frame, at);
    if (type != 0x8100 && type != 0x88a8) return frame.subspan(at + 2);
    at += 4;
  }
  return {};
}

bool is_ipv4_fragment(Bytes frame) {
  std::uint16_t type = 0;
  const Bytes ip = network(frame, type);
  return type == 0x0800 && ip.size() >= sizeof(iphdr) &&
         (read16(ip, 6) & (IP_MF | IP_OFFMASK)) != 0;
}

/// A name for the packet's flow; empty if it has none that is looked at.
std::string flow_of(Bytes frame) {
  std::uint16_t type = 0;
  Bytes ip = network(frame, type);
  std::uint8_t protocol = 0;
  std::size_t addresses = 0;
  std::size_t length = 0;  // of an address
  std::size_t header = 0;
  if (type == 0x0800 && ip.size() >= sizeof(iphdr) && ip[0] >> 4 == 4 && (ip[0] & 15) >= 5) {
    if (is_ipv4_fragment(frame)) return {};
    protocol = ip[9];
    addresses = 12;
    length = 4;
    header = std::size_t{4} * (ip[0] & 15);
  } else if (type == 0x86dd && ip.size() >= sizeof(ip6_hdr) && ip[0] >> 4 == 6) {
    protocol = ip[6];
    addresses = 8;
    length = 16;
    header = sizeof(ip6_hdr);
  } else {
    return {};
  }
  std::string from(reinterpret_cast<const char*>(&ip[addresses]), length);
  std::string to(reinterpret_cast<const char*>(&ip[addresses + length]), length);
  std::string ports[2];
  if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) {
    if (ip.size() < header + 4) return {};
    ports[0].assign(reinterpret_cast<const char*>(&ip[header]), 2);
    ports[1].assign(reinterpret_cast<const char*>(&ip[header + 2]), 2);
  } else if (protocol != IPPROTO_ICMP && protocol != IPPROTO_ICMPV6) {
    return {};
  }
  const bool back = from + ports[0] > to + ports[1];
  return std::to_string(protocol) +
         (back ? to + ports[1] + from + ports[0] : from + ports[0] + to + ports[1]);
}

int print_unfragmented(std::span<char*> paths) {
  for (const char* path : paths) {
    const File file = open(path);
    bool has = false;
    pcap_pkthdr* header = nullptr;
    const u_char* bytes = nullptr;
    while (pcap_next_ex(file.get(), &header, &bytes) == 1) {
      has |= is_ipv4_fragment(Bytes(bytes, header->caplen));
    }
    if (!has) std::puts(path);
  }
  return EXIT_SUCCESS;
}

int check_together(std::size_t least, std::span<char*> paths) {
  std::map<std::string, const char*> place;
  std::map<std::string, std::size_t> flows_of;
  std::size_t parted = 0;
  for (const char* path : paths) {
    const File file = open(path);
    pcap_pkthdr* header = nullptr;
    const u_char* bytes = nullptr;
    while (pcap_next_ex(file.get(), &header, &bytes) == 1) {
      const std::string flow = flow_of(Bytes(bytes, header->caplen));
      if (flow.empty()) continue;
      const auto [at, is_new] = place.try_emplace(flow, path);
      if (is_new) ++flows_of[path];
      if (at->second == path) continue;
      if (++parted > 5) continue;
      std::printf("%s has a packet of a flow of %s, of %u bytes at %ld.%06ld\n", path, at->second,
                  header->len, header->ts.tv_sec, header->ts.tv_usec);
    }
  }
  std::printf("%zu flows in %zu files, %zu packets are in another\n", place.size(), flows_of.size(),
              parted);
  return parted == 0 && place.size() >= least && flows_of.size() > 1 ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace

int main(int argc, char** argv) {
  const std::span<char*> words(argv, static_cast<std::size_t>(argc));
  if (argc >= 3 && std::strcmp(argv[1], "unfragmented") == 0) {
    return print_unfragmented(words.subspan(2));
  }
  if (argc >= 4 && std::strcmp(argv[1], "together") == 0) {
    return check_together(std::strtoul(argv[2], nullptr, 10), words.subspan(3));
  }
  std::fputs(kUsage, stderr);
  return 2;
}
