// SPDX-License-Identifier: BSD-3-Clause
// What immediate mode brings is what stock libpcap brings at the same time: bytes, headers, own
// packets, and the end of an interface.
#include <net/if.h>

#include <atomic>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "immediate.h"

namespace pcapv3::live {
namespace {

// ---- The same bytes by frames, by blocks and from stock libpcap

struct View {
  const char* device = "see0";
  int snaplen = 70000;
  int precision = PCAP_TSTAMP_PRECISION_MICRO;
  int link_type = -1;
  const char* filter = nullptr;
  bool long_filter = false;
  pcap_direction_t direction = PCAP_D_INOUT;

  void apply(pcap_t* p) const {
    if (link_type >= 0) set_datalink(p, link_type);
    set_direction(p, direction);
    if (filter != nullptr) set_filter(p, filter);
    if (long_filter) set_long_filter(p);
  }
};

const std::vector<Frame> kKinds = {
    {.number = 0},
    {.number = 1, .size = 60},
    {.number = 2, .tags = {{.tci = 5}}},
    {.number = 3, .tags = {{.tci = 0}}},
    {.number = 4, .tags = {{.type = 0x88a8, .tci = 100}, {.tci = 200}}},
    {.number = 5, .size = 1514, .tags = {{.tci = 0xefff}}},
    {.number = 6, .size = 1514, .destination = kBroadcast},
    {.number = 7, .size = 9014},
    {.number = 8, .size = 65535},
    {.number = 9, .size = 42, .tags = {{.tci = 1}, {.tci = 2}, {.tci = 3}}},
};

void same_as_stock(const View& view) {
  if (is_off()) skip("this is stock");
  constexpr std::uint32_t kRounds = 200;
  constexpr std::uint32_t kEnd = 0xffffff;
  const bool on_lo = std::strcmp(view.device, "lo") == 0;
  Options options = {.device = view.device, .snaplen = view.snaplen, .precision = view.precision};
  Capture capture(options);
  options.immediate = true;
  options.buffer_bytes = 256 << 20;
  Handle stock;
  {
    const Setting off("PCAPV3", "off");
    stock = open_capture(options);
  }
  view.apply(stock.get());
  view.apply(capture);
  set_nonblock(stock.get());
  set_nonblock(capture);
  std::optional<Sender> in;
  if (!on_lo) in.emplace("play0", peer());
  const Sender out(on_lo ? "lo" : "see0");
  const std::uint64_t start_ns = now_ns();
  Packets ours;
  std::size_t slow = 0;
  for (std::uint32_t round = 0; round < kRounds; ++round) {
    for (Frame frame : kKinds) {
      frame.number += round * 100;
      if (frame.number % 3 == 0 || on_lo) out.send(frame);
      if (frame.number % 3 != 0 && !on_lo) in->send(frame);
      if (round >= 5) continue;
      std::this_thread::sleep_for(milliseconds(2));  // quiet
      take_all(capture, ours);
      slow = ours.size();
    }
  }
  // It passes all filters and directions.
  const Frame end = {.number = kEnd, .tags = {{.tci = 5}}};
  if (on_lo || view.direction == PCAP_D_OUT) out.send(end);
  if (!on_lo && view.direction != PCAP_D_OUT) in->send(end);
  const Packets theirs = take_until(stock.get(), kEnd);
  while (ours.size() < theirs.size()) {
    readable(pcap_get_selectable_fd(capture), 100);
    take_all(capture, ours);
  }
  CHECK(slow >= 5 && theirs.size() >= 200, "%zu packets, %zu before the flood", theirs.size(),
        slow);
  CHECK(ours.size() == theirs.size(), "%zu packets, not %zu", ours.size(), theirs.size());
  std::uint64_t last = start_ns / 1000;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const pcap_pkthdr& a = ours[i].header;
    const pcap_pkthdr& b = theirs[i].header;
    const std::uint32_t number = number_of(theirs[i].bytes);
    CHECK(number_of(ours[i].bytes) == number, "frame %u, not %u", number_of(ours[i].bytes), number);
    CHECK(a.caplen == b.caplen && a.len == b.len, "frame %u: %u of %u bytes, not %u of %u", number,
          a.caplen, a.len, b.caplen, b.len);
    CHECK(ours[i].bytes == theirs[i].bytes, "frame %u: other bytes", number);
    const bool nano = view.precision == PCAP_TSTAMP_PRECISION_NANO;
    const std::uint64_t us = static_cast<std::uint64_t>(a.ts.tv_sec) * 1'000'000 +
                             static_cast<std::uint64_t>(a.ts.tv_usec) / (nano ? 1000 : 1);
    CHECK(us >= last && us <= now_ns() / 1000, "frame %u: stamped %ld.%06ld", number,
          static_cast<long>(a.ts.tv_sec), static_cast<long>(a.ts.tv_usec));
    last = us;
  }
  CHECK(stats_of(capture).ps_drop == 0, "%u dropped", stats_of(capture).ps_drop);
  // Large ones may come by blocks. Small slots are more than there are packets.
  capture.close(slow / 2, view.snaplen < 2000 ? ~0u : ours.size() / 2);
}

// ---- Sending

/// How many of one's own packets come, by when they were injected.
std::vector<std::uint32_t> injected(const char* device, const char* interface, const char* space) {
  Capture capture({.device = device, .snaplen = 2000});
  set_nonblock(capture);
  const Sender sender(interface, space);
  Packets packets;
  std::uint32_t number = 0;
  for (const std::uint32_t between : {1u, kFlood}) {
    for (int i = 0; i < 20; ++i) {
      const Bytes bytes = bytes_of({.number = 1'000'000 + number});
      const auto size = static_cast<int>(bytes.size());
      CHECK(pcap_inject(capture, bytes.data(), bytes.size()) == size, "%s", pcap_geterr(capture));
      sender.send(number, between);
      number += between;
      while (packets.empty() || number_of(packets.back().bytes) != number - 1) {
        readable(pcap_get_selectable_fd(capture), 100);
        take_all(capture, packets);
      }
    }
  }
  std::vector<std::uint32_t> own;
  std::uint32_t next = 0;
  for (const Packet& packet : packets) {
    const std::uint32_t n = number_of(packet.bytes);
    if (n >= 1'000'000) own.push_back(n);
    if (n >= 1'000'000) continue;
    CHECK(n == next, "frame %u came where %u was due", n, next);
    ++next;
  }
  capture.close(20, packets.size() / 2);
  return own;
}

void inject(const char* device, const char* interface, const char* space) {
  std::vector<std::uint32_t> stocks;
  {
    const Setting off("PCAPV3", "off");
    stocks = injected(device, interface, space);
  }
  const auto own = injected(device, interface, space);
  CHECK(own == stocks, "%zu own packets came, with stock %zu", own.size(), stocks.size());
}

// ---- Interfaces that go

/// A handle on see3, which a thread reads until it is gone.
class Watch {
 public:
  explicit Watch(bool blocking) : blocking_(blocking) {
    if (!blocking) set_nonblock(capture_);
    thread_ = std::thread([this] { read(); });
  }
  /// What it got: how many packets, and the errors.
  std::string end() {
    thread_.join();
    return std::to_string(packets_.size()) + " packets" + errors_;
  }
  void wait_for(std::size_t count) const {
    while (count_ < count) std::this_thread::sleep_for(milliseconds(1));
  }
  const Packets& packets() const { return packets_; }
  Capture& capture() { return capture_; }

