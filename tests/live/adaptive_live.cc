// Immediate mode that adapts: single packets by the frame ring, at once, and floods by blocks, with
// nothing lost, twice or out of order on the way from one to the other. Run by adaptive.test, in
// the namespace that has see0 to see3; frames come from play0 to play3 in the other one.
//
// What other kinds of immediate mode have to do as well is checked of whichever the environment
// asks for (PCAPV3_IMMEDIATE, PCAPV3=off), so that each check can be seen to hold for those that
// have one ring. Leaves latencies and costs as such to the benchmark.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pcap/linux-v3.h>
#include <sys/syscall.h>

#include <atomic>
#include <functional>
#include <optional>
#include <string_view>

#include "capture.h"
#include "frames.h"
#include "harness.h"
#include "ports.h"
#include "switching.h"

namespace pcapv3::live {
namespace {

using std::chrono::milliseconds;

const char* peer() { return link_arguments().peer; }

bool is_off() { return getenv("PCAPV3") != nullptr; }

/// Whether the handles that are opened now adapt.
bool is_adaptive() {
  const char* mode = getenv("PCAPV3_IMMEDIATE");
  return !is_off() && (mode == nullptr || std::string_view(mode) == "adaptive");
}

/// An environment variable, while it lasts. Null: it is not set.
class Setting {
 public:
  Setting(const char* name, const char* value) : name_(name) {
    const char* before = getenv(name);
    if (before != nullptr) before_ = before;
    put(value);
  }
  ~Setting() { put(before_ ? before_->c_str() : nullptr); }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  void put(const char* value) const {
    if (value != nullptr) setenv(name_, value, 1);
    if (value == nullptr) unsetenv(name_);
  }
  const char* name_;
  std::optional<std::string> before_;
};

/// A handle in immediate mode, and what the library says of it when it is closed.
class Capture {
 public:
  // Stock libpcap's slots are of the snapshot length: so that many fit into the buffer.
  explicit Capture(Options options = {.snaplen = 2000}) : device_(options.device) {
    options.immediate = true;
    if (options.buffer_bytes == 0) options.buffer_bytes = 64 << 20;
    handle_ = open_capture(options);
  }
  operator pcap_t*() const { return handle_.get(); }

  /// Closes it, and checks its books, and how many packets came by the frame ring, where there is
  /// one: the first may come before the first read, which opens that. `undelivered`: at most so
  /// many came and were not read.
  void close(std::size_t least, std::size_t most, unsigned undelivered = 0) {
    handle_.reset();
    const std::string text = stats_.text();
    if (text.empty()) return;  // stock
    CHECK(figure("undelivered") <= undelivered, "%s", text.c_str());
    unsigned sum = 0;
    for (const char* name :
         {"dropped", "delivered", "filtered", "other direction", "corrupt", "undelivered"}) {
      sum += figure(name);
    }
    CHECK(figure("received") == sum, "not %u: %s", sum, text.c_str());
    if (!adaptive_ || (least == 0 && text.find("frames") == text.npos)) return;
    const std::size_t frames = figure("frames");
    CHECK(frames + 1 >= least && frames <= most, "%zu frames, not %zu to %zu: %s", frames, least,
          most, text.c_str());
  }
  /// A figure of the summary, once it is closed.
  unsigned figure(const char* name) const { return live::figure(stats_.text(), device_, name); }
  bool is_adaptive() const { return adaptive_; }

