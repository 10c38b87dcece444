// SPDX-License-Identifier: BSD-3-Clause
// Immediate mode that adapts: single packets by the frame ring, at once, and floods by blocks;
// filters, large packets, a TCP stream.
#include "immediate.h"

#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "switching.h"

namespace pcapv3::live {
namespace {

// ---- Quiet and busy

constexpr std::uint32_t kOfFlood = 1'000'000;  // first number

struct Delays {
  std::uint32_t next = 0;
  std::vector<std::uint64_t> ns;
};

/// The median time from a frame's stamp to its callback, of single ones, each some time after the
/// one before, or after a flood.
double median_us(pcap_t* p, std::uint32_t flood = 0) {
  const std::uint32_t singles = flood == 0 ? 50 : 15;
  Delays delays;
  const Sender sender = remote();
  std::thread other([&] {
    for (std::uint32_t i = 0; i < singles; ++i) {
      sender.send(kOfFlood, flood);
      if (flood != 0) std::this_thread::sleep_for(milliseconds(40));
      sender.send({.number = i});
      std::this_thread::sleep_for(milliseconds(10));
    }
  });
  const auto take = [](u_char* at, const pcap_pkthdr* header, const u_char* data) {
    auto* d = reinterpret_cast<Delays*>(at);
    const std::uint32_t number = read32(data + 18);
    if (number >= kOfFlood) return;
    d->ns.push_back(now_ns() - stamp_ns(*header));
    CHECK(number == d->next, "frame %u came where %u was due", number, d->next);
    ++d->next;
  };
  while (delays.ns.size() < singles) {
    CHECK(pcap_dispatch(p, -1, take, reinterpret_cast<u_char*>(&delays)) >= 0, "%s",
          pcap_geterr(p));
  }
  other.join();
  std::nth_element(delays.ns.begin(), delays.ns.begin() + singles / 2, delays.ns.end());
  return static_cast<double>(delays.ns[singles / 2]) / 1e3;
}

/// Reads a flood that lasts for longer than a second.
void read_long_flood(pcap_t* p) {
  std::thread other([] {
    const Sender sender = remote();
    for (const auto start = Clock::now(); seconds_since(start) < 1.3;) sender.send(kOfFlood, 100);
    sender.send({.number = 1});
  });
  bool ended = false;
  const auto take = [](u_char* at, const pcap_pkthdr*, const u_char* data) {
    *reinterpret_cast<bool*>(at) = read32(data + 18) == 1;
  };
  while (!ended) {
    CHECK(pcap_dispatch(p, -1, take, reinterpret_cast<u_char*>(&ended)) >= 0, "%s", pcap_geterr(p));
  }
  other.join();
}

/// Single packets come sooner than by blocks, also when the last of a flood is some time ago. (Ten
/// times as soon; a half is for machines that have other work.)
void latency() {
  constexpr Options kNanoseconds = {.snaplen = 2000, .precision = PCAP_TSTAMP_PRECISION_NANO};
  Capture capture(kNanoseconds);
  const double at_first_us = median_us(capture);
  const double after_floods_us = median_us(capture, kFlood);
  read_long_flood(capture);
  const double at_last_us = median_us(capture);
  capture.close(100, ~0u);
  if (!capture.is_adaptive()) return;
  const Setting v3("PCAPV3_IMMEDIATE", "v3");
  const double v3_us = median_us(Capture(kNanoseconds));
  std::printf("# median delay %.0f us, %.0f us after floods, %.0f us at last; with v3 %.0f us\n",
              at_first_us, after_floods_us, at_last_us, v3_us);
  CHECK(std::max({at_first_us, after_floods_us, at_last_us}) < v3_us / 2, "too long");
}

/// A flood comes by blocks, but for what the frame ring holds at its start.
void flood() {
  constexpr std::uint32_t kLong = 30000;
  Capture capture;
  const Sender sender = remote();
  trickle(capture, sender, 0, 10);
  std::thread other([&] { sender.send(0, kLong); });
  check_sequence(take_until(capture, kLong - 1), 0, kLong - 1);
  other.join();
  capture.close(10, kLong / 4);
  if (capture.is_adaptive()) std::printf("# %u of %u by frames\n", capture.figure("frames"), kLong);
  if (capture.is_adaptive()) CHECK(capture.figure("switches") > 0, "it did not change over");
}

void quiet() {
  constexpr std::uint32_t kSingles = 100;
  Capture capture;
  trickle(capture, remote(), 0, kSingles);
  capture.close(kSingles, kSingles);
}

// ---- Packets in both rings

void filter_after_arrival() {
  Capture capture;
  const Sender sender = remote();
  sender.send(0, kFlood);
  wait_until_received(capture, kFlood);
  set_filter(capture, kOdd);
  sender.send(kFlood, 100);
  check_sequence(take_until(capture, kFlood + 99), 1, kFlood + 99, 2);
  set_long_filter(capture);
  sender.send(0, kFlood);
  check_sequence(take_until(capture, kFlood - 1), 1, kFlood - 1, 2);
  set_filter(capture, kEven);
  sender.send(0, 101);
  check_sequence(take_until(capture, 100), 0, 100, 2);
}

/// Packets that have waited in both rings for long.
void unread_for_long(std::size_t size) {
  constexpr std::uint32_t kWaiting = 500;
  Capture capture({.snaplen = 10000});
  const Sender sender = remote();
  trickle(capture, sender, 0, 10);
  for (int i = 0; i < 3; ++i) {
    sender.send(0, kWaiting, size);
    std::this_thread::sleep_for(milliseconds(100));
    check_sequence(take_until(capture, kWaiting - 1), 0, kWaiting - 1, 1, size);
  }
  capture.close(10, 2 * kWaiting);
}

// ---- Large packets

void large_packets(const char* interface, const char* device, const char* space) {
  Capture capture({.device = device});
  const Sender sender(interface, space);
  constexpr std::uint32_t kFrames = 200;
  Packets packets;
  set_nonblock(capture);
  for (std::uint32_t i = 0; i < kFrames; ++i) {
    sender.send(small_or_large(i));
    while (packets.size() <= i) {
      readable(pcap_get_selectable_fd(capture), 100);
      take_all(capture, packets);
    }
  }
  // Some unread at first, and then as fast as it goes.
  for (const std::uint32_t count : {kFrames, 5 * kFrames}) {
    std::thread other;
    const auto send = [&] {
      for (std::uint32_t i = 0; i < count; ++i) sender.send(small_or_large(i));
    };
    if (count == kFrames) send();
    if (count != kFrames) other = std::thread(send);
    const std::size_t until = packets.size() + count;
    while (packets.size() < until) {
      readable(pcap_get_selectable_fd(capture), 100);
      take_all(capture, packets);
    }
    if (other.joinable()) other.join();
  }
  sender.send({.number = 0});
  while (packets.size() < 7 * kFrames + 1) take_all(capture, packets);
  CHECK(packets.size() == 7 * kFrames + 1, "%zu packets", packets.size());
  packets.pop_back();
  for (std::uint32_t i = 0; i < packets.size(); ++i) {
    const std::uint32_t number = i < 2 * kFrames ? i % kFrames : i - 2 * kFrames;
    CHECK(number_of(packets[i].bytes) == number, "frame %u came where %u was due",
          number_of(packets[i].bytes), number);
    check_frame(packets[i], small_or_large(number));
  }
  // Of those that nobody read meanwhile, few.
  capture.close(kFrames * 4 / 5, packets.size() - kFrames / 2);
}

/// Sends over a TCP connection on lo, in one process: `singles` writes apart from one another, then
/// `bulk` bytes. Returns how many in all.
std::size_t transfer(std::uint16_t port, int singles, std::size_t bulk) {
  constexpr std::size_t kWrite = 60000;
  const int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int one = 1;
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const auto* name = reinterpret_cast<const sockaddr*>(&address);
  if (setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0 ||
      bind(server, name, sizeof(address)) != 0 || listen(server, 1) != 0 ||
      setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) != 0 ||
      connect(client, name, sizeof(address)) != 0) {
    give_up("TCP");
  }
  const int accepted = accept(server, nullptr, nullptr);
  const std::size_t all = static_cast<std::size_t>(singles) * kWrite + bulk;
  std::thread receiver([&] {
    pin();
    Bytes bytes(1 << 20);
    for (ssize_t count; (count = read(accepted, bytes.data(), bytes.size())) > 0;) {
    }
  });
  pin();
  const Bytes bytes(kWrite);
  for (std::size_t sent = 0; sent < all;) {
    if (singles-- > 0) std::this_thread::sleep_for(milliseconds(5));
    const ssize_t count = write(client, bytes.data(), std::min(kWrite, all - sent));
    if (count < 0) give_up("write");
    sent += static_cast<std::size_t>(count);
  }
  close(client);
  receiver.join();
  close(accepted);
  close(server);
  return all;
}

void tcp_on_loopback() {
  constexpr std::uint16_t kPort = 47998;
  constexpr int kSingles = 40;
  Capture capture({.device = "lo"});
  set_filter(capture, "tcp dst port 47998");
  std::size_t all = 0;
  std::thread other([&] { all = transfer(kPort, kSingles, 20'000'000); });
  struct Stream {
    std::uint32_t next = 0;
    std::size_t bytes = 0;
    unsigned large = 0;
    bool ended = false;
  } stream;
  const auto take = [](u_char* at, const pcap_pkthdr* header, const u_char* data) {
    auto* s = reinterpret_cast<Stream*>(at);
    CHECK(header->caplen == header->len, "%u of %u bytes", header->caplen, header->len);
    const std::uint32_t length = read16(data + 16) - 20u - (data[46] >> 4) * 4u;
    const std::uint32_t sequence = read32(data + 38);
    const std::uint8_t flags = data[47];
    CHECK(header->len == length + 34 + (data[46] >> 4) * 4u, "%u bytes, %u in IP's header",
          header->len, read16(data + 16));
    if ((flags & TH_SYN) != 0) {
      s->next = sequence + 1;
      return;
    }
    if (length != 0) {
      CHECK(sequence == s->next, "byte %u came where %u was due", sequence, s->next);
      s->next += length;
      s->bytes += length;
      s->large += length > 30000;
    }
    s->ended |= (flags & TH_FIN) != 0;
  };
  while (!stream.ended) {
    CHECK(pcap_dispatch(capture, -1, take, reinterpret_cast<u_char*>(&stream)) >= 0, "%s",
          pcap_geterr(capture));
  }
  other.join();
  CHECK(stream.bytes == all, "%zu bytes of %zu", stream.bytes, all);
  CHECK(stream.large > 100, "%u large packets", stream.large);
  CHECK(stats_of(capture).ps_drop == 0, "%u dropped", stats_of(capture).ps_drop);
  capture.close(kSingles / 2, ~0u, 10);  // what follows the FIN is left unread
}

const Test kTests[] = {
    {"a filter set with both rings full", filter_after_arrival},
    {"small packets that were not read for long are in order", [] { unread_for_long(100); }},
    {"so are large ones", [] { unread_for_long(9000); }},
    {"single packets come by frames", quiet},
    {"sooner than by blocks, also after a flood", latency},
    {"a flood comes by blocks", flood},
    {"large packets are whole", [] { large_packets("play0", "see0", peer()); }},
    {"large packets on lo, each once", [] { large_packets("lo", "lo", nullptr); }},
    {"a TCP stream on lo is whole", tcp_on_loopback},
};
const Registration kRegistration({.name = "immediate", .tests = kTests});

}  // namespace
}  // namespace pcapv3::live
