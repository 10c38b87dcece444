// SPDX-License-Identifier: BSD-3-Clause
// What a scenario writes down of all that a program can see of libpcap: lines "name: text" on
// standard output, the record. A record must be the same in every run, so it says of time only what
// holds in all of them, and a scenario waits until packets have been received before it looks.
// Leaves frames, handles and CHECK to the live tests, whose headers it brings along; CHECK is for
// what a scenario needs, not for what it shows. Leaves comparing to fidelity.test.
#pragma once

#include <net/if.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <time.h>

#include <cstdarg>
#include <string>

#include "tests/live/capture.h"

namespace pcapv3::fidelity {

using namespace live;

struct Scenario {
  const char* name;  // a word, unique among all
  void (*run)();
  unsigned limit_s = 20;
};

[[gnu::format(printf, 2, 3)]] inline void note(const char* name, const char* format, ...) {
  std::printf("%s: ", name);
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\n");
}

/// A return code, and the error or warning that it stands for.
inline void note_status(const char* name, int status, const char* error) {
  if (status == 0) {
    note(name, "0");
  } else {
    note(name, "%d \"%s\"", status, error);
  }
}
inline void note_status(const char* name, int status, pcap_t* p) {
  note_status(name, status, pcap_geterr(p));
}

inline void note_stats(const char* name, pcap_t* p) {
  pcap_stat stats = {};
  const int status = pcap_stats(p, &stats);
  if (status != 0) {
    note_status(name, status, p);
  } else {
    note(name, "received %u, dropped %u, by the interface %u", stats.ps_recv, stats.ps_drop,
         stats.ps_ifdrop);
  }
}

/// Whether a descriptor is ready now, as each of the three ways to ask tells it.
inline void note_ready(const char* name, int fd) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(fd, &set);
  timeval at_once = {};
  const int selected = select(fd + 1, &set, nullptr, nullptr, &at_once);
  pollfd asked = {.fd = fd, .events = POLLIN, .revents = 0};
  const int polled = poll(&asked, 1, 0);
  const int set_of_one = epoll_create1(EPOLL_CLOEXEC);
  epoll_event event = {.events = EPOLLIN, .data = {}};
  epoll_ctl(set_of_one, EPOLL_CTL_ADD, fd, &event);
  event.events = 0;
  const int waited = epoll_wait(set_of_one, &event, 1, 0);
  close(set_of_one);
  note(name, "select %d, poll %d %#x, epoll %d %#x", selected, polled,
       static_cast<unsigned>(asked.revents), waited, waited == 1 ? event.events : 0);
}

inline std::uint32_t hash_of(const Bytes& bytes) {  // FNV-1a
  std::uint32_t hash = 2166136261;
  for (const std::uint8_t byte : bytes) hash = (hash ^ byte) * 16777619;
  return hash;
}

/// The number of a frame of ours; -1 for other packets, and those cut off before it.
inline std::int64_t number_in(const Bytes& bytes) {
  for (std::size_t at = 0; at + kPayload <= bytes.size() && at < 64; ++at) {
    if (read32(&bytes[at]) == kMagic) return read32(&bytes[at + 4]);
  }
  return -1;
}

/// A packet without its time stamp, its bytes in full when they are few.
inline void note_packet(const char* name, const Packet& packet) {
  constexpr std::size_t kFew = 24;
  std::string text;
  char part[32];
  if (const std::int64_t number = number_in(packet.bytes); number >= 0) {
    std::snprintf(part, sizeof(part), ", frame %lld", static_cast<long long>(number));
    text = part;
  }
  if (packet.bytes.size() <= kFew) {
    text += ",";
    for (const std::uint8_t byte : packet.bytes) {
      std::snprintf(part, sizeof(part), " %02x", byte);
      text += part;
    }
  } else {
    std::snprintf(part, sizeof(part), ", hash %08x", hash_of(packet.bytes));
    text += part;
  }
  note(name, "caplen %u, len %u%s", packet.header.caplen, packet.header.len, text.c_str());
}