 private:
  const std::string device_;
  const bool adaptive_ = live::is_adaptive();
  Record stats_{"PCAPV3_STATS"};
  Handle handle_;
};

int dispatch(pcap_t* p, int count, Packets& packets) {
  const int taken = pcap_dispatch(p, count, keep, user(packets));
  CHECK(taken >= 0, "status %d, %s", taken, pcap_geterr(p));
  return taken;
}

/// Reads all that can be had now.
void take_all(pcap_t* p, Packets& packets) {
  while (dispatch(p, -1, packets) > 0) {
  }
}

/// Sends frames one by one and takes each before the next: quiet traffic.
void trickle(pcap_t* p, const Sender& sender, std::uint32_t first, std::uint32_t count) {
  for (std::uint32_t i = first; i < first + count; ++i) {
    sender.send({.number = i});
    check_sequence(take_until(p, i), i, i);
  }
}

/// Frames in a flood, which no frame ring holds.
constexpr std::uint32_t kFlood = 2000;

// ---- Quiet and busy by turns

double seconds_or(double otherwise) {
  const char* text = getenv("SWITCHING_SECONDS");
  return text != nullptr && *text != '\0' ? std::atof(text) : otherwise;
}

/// Of a test that was asked to take longer.
void extend_limit(double seconds) {
  if (seconds > 10) end_in(static_cast<unsigned>(2 * seconds) + 20);
}

int dispatch(pcap_t* p, int count, Seen& seen) {
  const std::uint32_t before = seen.count();
  const int taken = pcap_dispatch(p, count, Seen::callback, reinterpret_cast<u_char*>(&seen));
  CHECK(taken >= 0 && static_cast<std::uint32_t>(taken) == seen.count() - before,
        "status %d, %u callbacks, %s", taken, seen.count() - before, pcap_geterr(p));
  return taken;
}

void by_dispatch(pcap_t* p, Seen& seen, int count) {
  while (!seen.ended()) {
    const int taken = dispatch(p, count, seen);
    CHECK(count <= 0 || taken <= count, "%d packets, but at most %d are wanted", taken, count);
  }
}

void by_next_ex(pcap_t* p, Seen& seen) {
  while (!seen.ended()) {
    pcap_pkthdr* header = nullptr;
    const u_char* data = nullptr;
    const int status = pcap_next_ex(p, &header, &data);
    CHECK(status == 0 || status == 1, "status %d, %s", status, pcap_geterr(p));
    if (status == 1) seen.take(*header, data);
  }
}

void by_descriptor(pcap_t* p, Seen& seen, Waiting how) {
  set_nonblock(p);
  const Waiter waiter(how, pcap_get_selectable_fd(p));
  const bool edge = how == Waiting::kEpollEdge;  // it has to read all that there is
  while (!seen.ended()) {
    CHECK(waiter.wait(5000), "not readable after %u packets", seen.count());
    while (dispatch(p, edge ? -1 : 100, seen) > 0 && edge) {
    }
  }
}

void with_filters(pcap_t* p, Seen& seen) {
  if (is_off()) skip("stock loses some");
  // Each accepts every frame of the load.
  const char* const filters[] = {"udp", "len >= 100", "", "ip and len < 200", "udp port 9"};
  for (std::size_t i = 0; !seen.ended(); ++i) {
    set_filter(p, filters[i % std::size(filters)]);
    dispatch(p, 500, seen);
  }
}

void with_directions(pcap_t* p, Seen& seen) {
  while (!seen.ended()) {
    for (const pcap_direction_t direction : {PCAP_D_IN, PCAP_D_INOUT}) {
      set_direction(p, direction);
      if (!seen.ended()) dispatch(p, 500, seen);
    }
  }
}

void late(pcap_t* p, Seen& seen) {
  auto slept = Clock::now();
  while (!seen.ended()) {
    dispatch(p, -1, seen);
    if (Clock::now() - slept < milliseconds(170)) continue;
    std::this_thread::sleep_for(milliseconds(100));
    slept = Clock::now();
  }
}

void with_breaks(pcap_t* p, Seen& seen) {
  std::atomic<bool> ended = false;
  std::thread other([&] {
    while (!ended) {
      std::this_thread::sleep_for(milliseconds(7));
      pcap_breakloop(p);
    }
  });
  while (!seen.ended()) {
    const int status = pcap_loop(p, -1, Seen::callback, reinterpret_cast<u_char*>(&seen));
    CHECK(status == PCAP_ERROR_BREAK, "status %d, %s", status, pcap_geterr(p));
  }
  ended = true;
  other.join();
}

struct Switching {
  std::function<void(pcap_t*, Seen&)> read;
  double seconds = 1;
  unsigned ports = 1;
  bool in_turn = false;
  unsigned busy_ms = 50;
};

/// What the summary says of a port that has delivered `count` packets of a load, which made it
/// change over so many times at least. One of several ports has no frames.
void check_summary(const std::string& text, unsigned port, std::uint32_t count, bool lone,
                   double least_switches) {
  for (const char* name : {"late", "dropped", "undelivered"}) {
    CHECK(figure(text, see(port), name) == 0, "%s", text.c_str());
  }
  CHECK(figure(text, see(port), "delivered") == count, "not %u: %s", count, text.c_str());
  CHECK(lone == (text.find("frames") != text.npos), "%s", text.c_str());
  if (!lone) return;
  const unsigned frames = figure(text, see(port), "frames");
  const unsigned switches = figure(text, see(port), "switches");
  CHECK(frames > 0 && frames < count && switches >= least_switches, "%s", text.c_str());
  std::printf("# %u packets, %u of them by frames, %u switches\n", count, frames, switches);
}

void switching(const Switching& way) {
  if (is_off() && way.ports > 1) skip("stock has no such handle");
  const double seconds = seconds_or(way.seconds);
  extend_limit(seconds);
  const bool adaptive = is_adaptive();
  Record stats("PCAPV3_STATS");
  Seen seen(way.ports);
  {
    const std::string device = list_of(way.ports);
    const Handle handle = open_capture({.device = device.c_str(),
                                        .snaplen = 2000,
                                        .immediate = true,
                                        .buffer_bytes = 64 << 20,
                                        .precision = PCAP_TSTAMP_PRECISION_NANO});
    const Load load(
        {.ports = way.ports, .in_turn = way.in_turn, .seconds = seconds, .busy_ms = way.busy_ms},
        seen);
    way.read(handle.get(), seen);
    const pcap_stat counts = stats_of(handle.get());
    CHECK(counts.ps_recv == seen.count() && counts.ps_drop == 0, "%u received, %u dropped",
          counts.ps_recv, counts.ps_drop);
  }
  if (!adaptive) return;
  for (unsigned port = 0; port < way.ports; ++port) {
    check_summary(stats.text(), port, seen.count(port), way.ports == 1,
                  way.busy_ms > 50 ? 2 : 2 * seconds);
  }
}

/// tcpdump, unmodified, printing to a terminal, which script(1) makes.
void tcpdump_on_a_terminal() {
  if (std::system("command -v script tcpdump >/dev/null") != 0) skip("needs script and tcpdump");
  const double seconds = seconds_or(1.5);
  extend_limit(seconds);
  const bool adaptive = is_adaptive();
  Record stats("PCAPV3_STATS");
  FILE* terminal = popen(
      "exec script -qec 'echo pid $$; exec \"$LAUNCHER\" tcpdump --immediate-mode -n -tt --nano -Z "
      "root "
      "-s 2000 -i see0' /dev/null </dev/null",
      "r");
  CHECK(terminal != nullptr, "%s", std::strerror(errno));
  char line[500];
  int tcpdump = 0;
  const auto read_line = [&] {
    CHECK(std::fgets(line, sizeof(line), terminal) != nullptr, "tcpdump has ended");
  };
  for (line[0] = '\0'; std::strstr(line, "listening on") == nullptr;) {
    read_line();
    std::sscanf(line, "pid %d", &tcpdump);
  }
  Seen seen;
  {
    const Load load({.seconds = seconds, .most_ahead = 500}, seen);
    while (!seen.ended()) {
      unsigned long long s, ns;
      unsigned address[4], length;
      read_line();
      CHECK(std::sscanf(line, "%llu.%9llu IP %u.%u.%u.%u.9 > 10.0.0.2.9: UDP, length %u", &s, &ns,
                        &address[0], &address[1], &address[2], &address[3], &length) == 7,
            "%s", line);
      seen.take(address[0] << 24 | address[1] << 16 | address[2] << 8 | address[3],
                length + kLoadFill, s * 1'000'000'000 + ns);
    }
  }
  CHECK(tcpdump > 0 && kill(tcpdump, SIGINT) == 0, "%s", std::strerror(errno));
  std::string told;
  while (std::fgets(line, sizeof(line), terminal) != nullptr) told += line;
  pclose(terminal);
  const std::string count = std::to_string(seen.count());
  for (const std::string& text :
       {count + " packets captured", count + " packets received by filter",
        std::string("0 packets dropped by kernel")}) {
    CHECK(told.find(text) != told.npos, "no %s: %s", text.c_str(), told.c_str());
  }
  // It is too slow to be woken often.
  if (adaptive) check_summary(stats.text(), 0, seen.count(), true, 0);
}

/// What a handle has got of a load of which its filter lets one half through.
struct Half {
  std::uint32_t parity = 0;
  std::int64_t last = -1;
  std::uint32_t count = 0;
};

/// Filters that let one half through each: none of the other half comes after pcap_setfilter.
void half_filters() {
  Capture capture;
  std::atomic<bool> ended = false;
  std::thread traffic([&] {
    const Seen nothing;
    { const Load load({.most_ahead = 1'000'000}, nothing); }
    ended = true;
  });
  const auto take = [](u_char* at, const pcap_pkthdr*, const u_char* data) {
    auto* half = reinterpret_cast<Half*>(at);
    const std::uint32_t number = read32(data + kLoadNumber);
    CHECK(number % 2 == half->parity, "frame %u after its kind was filtered out", number);
    CHECK(number > half->last, "frame %u after %lld", number, static_cast<long long>(half->last));
    half->last = number;
    ++half->count;
  };
  set_nonblock(capture);
  Half half;
  for (std::uint32_t round = 0; !ended; ++round) {
    half.parity = round % 2;
    set_filter(capture, half.parity == 1 ? "ether[29] & 1 = 1" : "ether[29] & 1 = 0");
    readable(pcap_get_selectable_fd(capture), 20);
    CHECK(pcap_dispatch(capture, 200, take, reinterpret_cast<u_char*>(&half)) >= 0, "%s",
          pcap_geterr(capture));
  }
  traffic.join();
  CHECK(half.count > 100, "%u packets", half.count);
}

void filter_after_arrival() {
  Capture capture;
  const Sender sender("play0", peer());
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
  const Sender sender("play0", peer());
  trickle(capture, sender, 0, 10);
  for (int i = 0; i < 3; ++i) {
    sender.send(0, kWaiting, size);
    std::this_thread::sleep_for(milliseconds(100));
    check_sequence(take_until(capture, kWaiting - 1), 0, kWaiting - 1, 1, size);
  }
  capture.close(10, 2 * kWaiting);
}

// ---- Quiet

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
  const Sender sender("play0", peer());
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
    const Sender sender("play0", peer());
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
  const Sender sender("play0", peer());
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
  trickle(capture, Sender("play0", peer()), 0, kSingles);
  capture.close(kSingles, kSingles);
}

// ---- Large packets

constexpr std::size_t kLargest = 65549;  // the MTU and an Ethernet header

Frame small_or_large(std::uint32_t number) {
  return {.number = number, .size = number % 5 == 0 ? kLargest : 100};
}

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
  const Options options = {.device = view.device,
                           .snaplen = view.snaplen,
                           .buffer_bytes = 64 << 20,
                           .precision = view.precision};
  Handle stock;
  {
    const Setting off("PCAPV3", "off");
    stock = open_capture(options);
  }
  Capture capture(options);
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
  // Large ones may come by blocks.
  capture.close(slow / 2, ours.size() / 2);
}

// ---- Counts, and the end

pcap_t* g_to_break = nullptr;

void break_by_signal(pcap_t* p) {
  g_to_break = p;
  struct sigaction action = {};
  action.sa_handler = [](int) { pcap_breakloop(g_to_break); };
  sigaction(SIGUSR1, &action, nullptr);
}

enum class Traffic { kQuiet, kBusy, kTooMuch };

/// A signal ends the loop; what had come by then is delivered or counted as dropped, of both rings.
void books(Traffic traffic) {
  if (is_off()) skip("stock loses some");
  Capture capture;
  break_by_signal(capture);
  const bool quiet = traffic == Traffic::kQuiet;
  std::atomic<bool> stop = false;
  std::thread other([&] {
    const Sender sender("play0", peer());
    for (std::uint32_t i = 0; !stop; ++i) {
      sender.send({.number = i, .size = traffic == Traffic::kTooMuch ? 1400u : 100u});
      if (quiet) std::this_thread::sleep_for(milliseconds(2));
    }
  });
  struct Count {
    pcap_t* handle;
    std::uint32_t wanted;
    bool until_dropped;
    std::uint32_t count = 0;
    std::int64_t last = -1;
  } count{capture, quiet ? 50u : 50000u, traffic == Traffic::kTooMuch};
  const auto take = [](u_char* at, const pcap_pkthdr*, const u_char* data) {
    auto* c = reinterpret_cast<Count*>(at);
    const std::uint32_t number = read32(data + 18);
    CHECK(number > c->last, "frame %u after %lld", number, static_cast<long long>(c->last));
    c->last = number;
    if (++c->count != c->wanted) return;
    while (c->until_dropped && stats_of(c->handle).ps_drop == 0) std::this_thread::yield();
    raise(SIGUSR1);
  };
  for (int round = 0; round < 2; ++round) {
    count.wanted += count.count;
    const int status = pcap_loop(capture, -1, take, reinterpret_cast<u_char*>(&count));
    CHECK(status == PCAP_ERROR_BREAK, "status %d, %s", status, pcap_geterr(capture));
    const pcap_stat stats = stats_of(capture);
    CHECK(stats.ps_recv == count.count + stats.ps_drop, "%u received, %u delivered, %u dropped",
          stats.ps_recv, count.count, stats.ps_drop);
    CHECK(count.count >= count.wanted, "%u delivered", count.count);
    const bool whole = static_cast<std::int64_t>(count.count) == count.last + 1;
    CHECK(whole || stats.ps_drop > 0, "%lld came last of %u, none were dropped",
          static_cast<long long>(count.last), count.count);
    CHECK((traffic == Traffic::kTooMuch) <= (stats.ps_drop > 0), "none dropped");
  }
  stop = true;
  other.join();
}

/// What is in the rings when a signal ends the loop is delivered: `count` frames that were there
/// before, and as many that came during the callback.
void drain(std::uint32_t count) {
  if (is_off()) skip("stock loses some");
  Capture capture;
  break_by_signal(capture);
  struct Signalled {
    const Sender sender{"play0", peer()};
    std::uint32_t count;
    Packets packets = {};
  } state{.count = count};
  trickle(capture, state.sender, 0, 10);
  const auto take = [](u_char* at, const pcap_pkthdr* header, const u_char* data) {
    auto* s = reinterpret_cast<Signalled*>(at);
    s->packets.emplace_back(*header, data);
    if (s->packets.size() != 1) return;
    s->sender.send(s->count, s->count);
    raise(SIGUSR1);
  };
  for (std::uint32_t round = 1; round <= 3; ++round) {
    state.packets.clear();
    state.sender.send(0, count);
    const int status = pcap_loop(capture, -1, take, reinterpret_cast<u_char*>(&state));
    CHECK(status == PCAP_ERROR_BREAK, "status %d, %s", status, pcap_geterr(capture));
    check_sequence(state.packets, 0, 2 * count - 1);
    const pcap_stat stats = stats_of(capture);
    CHECK(stats.ps_recv == 10 + round * 2 * count && stats.ps_drop == 0,
          "%u received, not %u; %u dropped", stats.ps_recv, 10 + round * 2 * count, stats.ps_drop);
  }
  capture.close(10, 10 + 6 * 100);
}

/// Once all that the rings held has been read, they hold as much again.
void after_overrun() {
  Capture capture({.snaplen = 2000, .buffer_bytes = 16 << 20});
  const Sender sender("play0", peer());
  trickle(capture, sender, 0, 10);
  for (int i = 0; i < 3; ++i) {
    const std::uint32_t before = stats_of(capture).ps_drop;
    const std::uint32_t sent = overrun(capture, sender, 0);
    take_count(capture, sent - (stats_of(capture).ps_drop - before));
    const pcap_stat counts = stats_of(capture);
    sender.send(0, kFlood);
    check_sequence(take_until(capture, kFlood - 1), 0, kFlood - 1);
    const pcap_stat stats = stats_of(capture);
    CHECK(stats.ps_drop == counts.ps_drop && stats.ps_recv == counts.ps_recv + kFlood,
          "%u dropped, before it %u", stats.ps_drop, counts.ps_drop);
  }
  capture.close(10, ~0u);
}

/// What pcap_next_ex hands out is valid until the next call, whatever comes meanwhile.
void next_ex_stays_valid() {
  Capture capture({.snaplen = 2000, .buffer_bytes = 4 << 20});
  const Sender sender("play0", peer());
  trickle(capture, sender, 0, 5);
  std::size_t taken = 5;
  for (int i = 0; i < 3; ++i) {
    sender.send({.number = 0});
    for (const Frame& frame : {Frame{.number = 0}, Frame{.number = 1, .size = 1400}}) {
      pcap_pkthdr* header = nullptr;
      const u_char* data = nullptr;
      int status = 0;
      while (status == 0) status = pcap_next_ex(capture, &header, &data);
      CHECK(status == 1, "status %d, %s", status, pcap_geterr(capture));
      ++taken;
      overrun(capture, sender, 1);
      check_frame(Packet(*header, data), frame);
    }
    const pcap_stat stats = stats_of(capture);
    taken += take_count(capture, stats.ps_recv - stats.ps_drop - taken).size();
  }
}

/// A break in a quiet moment, in both states.
void break_while_idle() {
  for (const int timeout_ms : {0, 10, 8000}) {
    Capture capture({.snaplen = 2000, .timeout_ms = timeout_ms});
    const Sender sender("play0", peer());
    const pid_t reader = getpid();
    for (const std::uint32_t flood : {0u, kFlood}) {
      if (flood != 0) sender.send(0, flood);
      if (flood != 0) check_sequence(take_until(capture, flood - 1), 0, flood - 1);
      Clock::time_point start;
      std::thread other([&] {
        wait_until_asleep(reader);
        start = Clock::now();
        pcap_breakloop(capture);
      });
      Packets packets;
      const int status = pcap_loop(capture, -1, keep, user(packets));
      other.join();
      CHECK(status == PCAP_ERROR_BREAK && packets.empty(), "status %d, %zu packets", status,
            packets.size());
      CHECK(seconds_since(start) < 1, "%.3f s", seconds_since(start));
    }
  }
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

// ---- Waiting on descriptors

/// Reads when the descriptor says so, and not otherwise, until the frame `last` has come.
Packets take_when_readable(pcap_t* p, const Waiter& waiter, std::uint32_t last, unsigned& wakes) {
  Packets packets;
  while (packets.empty() || number_of(packets.back().bytes) != last) {
    CHECK(waiter.wait(5000), "not readable after %zu packets", packets.size());
    ++wakes;
    dispatch(p, -1, packets);
  }
  return packets;
}

/// Nothing is left: a program that waits is to sleep.
void check_sleeps(pcap_t* p, const Waiter& waiter) {
  // But for one wake-up that was under way.
  if (waiter.wait(0)) CHECK(pcap_dispatch(p, -1, keep, nullptr) == 0, "another packet");
  CHECK(!waiter.wait(200), "readable with nothing to read");
}

constexpr std::initializer_list<Waiting> kWays = {Waiting::kSelect, Waiting::kPoll,
                                                  Waiting::kEpoll};

void selectable(Waiting how) {
  Capture capture;
  set_nonblock(capture);
  const Waiter waiter(how, pcap_get_selectable_fd(capture));
  const Sender sender("play0", peer());
  std::vector<double> seconds;
  unsigned wakes = 0;
  constexpr std::uint32_t kSingles = 20;
  for (const std::uint32_t flood : {0u, kFlood}) {
    if (flood != 0) {
      sender.send(0, flood);
      check_sequence(take_when_readable(capture, waiter, flood - 1, wakes), 0, flood - 1);
      check_sleeps(capture, waiter);
    }
    wakes = 0;
    for (std::uint32_t i = 0; i < kSingles; ++i) {
      const auto start = Clock::now();
      sender.send({.number = i});
      check_sequence(take_when_readable(capture, waiter, i, wakes), i, i);
      seconds.push_back(seconds_since(start));
    }
    CHECK(wakes <= 3 * kSingles, "woken %u times for %u packets", wakes, kSingles);
    check_sleeps(capture, waiter);
  }
  std::nth_element(seconds.begin(), seconds.begin() + kSingles, seconds.end());
  CHECK(seconds[kSingles] < 0.05, "%.3f s in the middle", seconds[kSingles]);
  capture.close(kSingles, kFlood / 2);
}

void rest_unread() {
  for (const Waiting how : kWays) {
    Capture capture;
    set_nonblock(capture);
    const Waiter waiter(how, pcap_get_selectable_fd(capture));
    for (const std::uint32_t count : {5u, 300u}) {
      Sender("play0", peer()).send(0, count);
      Packets packets;
      while (packets.size() < count) {
        CHECK(waiter.wait(5000), "not readable with %zu of %u packets read", packets.size(), count);
        CHECK(dispatch(capture, 1, packets) <= 1, "more than one");
      }
      check_sequence(packets, 0, count - 1);
      check_sleeps(capture, waiter);
    }
  }
}

/// A program that asks for the socket itself, after `before` packets and with `unread` in the
/// rings, and waits on that.
void socket_descriptor(std::uint32_t before, std::uint32_t unread,
                       std::initializer_list<Waiting> ways = {Waiting::kPoll}) {
  constexpr std::uint32_t kSingles = 50;
  Capture capture;
  set_nonblock(capture);
  const Sender sender("play0", peer());
  unsigned wakes = 0;
  if (before != 0) {
    const Waiter waiter(Waiting::kPoll, pcap_get_selectable_fd(capture));
    for (std::uint32_t i = 0; i < before; ++i) {
      sender.send({.number = i});
      check_sequence(take_when_readable(capture, waiter, i, wakes), i, i);
    }
  }
  if (unread != 0) sender.send(0, unread);
  const int fd = pcap_fileno(capture);
  int type = 0;
  socklen_t length = sizeof(type);
  CHECK(getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_RAW,
        "%d is no packet socket", fd);
  CHECK(pcap_fileno(capture) == fd, "another one at the second time");
  if (unread != 0) {
    const Waiter waiter(Waiting::kPoll, fd);
    check_sequence(take_when_readable(capture, waiter, unread - 1, wakes), 0, unread - 1);
  }
  std::uint32_t all = before + unread;
  for (const Waiting how : ways) {
    const Waiter waiter(how, fd);
    wakes = 0;
    for (std::uint32_t i = 0; i < kSingles; ++i) {
      sender.send({.number = i});
      check_sequence(take_when_readable(capture, waiter, i, wakes), i, i);
    }
    CHECK(wakes <= 3 * kSingles, "woken %u times for %u packets", wakes, kSingles);
    check_sleeps(capture, waiter);
    sender.send(0, kFlood);
    check_sequence(take_when_readable(capture, waiter, kFlood - 1, wakes), 0, kFlood - 1);
    check_sleeps(capture, waiter);
    all += kSingles + kFlood;
  }
  const pcap_stat stats = stats_of(capture);
  CHECK(stats.ps_recv == all && stats.ps_drop == 0, "%u received, not %u; %u dropped",
        stats.ps_recv, all, stats.ps_drop);
  // None by the frame ring since then.
  capture.close(before, before + std::min(unread, 100u));
}

// ---- Time

/// A read does not come back before there is a packet, whatever the time-out: as with stock
/// libpcap, whose wait goes on (pcap-linux.c: pcap_wait_for_frames_mmap).
void reads_wait() {
  for (const int timeout_ms : {0, 50}) {
    Capture capture({.snaplen = 2000, .timeout_ms = timeout_ms});
    const Sender sender("play0", peer());
    for (const std::uint32_t flood : {0u, kFlood}) {
      if (flood != 0) sender.send(0, flood);
      if (flood != 0) take_until(capture, flood - 1);
      const pid_t reader = getpid();
      std::thread other([&] {
        std::this_thread::sleep_for(milliseconds(200));
        wait_until_asleep(reader);
        sender.send({.number = 7});
      });
      Packets packets;
      CHECK(dispatch(capture, -1, packets) == 1, "no packet");
      check_sequence(packets, 7, 7);
      other.join();
    }
  }
}

/// But in programs that rely on it, which are given no descriptor to wait on.
void reads_end_by_timeout() {
  if (is_off()) skip("stock has no settings");
  const Setting blocking("PCAPV3_BLOCKING", program_invocation_short_name);
  Capture capture({.snaplen = 2000, .timeout_ms = 50});
  CHECK(pcap_get_selectable_fd(capture) == -1, "it has a descriptor");
  const Sender sender("play0", peer());
  for (const std::uint32_t count : {1u, kFlood}) {
    const auto start = Clock::now();
    Packets packets;
    CHECK(dispatch(capture, -1, packets) == 0, "a packet");
    pcap_pkthdr* header = nullptr;
    const u_char* data = nullptr;
    CHECK(pcap_next_ex(capture, &header, &data) == 0, "a packet");
    CHECK(seconds_since(start) > 0.08, "after %.3f s", seconds_since(start));
    for (std::uint32_t i = 0; i < 10; ++i) {
      sender.send(i * count, count);
      check_sequence(take_until(capture, (i + 1) * count - 1), i * count, (i + 1) * count - 1);
    }
  }
  capture.close(10, 5 * kFlood);
}

/// Reads in a thread that is watched, until it has `count` packets; returns its processor time.
double seconds_of_cpu(pcap_t* p, std::size_t count, std::atomic<pid_t>& thread) {
  timespec used = {};
  Packets packets;
  std::thread reader([&] {
    thread = static_cast<pid_t>(syscall(SYS_gettid));
    while (packets.size() < count) dispatch(p, -1, packets);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  });
  reader.join();
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) / 1e9;
}

void idle_costs_nothing() {
  for (const int timeout_ms : {0, 10}) {
    Capture capture({.snaplen = 2000, .timeout_ms = timeout_ms});
    const Sender sender("play0", peer());
    for (const std::uint32_t flood : {0u, kFlood}) {
      if (flood != 0) sender.send(0, flood);
      if (flood != 0) take_until(capture, flood - 1);
      std::atomic<pid_t> reader = 0;
      std::thread other([&] {
        std::this_thread::sleep_for(milliseconds(300));
        while (reader == 0) std::this_thread::yield();
        wait_until_asleep(reader);
        sender.send({.number = 0});
      });
      const auto start = Clock::now();
      const double cpu = seconds_of_cpu(capture, 1, reader);
      CHECK(seconds_since(start) > 0.25, "came back after %.3f s", seconds_since(start));
      CHECK(cpu < 0.05, "%.3f s of processor time in 0.3 s", cpu);
      other.join();
    }
  }
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

/// One of two ports goes and comes back.
void port_comes_back() {
  constexpr char kPorts[] = "see2,see3";
  if (is_off()) skip("stock has no such handle");
  if (if_nametoindex("see3") == 0) make_port(3);
  Record debug("PCAPV3_DEBUG");
  Packets packets;
  {
    const Handle handle = open_capture({.device = kPorts, .immediate = true});
    pcap_t* p = handle.get();
    set_nonblock(p);
    const auto read_until = [&](const auto& done) {
      while (!done()) {
        readable(pcap_get_selectable_fd(p), 20);
        dispatch(p, -1, packets);
      }
    };
    const auto told = [&](const char* text) {
      return debug.text().find(std::string("see3: the interface is ") + text) != std::string::npos;
    };
    const auto send = [&](std::uint32_t first) {
      const Players players(2, 2);
      for (std::uint32_t i = first; i < first + 20; ++i) {  // quiet
        const std::size_t count = packets.size() + 2;
        players.send(i, 1);
        read_until([&] { return packets.size() == count; });
      }
      players.send(first + 20, kFlood);
    };
    send(0);
    ip("link delete see3");  // with much unread
    read_until([&] { return told("gone"); });
    read_until([&] { return packets.size() == 2 * (kFlood + 20); });
    make_port(3);
    read_until([&] { return told("back"); });
    send(kFlood + 20);
    read_until([&] { return packets.size() == 4 * (kFlood + 20); });
    const pcap_stat counts = stats_of(p);
    CHECK(counts.ps_recv == packets.size() && counts.ps_drop == 0, "%u received, %u dropped",
          counts.ps_recv, counts.ps_drop);
  }
  for (Packet& packet : packets) {  // as if of ports 0 and 1
    const std::uint32_t number = number_of(packet.bytes);
    for (std::size_t i = 0; i < 4; ++i) {
      packet.bytes[18 + i] = static_cast<std::uint8_t>((number - marked(2, 0)) >> (24 - 8 * i));
    }
  }
  check_numbers(packets, 2, 0, 2 * (kFlood + 20));
}

// ---- Blocks

/// Takes blocks until the frame `last` has come. Packets that came as frames have to be read
/// before.
void take_blocks(pcap_t* p, std::uint32_t last, bool has_frames, Packets& packets) {
  while (packets.empty() || number_of(packets.back().bytes) != last) {
    pcap_v3_block_t* block = nullptr;
    const int status = pcap_v3_next_block(p, 5000, &block);
    if (status != 1) {
      const std::string_view text = pcap_geterr(p);
      CHECK(has_frames && status == PCAP_ERROR && text.find("were read") != text.npos,
            "status %d after %zu packets, %s", status, packets.size(), pcap_geterr(p));
      dispatch(p, -1, packets);
      continue;
    }
    CHECK(pcap_v3_dispatch_block(block, -1, keep, user(packets)) >= 0, "a bad block");
    pcap_v3_release_block(block);
  }
}

/// A program that takes blocks after having read `before` packets, with `unread` to be read.
void blocks(std::uint32_t before, std::uint32_t unread) {
  if (is_off()) skip("stock has no blocks");
  Capture capture;
  const Sender sender("play0", peer());
  if (before != 0) trickle(capture, sender, 0, before);
  if (unread != 0) sender.send(before, unread);
  Packets packets;
  const std::uint32_t end = before + unread;
  if (unread != 0) take_blocks(capture, end - 1, true, packets);
  pcap_v3_block_t* block = nullptr;
  const int status = pcap_v3_next_block(capture, 0, &block);
  CHECK(status == 0, "status %d, %s", status, pcap_geterr(capture));
  for (std::uint32_t i = end; i < end + 20; ++i) {
    sender.send({.number = i});
    take_blocks(capture, i, false, packets);
  }
  sender.send(end + 20, kFlood);
  take_blocks(capture, end + 20 + kFlood - 1, false, packets);
  check_sequence(packets, before, end + 20 + kFlood - 1);
  const pcap_stat stats = stats_of(capture);
  CHECK(stats.ps_recv == end + 20 + kFlood && stats.ps_drop == 0, "%u received, %u dropped",
        stats.ps_recv, stats.ps_drop);
  capture.close(before, before + std::min(unread, 100u));
}

// ---- Settings, and others on the same interface

/// A handle that has one ring although immediate mode was asked for.
void one_ring(const char* variable, const char* value, const char* mode = "adaptive") {
  if (is_off()) skip("stock has no settings");
  const Setting immediate("PCAPV3_IMMEDIATE", mode);
  const Setting other(variable, value);
  Record stats("PCAPV3_STATS");
  {
    const Handle handle = open_capture({.snaplen = 2000, .immediate = true});
    const Sender sender("play0", peer());
    trickle(handle.get(), sender, 0, 20);
    sender.send(20, 200);
    check_sequence(take_until(handle.get(), 219), 20, 219);
  }
  CHECK(stats.text().find("frames") == std::string::npos, "%s", stats.text().c_str());
}

void not_immediate() {
  Record stats("PCAPV3_STATS");
  {
    const Handle handle = open_capture();
    trickle(handle.get(), Sender("play0", peer()), 0, 5);
  }
  CHECK(stats.text().find("frames") == std::string::npos, "%s", stats.text().c_str());
}

void unknown_value() {
  if (is_off()) skip("stock has no settings");
  const Setting bad("PCAPV3_IMMEDIATE", "sometimes");
  const Handle handle = create({.immediate = true});
  const int status = pcap_activate(handle.get());
  const std::string text = pcap_geterr(handle.get());
  CHECK(status == PCAP_ERROR, "status %d", status);
  for (const char* part : {"PCAPV3_IMMEDIATE", "sometimes", "adaptive", "v3", "v2"}) {
    CHECK(text.find(part) != text.npos, "%s", text.c_str());
  }
}

/// Groups of other programs have the numbers that these like, before and after.
void strangers() {
  const auto join = [](int group) {
    const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETH_P_ALL));
    sockaddr_ll address = {};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(if_nametoindex("see0"));
    const int mode = PACKET_FANOUT_HASH << 16 | group;
    CHECK(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
              setsockopt(fd, SOL_PACKET, PACKET_FANOUT, &mode, sizeof(mode)) == 0,
          "group %d: %s", group, std::strerror(errno));
    return fd;
  };
  const Sender sender("play0", peer());
  for (const bool before : {false, true}) {
    std::vector<int> groups;
    if (before) groups = {join(0), join(1), join(7)};
    Capture capture;
    if (!before) groups = {join(0), join(1), join(7)};
    trickle(capture, sender, 0, 20);
    sender.send(0, kFlood);
    check_sequence(take_until(capture, kFlood - 1), 0, kFlood - 1);
    for (const int fd : groups) {
      int packets = 0;
      for (char byte; recv(fd, &byte, 1, 0) > 0;) ++packets;
      CHECK(packets >= 20, "%d packets came to another's group", packets);
      close(fd);
    }
    capture.close(20, kFlood / 2);
  }
}