 private:
  void read() {
    const int fd = pcap_get_selectable_fd(capture_);
    for (int errors = 0; errors < 5;) {
      if (!blocking_) readable(fd, 20);
      if (pcap_dispatch(capture_, -1, keep, user(packets_)) < 0) {
        errors_ += std::string(", ") + pcap_geterr(capture_);
        ++errors;
      }
      count_ = packets_.size();
    }
  }

  const bool blocking_;
  Capture capture_{{.device = "see3", .timeout_ms = 20}};
  std::string errors_;
  Packets packets_;
  std::atomic<std::size_t> count_ = 0;
  std::thread thread_;
};

/// An interface goes down, comes up, and goes away, and both get the same.
void down_up_and_gone(bool blocking) {
  if (if_nametoindex("see3") == 0) make_port(3);  // another test has failed
  std::optional<Watch> stock;
  {
    const Setting off("PCAPV3", "off");
    stock.emplace(blocking);
  }
  Watch ours(blocking);
  std::vector<Frame> sent;
  const auto send = [&](const Sender& sender, std::uint32_t count, bool one_by_one) {
    for (std::uint32_t i = 0; i < count; ++i) {
      sent.push_back(one_by_one ? Frame{.number = i} : small_or_large(i));
      sender.send(sent.back());
      if (!one_by_one && i + 1 < count) continue;
      stock->wait_for(sent.size());
      ours.wait_for(sent.size());
    }
  };
  send(Sender("play3", peer()), 20, true);
  ip("link set see3 down");
  std::this_thread::sleep_for(milliseconds(100));  // so that both have seen it
  ip("link set see3 up");
  const std::string path = "/sys/class/net/see3/operstate";
  for (std::string state; state != "up";) std::getline(std::ifstream(path), state);
  const Sender again("play3", peer());
  send(again, 20, true);
  send(again, 200, false);
  ip("link delete see3");
  const std::string stocks = stock->end();
  const std::string told = ours.end();
  make_port(3);
  CHECK(told == stocks, "%s; with stock %s", told.c_str(), stocks.c_str());
  std::printf("# %s\n", told.c_str());
  for (std::size_t i = 0; i < sent.size(); ++i) check_frame(ours.packets()[i], sent[i]);
  ours.capture().close(40, sent.size());
}

const Test kTests[] = {
    {"as stock: whole packets", [] { same_as_stock({}); }},
    {"as stock: snapshot length 96", [] { same_as_stock({.snaplen = 96}); }},
    {"as stock: snapshot length 40 and a filter",
     [] { same_as_stock({.snaplen = 40, .filter = "len < 5000"}); }},
    {"as stock: nanoseconds", [] { same_as_stock({.precision = PCAP_TSTAMP_PRECISION_NANO}); }},
    {"as stock: any", [] { same_as_stock({.device = "any"}); }},
    {"as stock: any, LINUX_SLL2, snapshot length 96",
     [] { same_as_stock({.device = "any", .snaplen = 96, .link_type = DLT_LINUX_SLL2}); }},
    {"as stock: a filter too long for the kernel", [] { same_as_stock({.long_filter = true}); }},
    {"as stock: a filter for a VLAN", [] { same_as_stock({.filter = "vlan 5"}); }},
    {"as stock: incoming", [] { same_as_stock({.direction = PCAP_D_IN}); }},
    {"as stock: outgoing", [] { same_as_stock({.direction = PCAP_D_OUT}); }},
    {"as stock: lo", [] { same_as_stock({.device = "lo"}); }},
    {"pcap_inject", [] { inject("see0", "play0", peer()); }},
    {"pcap_inject on lo", [] { inject("lo", "lo", nullptr); }},
    {"as stock: the interface goes down, comes up and goes", [] { down_up_and_gone(false); }},
    {"as stock: so it does under a reader that blocks", [] { down_up_and_gone(true); }},
};
const Registration kRegistration({.name = "immediate_as_stock", .tests = kTests, .links = 4});

}  // namespace
}  // namespace pcapv3::live