inline std::int64_t realtime_ns() {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * std::int64_t{1'000'000'000} + now.tv_nsec;
}

/// When the scenario began; main() asks first.
inline std::int64_t start_ns() {
  static const std::int64_t kStart = realtime_ns();
  return kStart;
}

/// What holds of time stamps in every run: none is older than the one before it, and each, read in
/// the precision that was asked for, lies between the scenario's begin and now.
inline void note_time_stamps(const char* name, const Packets& packets,
                             int precision = PCAP_TSTAMP_PRECISION_MICRO) {
  const std::int64_t unit_ns = precision == PCAP_TSTAMP_PRECISION_NANO ? 1 : 1000;
  std::int64_t last = 0;
  bool sorted = true;
  bool now = true;
  bool sound = true;
  for (const Packet& packet : packets) {
    const timeval& stamp = packet.header.ts;
    const std::int64_t ns = stamp.tv_sec * std::int64_t{1'000'000'000} + stamp.tv_usec * unit_ns;
    sound = sound && stamp.tv_usec >= 0 && stamp.tv_usec * unit_ns < 1'000'000'000;
    now = now && ns > start_ns() - unit_ns && ns <= realtime_ns();
    sorted = sorted && ns >= last;
    last = ns;
  }
  note(name, "%s, %s, %s", sorted ? "in order" : "out of order",
       now ? "within the run" : "of another time", sound ? "sound" : "not in this precision");
}

/// Packets one a line.
inline void note_packets(const char* name, const Packets& packets) {
  note(name, "%zu packets", packets.size());
  for (const Packet& packet : packets) note_packet(name, packet);
  if (!packets.empty()) note_time_stamps(name, packets);
}

/// Many packets on one line: the numbers as ranges, and a hash over all lengths and bytes.
inline void note_numbers(const char* name, const Packets& packets) {
  std::string text;
  Bytes all;
  for (std::size_t i = 0; i < packets.size();) {
    const std::int64_t first = number_in(packets[i].bytes);
    std::int64_t last = first;
    std::size_t next = i + 1;
    while (next < packets.size() && number_in(packets[next].bytes) == last + 1) {
      ++last;
      ++next;
    }
    text += (text.empty() ? "" : " ") + std::to_string(first);
    if (last != first) text += "-" + std::to_string(last);
    i = next;
  }
  for (const Packet& packet : packets) {
    append32(all, packet.header.caplen);
    append32(all, packet.header.len);
    all.insert(all.end(), packet.bytes.begin(), packet.bytes.end());
  }
  if (packets.empty()) {
    note(name, "no packets");
    return;
  }
  note(name, "%zu packets, frames %s, hash %08x", packets.size(), text.c_str(), hash_of(all));
  note_time_stamps(name, packets);
}

/// Packets as this handle's link type has them, without what nobody wrote: the kernel stores only
/// as many bytes of the address in a cooked header as it is long, and leaves the rest of the place
/// as the packet before it left it.
inline Packets mask_padding(pcap_t* p, Packets packets) {
  const int type = pcap_datalink(p);
  if (type != DLT_LINUX_SLL && type != DLT_LINUX_SLL2) return packets;
  for (Packet& packet : packets) {
    const std::size_t length_at = type == DLT_LINUX_SLL ? 5 : 11;  // pcap/sll.h
    const std::size_t address = length_at + 1;
    if (packet.bytes.size() <= length_at) continue;
    for (std::size_t i = packet.bytes[length_at]; i < 8 && address + i < packet.bytes.size(); ++i) {
      packet.bytes[address + i] = 0;
    }
  }
  return packets;
}

inline void note_packets(const char* name, pcap_t* p, const Packets& packets) {
  note_packets(name, mask_padding(p, packets));
}
inline void note_numbers(const char* name, pcap_t* p, const Packets& packets) {
  note_numbers(name, mask_padding(p, packets));
}

/// For tables: the scenario, on one CPU.
template <void (*kRun)()>
void on_one_cpu() {
  stay_on_cpu();
  kRun();
}

/// Sends what see0 receives.
inline Sender peer() { return Sender("play0", run_arguments().peer); }
/// Sends out of see0.
inline Sender local() { return Sender("see0"); }

/// Waits until `count` packets have come to the handle's ring, read or not, past its filter.
inline void wait_until_received(pcap_t* p, unsigned count) {
  while (stats_of(p).ps_recv < count) std::this_thread::yield();
}

/// Takes what the kernel's filter has let in since `taken` packets were.
inline Packets take_counted(pcap_t* p, std::size_t& taken) {
  const std::size_t received = stats_of(p).ps_recv;
  const Packets packets = take_count(p, received - taken);
  taken = received;
  return packets;
}

/// Reads what is there and what is still to come within many times the time-out: nothing marks the
/// end of nothing.
inline Packets take_rest(pcap_t* p) {
  Packets packets;
  set_nonblock(p);
  pollfd ready = {.fd = pcap_get_selectable_fd(p), .events = POLLIN, .revents = 0};
  do {
    CHECK(pcap_dispatch(p, -1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
  } while (poll(&ready, 1, 100) == 1);
  return packets;
}

/// Whether this is stock libpcap, for what it loses by chance and the library must not.
inline bool is_stock() {
  const char* setting = std::getenv("PCAPV3");
  return std::string_view(pcap_lib_version()).find("pcap-linux-v3") == std::string_view::npos ||
         (setting != nullptr && std::string_view(setting) == "off");
}

/// Tells when a frame has come to an interface, and so to every capture handle that was opened
/// after this: the kernel shows a packet to the newest socket first (net/core/dev.c: dev_add_pack).
/// A socket of its own, so that it is the same whatever libpcap is looked at.
class Watch {
 public:
  explicit Watch(const char* interface = "see0") : loopback_(std::string_view(interface) == "lo") {
    fd_ = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    constexpr int kBytes = 8 << 20;  // so that what nobody waits for does not fill it
    sockaddr_ll address = {};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(if_nametoindex(interface));
    if (fd_ < 0 || address.sll_ifindex == 0 ||
        setsockopt(fd_, SOL_SOCKET, SO_RCVBUFFORCE, &kBytes, sizeof(kBytes)) != 0 ||
        bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
      give_up(interface);
    }
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  ~Watch() { close(fd_); }

  void until(std::uint32_t number) const {
    for (;;) {
      Bytes bytes(64);
      sockaddr_ll from = {};
      socklen_t length = sizeof(from);
      const ssize_t got =
          recvfrom(fd_, bytes.data(), bytes.size(), 0, reinterpret_cast<sockaddr*>(&from), &length);
      if (got < 0) give_up("recvfrom");
      bytes.resize(static_cast<std::size_t>(got));
      // lo shows each frame twice; the second is the one that comes in.
      if (loopback_ && from.sll_pkttype == PACKET_OUTGOING) continue;
      if (number_in(bytes) == number) return;
    }
  }

 private:
  bool loopback_;
  int fd_ = -1;
};

}  // namespace pcapv3::fidelity