void thirty_handles() {
  std::vector<Handle> handles;
  for (int i = 0; i < 30; ++i) {
    handles.push_back(open_capture({.snaplen = 2000, .immediate = true, .buffer_bytes = 4 << 20}));
  }
  const Sender sender("play0", peer());
  for (std::uint32_t i = 0; i < 20; ++i) {
    sender.send({.number = i});
    for (const Handle& handle : handles) check_sequence(take_until(handle.get(), i), i, i);
  }
  sender.send(0, 1000);
  for (const Handle& handle : handles) {
    check_sequence(take_until(handle.get(), 999), 0, 999);
    const pcap_stat stats = stats_of(handle.get());
    CHECK(stats.ps_recv == 1020 && stats.ps_drop == 0, "%u received, %u dropped", stats.ps_recv,
          stats.ps_drop);
  }
}

void two_threads() {
  Seen seen[2];
  const Options options = {.snaplen = 2000,
                           .immediate = true,
                           .buffer_bytes = 64 << 20,
                           .precision = PCAP_TSTAMP_PRECISION_NANO};
  const Handle handles[2] = {open_capture(options), open_capture(options)};
  std::vector<std::thread> threads;
  for (const int i : {0, 1}) {
    threads.emplace_back([&, i] { by_dispatch(handles[i].get(), seen[i], -1); });
  }
  { const Load load({.seconds = 0.7}, seen[0]); }
  for (std::thread& thread : threads) thread.join();
  CHECK(seen[0].count() == seen[1].count(), "%u and %u", seen[0].count(), seen[1].count());
}

/// A child closes its copy of the handle, before the first read or later; the parent goes on.
void forked() {
  for (const std::uint32_t before : {0u, 20u}) {
    Capture capture;
    const Sender sender("play0", peer());
    trickle(capture, sender, 0, before);
    sender.send(before, 5);
    const pid_t child = fork();
    if (child == 0) {
      pcap_close(capture);
      _exit(EXIT_SUCCESS);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0, "the child's status is %d", status);
    check_sequence(take_until(capture, before + 4), before, before + 4);
    trickle(capture, sender, 0, 50);
    sender.send(0, kFlood);
    check_sequence(take_until(capture, kFlood - 1), 0, kFlood - 1);
    CHECK(stats_of(capture).ps_drop == 0, "%u dropped", stats_of(capture).ps_drop);
  }
}

const Test kTests[] = {
    {"switching, pcap_dispatch of all",
     [] {
       switching({.read = [](pcap_t* p, Seen& seen) { by_dispatch(p, seen, -1); }, .seconds = 6});
     }},
    {"switching, pcap_dispatch of one",
     [] { switching({[](pcap_t* p, Seen& seen) { by_dispatch(p, seen, 1); }}); }},
    {"switching, pcap_dispatch of seven",
     [] { switching({[](pcap_t* p, Seen& seen) { by_dispatch(p, seen, 7); }}); }},
    {"switching, pcap_next_ex", [] { switching({by_next_ex}); }},
    {"switching, select",
     [] { switching({[](pcap_t* p, Seen& seen) { by_descriptor(p, seen, Waiting::kSelect); }}); }},
    {"switching, poll",
     [] { switching({[](pcap_t* p, Seen& seen) { by_descriptor(p, seen, Waiting::kPoll); }}); }},
    {"switching, epoll",
     [] { switching({[](pcap_t* p, Seen& seen) { by_descriptor(p, seen, Waiting::kEpoll); }}); }},
    {"switching, filters replaced",
     [] {
       switching({with_filters, 1.5});
     }},
    {"switching, direction set", [] { switching({with_directions}); }},
    {"switching, a reader that is late",
     [] {
       switching({late, 1.5});
     }},
    {"switching, loops that are broken off", [] { switching({with_breaks}); }},
    {"switching, a long flood",
     [] {
       switching({[](pcap_t* p, Seen& seen) { by_dispatch(p, seen, -1); }, 1.4, 1, false, 1300});
     }},
    {"switching, two ports at the same time",
     [] {
       switching({[](pcap_t* p, Seen& seen) { by_dispatch(p, seen, -1); }, 1.5, 2});
     }},
    {"switching, two ports in turn",
     [] {
       switching({[](pcap_t* p, Seen& seen) { by_dispatch(p, seen, -1); }, 1.5, 2, true});
     }},
    {"switching, tcpdump on a terminal", tcpdump_on_a_terminal},
    {"filters that each let one half through", half_filters},
    {"a filter set with both rings full", filter_after_arrival},
    {"small packets that were not read for long are in order", [] { unread_for_long(100); }},
    {"so are large ones", [] { unread_for_long(9000); }},
    {"single packets come by frames", quiet},
    {"sooner than by blocks, also after a flood", latency},
    {"a flood comes by blocks", flood},
    {"large packets are whole", [] { large_packets("play0", "see0", peer()); }},
    {"large packets on lo, each once", [] { large_packets("lo", "lo", nullptr); }},
    {"a TCP stream on lo is whole", tcp_on_loopback},
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
    {"books, quiet", [] { books(Traffic::kQuiet); }},
    {"books, busy", [] { books(Traffic::kBusy); }},
    {"books, more than the rings hold", [] { books(Traffic::kTooMuch); }},
    {"a signal drains the frame ring", [] { drain(20); }},
    {"a signal drains both rings", [] { drain(1000); }},
    {"after more than the rings hold", after_overrun},
    {"pcap_next_ex's packet is valid until the next call", next_ex_stays_valid},
    {"pcap_breakloop ends a read without packets", break_while_idle},
    {"pcap_inject", [] { inject("see0", "play0", peer()); }},
    {"pcap_inject on lo", [] { inject("lo", "lo", nullptr); }},
    {"select: readable with packets, and only then", [] { selectable(Waiting::kSelect); }},
    {"poll", [] { selectable(Waiting::kPoll); }},
    {"epoll", [] { selectable(Waiting::kEpoll); }},
    {"readable while packets are left", rest_unread},
    {"pcap_fileno before the first read", [] { socket_descriptor(0, 0, kWays); }},
    {"pcap_fileno after some reads", [] { socket_descriptor(20, 0); }},
    {"pcap_fileno with packets in the frame ring", [] { socket_descriptor(20, 5); }},
    {"pcap_fileno with packets in both rings", [] { socket_descriptor(20, 500); }},
    {"reads wait for packets, whatever the time-out", reads_wait},
    {"but for programs that rely on it", reads_end_by_timeout},
    {"an idle handle costs nothing", idle_costs_nothing},
    {"as stock: the interface goes down, comes up and goes", [] { down_up_and_gone(false); }},
    {"as stock: so it does under a reader that blocks", [] { down_up_and_gone(true); }},
    {"a port of two goes and comes back", port_comes_back},
    {"blocks, as the first thing", [] { blocks(0, 0); }},
    {"blocks, after reads", [] { blocks(20, 0); }},
    {"blocks, with packets in the frame ring", [] { blocks(20, 5); }},
    {"blocks, with packets in both rings", [] { blocks(20, 500); }},
    {"with PCAPV3_FANOUT there is one ring", [] { one_ring("PCAPV3_FANOUT", "5"); }},
    {"PCAPV3_IMMEDIATE=v3 has one ring", [] { one_ring("PCAPV3_RETIRE", nullptr, "v3"); }},
    {"PCAPV3_IMMEDIATE=v2 has one ring", [] { one_ring("PCAPV3_RETIRE", nullptr, "v2"); }},
    {"a handle that is not in immediate mode has one ring", not_immediate},
    {"other values are refused", unknown_value},
    {"strangers' groups are left alone", strangers},
    {"thirty handles all get every packet", thirty_handles},
    {"two handles in two threads", two_threads},
    {"a child closes its copy of the handle", forked},
};

const Registration kRegistration(
    {.name = "adaptive", .tests = kTests, .links = 4, .modes = "ours"});

}  // namespace
}  // namespace pcapv3::live
