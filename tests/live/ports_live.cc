// Several ports as one handle (see0,see1,...): what a program gets of their packets, in which
// order, and what the functions of libpcap do on such a handle. Run by ports.test, in the namespace
// that has see0 to see63; frames come from play0 to play63 in the other one. Stock libpcap has
// nothing to compare with, so that the reference is pcap-linux-v3(7) and, for all else, a handle on
// one port. Leaves ports that come and go to ports_gone_live.cc.
#include <linux/if_tun.h>
#include <net/if_arp.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <atomic>
#include <string_view>

#include "capture.h"
#include "frames.h"
#include "harness.h"
#include "ports.h"

namespace pcapv3::live {
namespace {

constexpr int kSmallRing = 8 << 20;
constexpr int kLargeRing = 32 << 20;

// ---- Order ----

/// How many frames a port gets in a millisecond of a test.
using Load = unsigned (*)(unsigned port, unsigned ports, unsigned ms);

constexpr unsigned kFramesAMs = 40;  // on all ports, about
constexpr unsigned kLoadMs = 500;

unsigned equal(unsigned, unsigned ports, unsigned) { return kFramesAMs / ports; }
unsigned hundred_to_one(unsigned port, unsigned, unsigned ms) {
  return port == 0 ? kFramesAMs : ms % 5 == 0 ? 2 : 0;
}
unsigned bursts(unsigned port, unsigned, unsigned ms) {
  return port == 0 ? 4 : ms % 100 == 10 * port ? 300 : 0;
}
unsigned one_idle(unsigned port, unsigned ports, unsigned) {
  return port == ports - 1 ? 0 : kFramesAMs / (ports - 1);
}
unsigned busy(unsigned, unsigned ports, unsigned) { return 8 * kFramesAMs / ports; }

/// Sends a load, in a thread for each port and `threads` for each of those with frames.
class Traffic {
 public:
  Traffic(unsigned ports, Load load, unsigned threads) {
    for (unsigned i = 0; i < ports * threads; ++i) {
      const unsigned port = i % ports;
      senders_.push_back(std::make_unique<Sender>(play(port).c_str(), link_arguments().peer));
      threads_.emplace_back([=, this, sender = senders_.back().get()] {
        const auto start = Clock::now();
        std::uint32_t sent = 0;
        for (unsigned ms = 0; ms < kLoadMs; ++ms) {
          std::this_thread::sleep_until(start + std::chrono::milliseconds(ms));
          for (unsigned left = load(port, ports, ms); left != 0; --left) {
            sender->send({.number = marked(i, sent++)});
          }
        }
      });
      unsigned frames = 0;
      for (unsigned ms = 0; ms < kLoadMs; ++ms) frames += load(port, ports, ms);
      frames_.push_back(frames);
    }
  }
  ~Traffic() {
    for (std::thread& thread : threads_) thread.join();
  }
  Traffic(const Traffic&) = delete;
  Traffic& operator=(const Traffic&) = delete;

  /// By number of the thread.
  const std::vector<unsigned>& frames() const { return frames_; }

 private:
  std::vector<std::unique_ptr<Sender>> senders_;
  std::vector<std::thread> threads_;
  std::vector<unsigned> frames_;
};

/// What is kept of a packet under load.
struct Seen {
  std::uint32_t number;
  std::uint64_t stamp_ns;
  std::uint64_t delivered_ns;
};

void keep_seen(u_char* all, const pcap_pkthdr* header, const u_char* data) {
  // Behind the Ethernet header, as in every frame of a load.
  CHECK(header->caplen == 100 && read32(data + 14) == kMagic, "no frame of ours, %u bytes",
        header->caplen);
  reinterpret_cast<std::vector<Seen>*>(all)->push_back(
      {read32(data + 18), stamp_ns(*header), now_ns()});
}

double ms_at(std::vector<std::uint64_t>& delays_ns, double share) {
  const auto at = static_cast<std::ptrdiff_t>(static_cast<double>(delays_ns.size() - 1) * share);
  std::nth_element(delays_ns.begin(), delays_ns.begin() + at, delays_ns.end());
  return static_cast<double>(delays_ns[static_cast<std::size_t>(at)]) / 1e6;
}

long waits_of_thread() {
  rusage usage = {};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nvcsw;
}

/// What one capture of a load was like.
struct Captured {
  unsigned late = 0;  ///< Packets, as the library says.
  long waits = 0;     ///< Of the reader.
};

Captured capture_load(unsigned ports, Load load, unsigned threads, int ring = kSmallRing) {
  long waits = 0;
  Record stats("PCAPV3_STATS");
  std::vector<Seen> seen;
  std::vector<unsigned> frames;
  {
    const std::string list = list_of(ports);
    const Handle handle = open_capture(
        {.device = list.c_str(), .buffer_bytes = ring, .precision = PCAP_TSTAMP_PRECISION_NANO});
    const Traffic traffic(ports, load, threads);
    frames = traffic.frames();
    std::size_t total = 0;
    for (const unsigned count : frames) total += count;
    seen.reserve(total);
    const long waits_before = waits_of_thread();
    while (seen.size() < total) {
      const int taken =
          pcap_dispatch(handle.get(), -1, keep_seen, reinterpret_cast<u_char*>(&seen));
      CHECK(taken >= 0, "status %d, %s", taken, pcap_geterr(handle.get()));
      CHECK(stats_of(handle.get()).ps_drop == 0, "dropped");
    }
    waits = waits_of_thread() - waits_before;
    const pcap_stat counts = stats_of(handle.get());
    CHECK(counts.ps_recv == total, "%u received of %zu", counts.ps_recv, total);
  }

  std::vector<std::vector<bool>> came;
  for (const unsigned count : frames) came.emplace_back(count);
  std::vector<std::uint64_t> delays;
  std::size_t inversions = 0;
  std::uint64_t last = 0;
  for (const Seen& packet : seen) {
    const unsigned sender = sender_of(packet.number);
    const std::uint32_t number = unmarked(packet.number);
    CHECK(sender < came.size() && number < came[sender].size(), "frame %u of sender %u", number,
          sender);
    CHECK(!came[sender][number], "frame %u of sender %u came twice", number, sender);
    came[sender][number] = true;
    inversions += packet.stamp_ns < last;
    last = std::max(last, packet.stamp_ns);
    delays.push_back(packet.delivered_ns - std::min(packet.delivered_ns, packet.stamp_ns));
  }

  unsigned late = 0;
  unsigned delivered = 0;
  for (unsigned i = 0; i < ports; ++i) {
    late += figure(stats.text(), see(i), "late");
    delivered += figure(stats.text(), see(i), "delivered");
    CHECK(figure(stats.text(), see(i), "dropped") == 0, "%s", stats.text().c_str());
    CHECK(figure(stats.text(), see(i), "undelivered") == 0, "%s", stats.text().c_str());
  }
  CHECK(delivered == seen.size(), "%u delivered of %zu", delivered, seen.size());
  CHECK(inversions == late, "%zu out of order, %u counted as late", inversions, late);
  const double median_ms = ms_at(delays, 0.5);
  const double most_ms = ms_at(delays, 0.999);
  std::printf(
      "# %zu packets, delay %.1f ms in the middle, %.1f ms at 99.9 %%, %u late, %ld waits\n",
      seen.size(), median_ms, most_ms, late, waits);
  CHECK(median_ms < 100, "%.1f ms", median_ms);
  return {late, waits};
}

/// Every frame once, and in the order of their stamps. A packet can be late when its CPU is taken
/// away from it between the stamp and the ring, which a machine that is shared does now and then.
void in_order(unsigned ports, Load load, unsigned threads = 1) {
  unsetenv("PCAPV3_WINDOW");  // set by ports.test
  constexpr int kTries = 3;
  unsigned late = 1;
  for (int i = 0; i < kTries && late != 0; ++i) late = capture_load(ports, load, threads).late;
  CHECK(late == 0, "packets were late in each of %d tries", kTries);
}

/// Blocks come every 4 ms, each port's every 8; a reader that is busy looks every 15. A ring that
/// has less room is not left alone for so long. On a machine that is short of CPUs, who reads is.
void busy_reader() {
  constexpr int kTries = 3;
  Captured large;
  Captured small;
  for (int i = 0; i < kTries; ++i) {
    large = capture_load(2, busy, 1, kLargeRing);
    small = capture_load(2, busy, 1, kLargeRing / 4 * 3);
    if (large.waits < kLoadMs / 7 && small.waits > large.waits) return;
  }
  CHECK(false, "%ld waits in %u ms; with less room %ld", large.waits, kLoadMs, small.waits);
}

// ---- Opening ----

void check_opened(pcap_t* p) {
  CHECK(pcap_datalink(p) == DLT_EN10MB, "%d", pcap_datalink(p));
  CHECK(pcap_fileno(p) >= 0, "%d", pcap_fileno(p));
  CHECK(pcap_get_selectable_fd(p) >= 0, "%d", pcap_get_selectable_fd(p));
  CHECK(pcap_get_required_select_timeout(p) == nullptr, "a time-out is required");
  const Players players(2);
  players.send(0, 10);
  check_ports(take_count(p, 20), 2, 0, 10);
}

void open_live() {
  char error[PCAP_ERRBUF_SIZE] = "";
  const Handle handle(pcap_open_live("see0,see1", 1000, 1, 10, error));
  CHECK(handle != nullptr, "%s", error);
  CHECK(error[0] == '\0', "%s", error);
  CHECK(pcap_snapshot(handle.get()) == 1000, "%d", pcap_snapshot(handle.get()));
  check_opened(handle.get());
}

void create_and_activate() {
  const Handle handle = create({.device = "see0,see1", .snaplen = 2000});
  CHECK(pcap_activate(handle.get()) == 0, "%s", pcap_geterr(handle.get()));
  CHECK(pcap_activate(handle.get()) == PCAP_ERROR_ACTIVATED, "activated twice");
  CHECK(pcap_snapshot(handle.get()) == 2000, "%d", pcap_snapshot(handle.get()));
  check_opened(handle.get());
}

void sixty_four_ports() {
  setenv("PCAPV3_BUFFER", "1M", 1);
  const std::string list = list_of(64);
  const Handle handle = open_capture({.device = list.c_str()});
  const Players players(64);
  players.send(0, 20);
  check_ports(take_count(handle.get(), 64 * 20), 64, 0, 20);
  CHECK(stats_of(handle.get()).ps_recv == 64 * 20, "%u", stats_of(handle.get()).ps_recv);
}

/// Activating fails with a text that has all of `parts`.
void check_refused(const std::string& device, std::initializer_list<const char*> parts,
                   int wanted = PCAP_ERROR_NO_SUCH_DEVICE) {
  const Handle handle = create({.device = device.c_str()});
  const int status = pcap_activate(handle.get());
  const std::string text = pcap_geterr(handle.get());
  CHECK(status == wanted, "%s: status %d, %s", device.c_str(), status, text.c_str());
  for (const char* part : parts) {
    CHECK(text.find(part) != std::string::npos, "%s: %s", device.c_str(), text.c_str());
  }
}

void refused_lists() {
  check_refused("see0,nosuch0", {"nosuch0", "No such device"});
  check_refused("nosuch0,see0", {"nosuch0", "No such device"});
  check_refused("see0,see1,see0", {"see0", "twice"});
  check_refused("see0,,see1", {"empty name"});
  check_refused(",see0", {"empty name"});
  check_refused("see0,", {"empty name"});
  check_refused("see0,any", {"any", "can't be one of a list"});
  check_refused("see0,a-name-that-is-much-too-long", {"a-name-that-is-much-too-long"});
  check_refused(list_of(64) + ",see64", {"see64", "64 ports at most"});
}

void refused_settings() {
  for (const char* variable : {"PCAPV3_WINDOW", "PCAPV3_BLOCK", "PCAPV3_FANOUT"}) {
    setenv(variable, "12x", 1);
    check_refused("see0,see1", {variable, "12x"}, PCAP_ERROR);
    unsetenv(variable);
  }
}

void off_is_stock() {
  // As for any name that no interface has.
  setenv("PCAPV3", "off", 1);
  check_refused("nosuch0", {"No such device"});
  check_refused("see0,see1", {"No such device"});
}

void interface_with_a_comma() {
  constexpr char kName[] = "see0,see1";
  ip("link add " + std::string(kName) + " mtu 65535 type veth peer name comma1");
  ip("link set " + std::string(kName) + " arp off up");
  ip("link set comma1 arp off up");
  {
    const Handle handle = open_capture({.device = kName});
    const Sender sender("comma1");
    const Players players(2);
    players.send(0, 5);  // on see0 and see1, which it is not
    sender.send(100, 5);
    check_sequence(take_count(handle.get(), 5), 100, 104);
    const Bytes bytes = bytes_of({});
    CHECK(pcap_inject(handle.get(), bytes.data(), bytes.size()) > 0, "%s",
          pcap_geterr(handle.get()));
  }
  ip("link delete comma1");
}

void lookupnet() {
  bpf_u_int32 net = 1;
  bpf_u_int32 mask = 1;
  char error[PCAP_ERRBUF_SIZE] = "";
  CHECK(pcap_lookupnet("see0,see1", &net, &mask, error) == 0, "%s", error);
  CHECK(net == 0 && mask == 0, "%x %x", net, mask);
}

void device_list() {
  const char* const wanted[] = {"see0,see1", "see2,see3,see4"};
  setenv("PCAPV3_PORTS", "see0,see1;see2,see3,see4", 1);
  char error[PCAP_ERRBUF_SIZE] = "";
  pcap_if_t* devices = nullptr;
  CHECK(pcap_findalldevs(&devices, error) == 0, "%s", error);
  unsigned found = 0;
  for (const pcap_if_t* device = devices; device != nullptr; device = device->next) {
    for (const char* name : wanted) {
      if (std::string_view(device->name) != name) continue;
      ++found;
      const auto up = static_cast<bpf_u_int32>(PCAP_IF_UP | PCAP_IF_RUNNING);
      CHECK((device->flags & up) == up, "%s: flags %x", name, device->flags);
      const Handle handle = open_capture({.device = device->name});
    }
  }
  CHECK(found == 2, "%u of two are listed", found);
  pcap_freealldevs(devices);

  for (const char* bad : {"see0,see0", "see0", "see0,see1;;see2,see3", "see0,"}) {
    setenv("PCAPV3_PORTS", bad, 1);
    CHECK(pcap_findalldevs(&devices, error) == PCAP_ERROR, "PCAPV3_PORTS=%s is taken", bad);
    CHECK(std::string_view(error).find("PCAPV3_PORTS") != std::string_view::npos, "%s", error);
  }
}

std::size_t count_mappings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) count += line.find("socket:") != line.npos;
  return count;
}

void nothing_is_left() {
  const std::size_t before = count_descriptors();
  const struct {
    const char* device;
    bool opens;
    bool activated = true;
  } cases[] = {{"see0,see1,see2", true},
               {"see0,see1,see2", true, false},
               {"see0,see1,nosuch0", false},
               {"see0,see0", false}};
  for (int round = 0; round < 4; ++round) {
    for (const auto& test : cases) {
      const Handle handle = create({.device = test.device, .buffer_bytes = kSmallRing});
      if (!test.activated) continue;
      const int status = pcap_activate(handle.get());
      CHECK((status == 0) == test.opens, "%s: status %d", test.device, status);
      if (test.opens) {
        CHECK(count_mappings() == 3, "%zu rings", count_mappings());
        set_datalink(handle.get(), DLT_LINUX_SLL2);
      } else {
        CHECK(count_descriptors() == before && count_mappings() == 0,
              "%s: %zu descriptors more, %zu rings", test.device, count_descriptors() - before,
              count_mappings());
      }
    }
    setenv("PCAPV3_BLOCK", "4097", 1);
    check_refused("see0,see1", {"PCAPV3_BLOCK"}, PCAP_ERROR);
    unsetenv("PCAPV3_BLOCK");
    setenv("PCAPV3_BUFFER", "much", 1);  // found out before any port is opened
    check_refused("see0,see1", {"PCAPV3_BUFFER"}, PCAP_ERROR);
    unsetenv("PCAPV3_BUFFER");
    ip("link property add dev see1 altname other1");
    check_refused("see0,see1,other1", {"other1", "same interface"}, PCAP_ERROR);
    ip("link property del dev see1 altname other1");
    CHECK(count_descriptors() == before, "%zu descriptors, not %zu", count_descriptors(), before);
    CHECK(count_mappings() == 0, "%zu rings", count_mappings());
  }
}

// ---- Options ----

void snapshot_length() {
  for (const char* filter : {static_cast<const char*>(nullptr), "ether proto 0x88b5"}) {
    const Handle handle = open_capture({.device = "see0,see1", .snaplen = 60});
    if (filter != nullptr) set_filter(handle.get(), filter);
    const Players players(2);
    players.send(0, 50);
    const Packets packets = take_count(handle.get(), 100);
    for (const Packet& packet : packets)
      check_frame(packet, {.number = number_of(packet.bytes)}, 60);
  }
}

bool is_promiscuous(unsigned port) {
  std::string flags;
  std::getline(std::ifstream("/sys/class/net/" + see(port) + "/flags"), flags);
  return (std::stoul(flags, nullptr, 16) & IFF_PROMISC) != 0;
}

void promiscuous() {
  for (const bool wanted : {false, true}) {
    {
      const Handle handle = create({.device = "see0,see1"});
      CHECK(pcap_set_promisc(handle.get(), wanted) == 0, "%s", pcap_geterr(handle.get()));
      CHECK(pcap_activate(handle.get()) == 0, "%s", pcap_geterr(handle.get()));
      CHECK(is_promiscuous(0) == wanted && is_promiscuous(1) == wanted, "%d, but %d and %d", wanted,
            is_promiscuous(0), is_promiscuous(1));
    }
    CHECK(!is_promiscuous(0) && !is_promiscuous(1), "still promiscuous");
  }
}

void buffer_size() {
  for (const unsigned mib : {16, 32}) {
    Record debug("PCAPV3_DEBUG");
    {
      const Handle handle =
          open_capture({.device = "see0,see1", .buffer_bytes = static_cast<int>(mib << 20)});
    }
    for (const unsigned port : {0u, 1u}) {
      unsigned blocks = 0;
      unsigned kib = 0;
      const std::string line = line_of(debug.text(), see(port));
      const std::size_t at = line.find("ring, ");
      CHECK(at != line.npos &&
                std::sscanf(line.c_str() + at, "ring, %u blocks of %u KiB", &blocks, &kib) == 2,
            "%s", debug.text().c_str());
      CHECK(blocks * kib == mib * 1024, "%u blocks of %u KiB for %u MiB", blocks, kib, mib);
    }
  }
}

void nanoseconds() {
  const Handle handle =
      open_capture({.device = "see0,see1", .precision = PCAP_TSTAMP_PRECISION_NANO});
  CHECK(pcap_get_tstamp_precision(handle.get()) == PCAP_TSTAMP_PRECISION_NANO, "microseconds");
  const Players players(2);
  const std::uint64_t before = now_ns();
  players.send(0, 100);
  const Packets packets = take_count(handle.get(), 200);
  check_ports(packets, 2, 0, 100);
  bool fine = false;
  for (const Packet& packet : packets) {
    CHECK(stamp_ns(packet.header) >= before && stamp_ns(packet.header) <= now_ns(), "%llu",
          static_cast<unsigned long long>(stamp_ns(packet.header)));
    fine = fine || packet.header.ts.tv_usec % 1000 != 0;
  }
  CHECK(fine, "no stamp is finer than a microsecond");
}

void time_stamp_types() {
  const Handle handle = create({.device = "see0,see1"});
  int* types = nullptr;
  const int count = pcap_list_tstamp_types(handle.get(), &types);
  CHECK(count >= 0, "%s", pcap_geterr(handle.get()));
  bool host = count == 0;  // none to choose from: the host's
  for (int i = 0; i < count; ++i) host = host || types[i] == PCAP_TSTAMP_HOST;
  pcap_free_tstamp_types(types);
  CHECK(host, "no time stamps by the host's clock");
}

void immediate_mode() {
  Record stats("PCAPV3_STATS");
  {
    const Handle handle =
        open_capture({.device = "see0,see1", .timeout_ms = 5000, .immediate = true});
    const Players players(2);
    const auto start = Clock::now();
    for (std::uint32_t i = 0; i < 20; ++i) {
      players.send(i, 1);
      check_ports(take_count(handle.get(), 2), 2, i, 1);
    }
    CHECK(seconds_since(start) < 4, "%.3f s", seconds_since(start));
  }
  for (const unsigned port : {0u, 1u}) {
    CHECK(line_of(stats.text(), see(port)).find("retire timeout 1 ms") != std::string::npos, "%s",
          stats.text().c_str());
  }
}

void monitor_mode() {
  const Handle handle = create({.device = "see0,see1"});
  CHECK(pcap_set_rfmon(handle.get(), 1) == 0, "%s", pcap_geterr(handle.get()));
  const int status = pcap_activate(handle.get());
  CHECK(status == PCAP_ERROR_RFMON_NOTSUP, "status %d", status);
}

// ---- Link types ----

unsigned interface_of(const Packet& packet) { return read32(&packet.bytes[4]); }

void check_sll2(const Packets& packets, unsigned ports, std::uint32_t first, std::uint32_t count) {
  check_numbers(packets, ports, first, count);
  for (const Packet& packet : packets) {
    const unsigned port = sender_of(number_of(packet.bytes));
    CHECK(read16(packet.bytes.data()) == kEtherType, "protocol %x", read16(packet.bytes.data()));
    CHECK(read16(&packet.bytes[8]) == ARPHRD_ETHER, "hardware type %u", read16(&packet.bytes[8]));
    CHECK(packet.bytes[10] == PACKET_OTHERHOST, "packet type %u", packet.bytes[10]);
    CHECK(interface_of(packet) == if_nametoindex(see(port).c_str()), "%s: index %u",
          see(port).c_str(), interface_of(packet));
    CHECK(packet.header.len == 100 - ETH_HLEN + 20, "%u bytes", packet.header.len);
  }
}

void ethernet_datalinks() {
  const std::vector<int> types = {DLT_EN10MB, DLT_DOCSIS, DLT_LINUX_SLL2};
  const Players players(3);
  for (const int type : types) {
    const Handle handle = open_capture({.device = "see0,see1,see2"});
    pcap_t* p = handle.get();
    CHECK(datalinks_of(p) == types, "other types");
    // There and back again, as often as one likes, until packets are read.
    for (const int other : {DLT_LINUX_SLL2, DLT_DOCSIS, DLT_LINUX_SLL2, DLT_EN10MB}) {
      set_datalink(p, other);
      CHECK(datalinks_of(p) == types, "other types");
    }
    set_datalink(p, type);
    CHECK(pcap_set_datalink(p, DLT_LINUX_SLL) == PCAP_ERROR, "LINUX_SLL was not offered");
    players.send(0, 20);
    const Packets packets = take_count(p, 60);
    if (type == DLT_LINUX_SLL2) {
      check_sll2(packets, 3, 0, 20);
    } else {
      check_ports(packets, 3, 0, 20);
    }
    const int another = type == DLT_LINUX_SLL2 ? DLT_EN10MB : DLT_LINUX_SLL2;
    CHECK(pcap_set_datalink(p, another) == PCAP_ERROR, "changed after packets were read");
    CHECK(pcap_datalink(p) == type, "%d", pcap_datalink(p));
    players.send(20, 20);
    CHECK(take_count(p, 60).size() == 60, "no packets after that");
  }
}

/// A tun device, which has packets without a link-layer header; it goes away with its descriptor.
class Tun {
 public:
  explicit Tun(const char* name) {
    fd_ = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    ifreq request = {};
    std::snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    if (fd_ < 0 || ioctl(fd_, TUNSETIFF, &request) != 0) skip("there are no tun devices");
    ip("link set " + std::string(name) + " up");
  }
  ~Tun() { close(fd_); }
  Tun(const Tun&) = delete;
  Tun& operator=(const Tun&) = delete;

  /// An IPv4 packet of 100 bytes with a number that number_of() finds.
  void send(std::uint32_t number) const {
    Bytes bytes = {0x45, 0, 0, 100, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2};
    append32(bytes, kMagic);
    append32(bytes, number);
    bytes.resize(100);
    if (write(fd_, bytes.data(), bytes.size()) < 0) give_up("tun");
  }

 private:
  int fd_ = -1;
};

void mixed_link_types() {
  const Tun tun("tun0");
  const Handle handle = open_capture({.device = "see0,tun0"});
  pcap_t* p = handle.get();
  CHECK(pcap_datalink(p) == DLT_LINUX_SLL2, "%d", pcap_datalink(p));
  CHECK(datalinks_of(p) == std::vector<int>{DLT_LINUX_SLL2}, "other types");
  const Players players(1);
  for (std::uint32_t i = 0; i < 20; ++i) {
    players.send(i, 1);
    tun.send(marked(1, i));
  }
  const Packets packets = take_count(p, 40);
  check_numbers(packets, 2, 0, 20);
  for (const Packet& packet : packets) {
    const bool from_tun = sender_of(number_of(packet.bytes)) == 1;
    CHECK(interface_of(packet) == if_nametoindex(from_tun ? "tun0" : "see0"), "index %u",
          interface_of(packet));
    CHECK(read16(packet.bytes.data()) == (from_tun ? ETHERTYPE_IP : kEtherType), "protocol %x",
          read16(packet.bytes.data()));
    CHECK(read16(&packet.bytes[8]) == (from_tun ? ARPHRD_NONE : ARPHRD_ETHER), "hardware type %u",
          read16(&packet.bytes[8]));
  }
}

// ---- Filters and direction ----

void filter_before_traffic() {
  const Handle handle = open_capture({.device = "see0,see1"});
  const Players players(2);
  set_filter(handle.get(), kOdd);
  players.send(0, 100);
  check_ports(take_count(handle.get(), 100), 2, 1, 50, 2);
  set_filter(handle.get(), "");
  players.send(100, 100);
  check_ports(take_count(handle.get(), 200), 2, 100, 100);
}

void filter_after_arrival() {
  const Handle handle = open_capture({.device = "see0,see1"});
  const Players players(2);
  players.send(0, 100);
  wait_until_received(handle.get(), 200);
  set_filter(handle.get(), kOdd);
  players.send(100, 100);
  check_ports(take_count(handle.get(), 200), 2, 1, 100, 2);
}

void filter_under_traffic() {
  const Handle handle = open_capture({.device = "see0,see1"});
  std::atomic<bool> enough = false;
  std::thread traffic([&] {
    const Players players(2);
    for (std::uint32_t number = 0; !enough; ++number) players.send(number, 1);
  });
  std::uint32_t last[2] = {};
  for (std::uint32_t round = 0; round < 40; ++round) {
    set_filter(handle.get(), round % 2 == 1 ? kOdd : kEven);
    for (const Packet& packet : take_count(handle.get(), 50)) {
      const std::uint32_t mark = number_of(packet.bytes);
      const std::uint32_t number = unmarked(mark);
      CHECK(number % 2 == round % 2, "frame %u after its kind was filtered out", number);
      CHECK(number + 1 > last[sender_of(mark)], "frame %u after its follower", number);
      last[sender_of(mark)] = number + 1;
      check_frame(packet, {.number = mark});
    }
  }
  enough = true;
  traffic.join();
}

void filter_too_long_for_kernel() {
  const Handle handle = open_capture({.device = "see0,see1"});
  const Players players(2);
  players.send(0, 50);
  wait_until_received(handle.get(), 100);
  set_long_filter(handle.get());
  players.send(50, 50);
  check_ports(take_count(handle.get(), 100), 2, 1, 50, 2);
  set_filter(handle.get(), kEven);  // and the kernel's filter is back
  players.send(100, 100);
  check_ports(take_count(handle.get(), 100), 2, 100, 50, 2);
}

void vlan_filter() {
  const struct {
    const char* filter;
    std::vector<std::uint32_t> wanted;
  } cases[] = {{"vlan", {1, 2}}, {"vlan 5", {1}}, {"not vlan", {0}}};
  const std::vector<Tag> tags[] = {{}, {{.tci = 5}}, {{.tci = 6}}};
  const Players players(2);
  for (const auto& test : cases) {
    // Once for the frames that were in the ring already, once for those that the kernel filters.
    const Handle handle = open_capture({.device = "see0,see1"});
    std::vector<std::uint32_t> wanted;
    for (const std::uint32_t first : {0u, 100u}) {
      for (std::uint32_t i = 0; i < 3; ++i) players.send({.number = first + i, .tags = tags[i]});
      for (const std::uint32_t i : test.wanted) {
        wanted.insert(wanted.end(), {marked(0, first + i), marked(1, first + i)});
      }
      if (first == 0) wait_until_received(handle.get(), 6);
      if (first == 0) set_filter(handle.get(), test.filter);
    }
    std::vector<std::uint32_t> came;
    for (const Packet& packet : take_count(handle.get(), wanted.size())) {
      const std::uint32_t number = number_of(packet.bytes);
      check_frame(packet, {.number = number, .tags = tags[unmarked(number) % 100]});
      came.push_back(number);
    }
    CHECK(came == wanted, "%s: others", test.filter);
  }
}

void filter_on_sll2() {
  const Handle handle = open_capture({.device = "see0,see1"});
  pcap_t* p = handle.get();
  set_datalink(p, DLT_LINUX_SLL2);
  const Players players(2);
  players.send(0, 10);
  wait_until_received(p, 20);
  const std::string second = "ifindex " + std::to_string(if_nametoindex("see1"));
  set_filter(p, second.c_str());
  players.send(10, 10);
  const Packets packets = take_count(p, 20);
  for (std::uint32_t i = 0; i < 20; ++i) {
    CHECK(number_of(packets[i].bytes) == marked(1, i), "frame %x", number_of(packets[i].bytes));
  }
  set_filter(p, "ether proto 0x88b5");
  players.send(20, 10);
  check_sll2(take_count(p, 20), 2, 20, 10);
  CHECK(pcap_set_datalink(p, DLT_EN10MB) == PCAP_ERROR, "changed under a filter");
  CHECK(pcap_datalink(p) == DLT_LINUX_SLL2, "%d", pcap_datalink(p));
}

void direction() {
  const Players players(2);
  const Sender out[] = {Sender("see0"), Sender("see1")};
  const struct {
    pcap_direction_t direction;
    std::vector<std::uint32_t> wanted;
  } cases[] = {{PCAP_D_IN, {1}}, {PCAP_D_OUT, {0, 2}}, {PCAP_D_INOUT, {0, 1, 2}}};
  const Handle watch = open_capture({.device = "see0,see1"});
  for (const int type : {DLT_EN10MB, DLT_LINUX_SLL2}) {
    for (const auto& test : cases) {
      const Handle handle = open_capture({.device = "see0,see1"});
      set_direction(handle.get(), test.direction);
      set_datalink(handle.get(), type);  // must not undo it
      // One handle has seen what came in: what went out before, and comes in later, is not mixed.
      for (const unsigned port : {0u, 1u}) out[port].send(marked(port, 0), 1);
      players.send(1, 1);
      take_count(watch.get(), 4);
      for (const unsigned port : {0u, 1u}) out[port].send(marked(port, 2), 1);
      take_count(watch.get(), 2);
      std::vector<std::uint32_t> wanted;
      for (const std::uint32_t i : test.wanted) {
        wanted.insert(wanted.end(), {marked(0, i), marked(1, i)});
      }
      std::vector<std::uint32_t> came;
      for (const Packet& packet : take_count(handle.get(), wanted.size())) {
        came.push_back(number_of(packet.bytes));
      }
      CHECK(came == wanted, "direction %d, link type %d: others", test.direction, type);
    }
  }
}

// ---- Reading ----

void dispatch_counts() {
  const Handle handle = open_capture({.device = "see0,see1"});
  const Players players(2);
  for (const int count : {1, 7, 0, -1}) {
    players.send(0, 100);
    Packets packets;
    while (packets.size() < 200) {
      const std::size_t before = packets.size();
      const int taken = pcap_dispatch(handle.get(), count, keep, user(packets));
      CHECK(taken >= 0 && static_cast<std::size_t>(taken) == packets.size() - before,
            "status %d, %zu callbacks", taken, packets.size() - before);
      CHECK(count <= 0 || taken <= count, "%d packets, but at most %d are wanted", taken, count);
    }
    check_ports(packets, 2, 0, 100);
  }
}

void mixed_reading() {
  const Handle handle = open_capture({.device = "see0,see1"});
  pcap_t* p = handle.get();
  const Players players(2);
  players.send(0, 60);
  Packets packets;
  while (packets.size() < 120) {
    pcap_pkthdr* header = nullptr;
    pcap_pkthdr copy;
    const u_char* data = nullptr;
    if (pcap_next_ex(p, &header, &data) == 1) packets.emplace_back(*header, data);
    if (packets.size() < 120) {
      CHECK(pcap_dispatch(p, 2, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
    }
    if (packets.size() < 120 && (data = pcap_next(p, &copy)) != nullptr) {
      packets.emplace_back(copy, data);
    }
    if (packets.size() < 117) {
      CHECK(pcap_loop(p, 3, keep, user(packets)) == 0, "%s", pcap_geterr(p));
    }
  }
  check_ports(packets, 2, 0, 60);
}

void next_ex_stays_valid() {
  // Whatever the rings go through until the next call. The first frame is alone in its block.
  const Handle handle = open_capture({.device = "see0,see1", .buffer_bytes = 1 << 19});
  pcap_t* p = handle.get();
  const Players players(2);
  players.send(0, 1);
  for (const std::uint32_t wanted : {marked(0, 0), marked(1, 0)}) {
    pcap_pkthdr* header = nullptr;
    const u_char* data = nullptr;
    int status = 0;
    while (status == 0) status = pcap_next_ex(p, &header, &data);
    CHECK(status == 1, "status %d, %s", status, pcap_geterr(p));
    for (const unsigned port : {0u, 1u}) overrun(p, players[port], marked(port, 1));
    check_frame(Packet(*header, data), {.number = wanted});
  }
}

void stats_add_up() {
  const Handle handle = open_capture({.device = "see0,see1,see2", .buffer_bytes = 1 << 19});
  pcap_t* p = handle.get();
  const Players players(3);
  CHECK(stats_of(p).ps_recv == 0, "packets on idle links");
  for (unsigned round = 1; round <= 3; ++round) {
    for (unsigned port = 0; port < 3; ++port) players[port].send(0, 10 * (port + 1));
    take_count(p, 60);
    CHECK(stats_of(p).ps_recv == 60 * round, "%u", stats_of(p).ps_recv);
    CHECK(stats_of(p).ps_drop == 0, "%u dropped", stats_of(p).ps_drop);
  }
  // And when two of the rings overflow.
  std::uint32_t sent = 180;
  for (const unsigned port : {0u, 2u}) sent += overrun(p, players[port], 0);
  std::uint32_t delivered = 180;
  set_nonblock(p);
  while (delivered + stats_of(p).ps_drop < sent) {
    readable(pcap_get_selectable_fd(p), 100);
    Packets packets;
    CHECK(pcap_dispatch(p, -1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
    delivered += static_cast<std::uint32_t>(packets.size());
  }
  const pcap_stat stats = stats_of(p);
  CHECK(stats.ps_recv == sent && stats.ps_drop > 0 && delivered + stats.ps_drop == sent,
        "%u received, %u dropped, %u delivered, %u sent", stats.ps_recv, stats.ps_drop, delivered,
        sent);
}

void inject() {
  const Handle handle = open_capture({.device = "see0,see1"});
  const Bytes bytes = bytes_of({});
  const int size = static_cast<int>(bytes.size());
  for (const bool inject : {true, false}) {
    const int status = inject ? pcap_inject(handle.get(), bytes.data(), bytes.size())
                              : pcap_sendpacket(handle.get(), bytes.data(), size);
    CHECK(status == PCAP_ERROR, "status %d", status);
    const std::string_view text = pcap_geterr(handle.get());
    CHECK(text.find("several ports") != text.npos && text.find("see0,see1") != text.npos, "%s",
          pcap_geterr(handle.get()));
  }
}

// ---- Breaking out of a loop ----

struct BreakAt {
  pcap_t* handle;
  std::size_t count;
  void (*hit)(pcap_t*);
  Packets packets = {};
};

void break_at(u_char* pointer, const pcap_pkthdr* header, const u_char* data) {
  auto* at = reinterpret_cast<BreakAt*>(pointer);
  at->packets.emplace_back(*header, data);
  if (at->packets.size() == at->count) at->hit(at->handle);
}

int loop_until_break(BreakAt& at) {
  return pcap_loop(at.handle, -1, break_at, reinterpret_cast<u_char*>(&at));
}

void break_from_callback() {
  // At once, and what had come stays for the next read.
  const Handle handle = open_capture({.device = "see0,see1"});
  const Players players(2);
  players.send(0, 100);
  BreakAt at = {.handle = handle.get(), .count = 11, .hit = pcap_breakloop};
  int status = loop_until_break(at);
  CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
  CHECK(at.packets.size() == 11, "%zu packets", at.packets.size());
  at.count = 34;
  status = loop_until_break(at);
  CHECK(status == PCAP_ERROR_BREAK && at.packets.size() == 34, "status %d, %zu packets", status,
        at.packets.size());
  for (Packet& packet : take_count(handle.get(), 166)) at.packets.push_back(std::move(packet));
  check_ports(at.packets, 2, 0, 100);
}

pcap_t* g_to_break = nullptr;

void on_signal(int) { pcap_breakloop(g_to_break); }

void handle_signal(pcap_t* p) {
  g_to_break = p;
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigaction(SIGUSR1, &action, nullptr);
}

/// A break from outside the callback delivers what had come before, and nothing that came later.
void drain(void (*hit)(pcap_t*)) {
  const Handle handle = open_capture({.device = "see0,see1"});
  pcap_t* p = handle.get();
  handle_signal(p);
  const Players players(2);
  players.send(0, 100);
  wait_until_received(p, 200);
  BreakAt at = {.handle = p, .count = 1, .hit = hit};
  const int status = loop_until_break(at);
  CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
  check_ports(at.packets, 2, 0, 100);
  const pcap_stat stats = stats_of(p);
  CHECK(stats.ps_recv == 200 && stats.ps_drop == 0, "%u received, %u dropped", stats.ps_recv,
        stats.ps_drop);
  players.send(100, 100);  // and it can be read again
  check_ports(take_count(p, 200), 2, 100, 100);
}

void drain_on_signal() {
  drain([](pcap_t*) { raise(SIGUSR1); });
}

/// A thread's break ends the read after the packet under way.
void break_of_thread() {
  const Handle handle = open_capture({.device = "see0,see1"});
  pcap_t* p = handle.get();
  const Players players(2);
  players.send(0, 100);
  wait_until_received(p, 200);
  BreakAt at = {.handle = p, .count = 1, .hit = [](pcap_t* h) {
                  std::thread([h] { pcap_breakloop(h); }).join();
                }};
  const int status = loop_until_break(at);
  CHECK(status == PCAP_ERROR_BREAK && at.packets.size() == 1, "status %d, %zu packets", status,
        at.packets.size());
  for (Packet& packet : take_count(p, 199)) at.packets.push_back(std::move(packet));
  check_ports(at.packets, 2, 0, 100);
}

void drain_what_comes_before_the_break() {
  // Frames that are in the ring's open block when the loop of a reader that waits is broken: a
  // signal delivers them, a thread leaves them for the next read.
  for (const bool by_signal : {false, true}) {
    const Handle handle = open_capture({.device = "see0,see1", .timeout_ms = 5000});
    pcap_t* p = handle.get();
    handle_signal(p);
    const Players players(2);
    const pid_t reader = getpid();
    std::thread other([&] {
      wait_until_asleep(reader);
      players.send(0, 10);
      wait_until_received(p, 20);
      if (by_signal) {
        syscall(SYS_tgkill, reader, reader, SIGUSR1);
      } else {
        pcap_breakloop(p);
      }
    });
    Packets packets;
    const int status = pcap_loop(p, -1, keep, user(packets));
    other.join();
    CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
    CHECK(!by_signal || packets.size() == 20, "%zu packets", packets.size());
    for (Packet& packet : take_count(p, 20 - packets.size())) packets.push_back(std::move(packet));
    check_ports(packets, 2, 0, 10);
  }
}

void break_while_idle() {
  for (const int timeout_ms : {0, 10, 8000}) {
    const Handle handle = open_capture({.device = "see0,see1", .timeout_ms = timeout_ms});
    const pid_t reader = getpid();
    Clock::time_point start;
    std::thread other([&] {
      wait_until_asleep(reader);
      start = Clock::now();
      pcap_breakloop(handle.get());
    });
    Packets packets;
    const int status = pcap_loop(handle.get(), -1, keep, user(packets));
    other.join();
    CHECK(status == PCAP_ERROR_BREAK && packets.empty(), "status %d, %zu packets", status,
          packets.size());
    CHECK(seconds_since(start) < 2, "%.3f s with a time-out of %d ms", seconds_since(start),
          timeout_ms);
  }
}

void break_before_reading() {
  const Handle handle = open_capture({.device = "see0,see1"});
  const Players players(2);
  players.send(0, 10);
  Packets packets;
  pcap_breakloop(handle.get());
  const int status = pcap_dispatch(handle.get(), -1, keep, user(packets));
  CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
  check_ports(take_count(handle.get(), 20), 2, 0, 10);
}

void break_under_traffic() {
  constexpr std::uint32_t kFrames = 15000;
  constexpr int kRounds = 50;
  const Handle handle = open_capture({.device = "see0,see1", .buffer_bytes = 32 << 20});
  pcap_t* p = handle.get();
  const Players players(2);
  std::thread traffic([&] { players.send(0, kFrames); });
  Packets packets;
  std::atomic<int> round = 0;
  std::thread other([&] {
    for (int i = 1; i <= kRounds; ++i) {
      while (round < i) std::this_thread::yield();
      pcap_breakloop(p);
    }
  });
  while (round < kRounds) {
    ++round;
    const int status = pcap_loop(p, -1, keep, user(packets));
    CHECK(status == PCAP_ERROR_BREAK, "status %d in round %d", status, round.load());
  }
  other.join();
  for (Packet& packet : take_count(p, 2 * kFrames - packets.size())) {
    packets.push_back(std::move(packet));
  }
  traffic.join();
  check_numbers(packets, 2, 0, kFrames);
}

// ---- Waiting ----

void waits(Waiting how) {
  const Handle handle = open_capture({.device = "see0,see1"});
  pcap_t* p = handle.get();
  set_nonblock(p);
  Waiter waiter(how, pcap_get_selectable_fd(p));
  const Players players(2);
  unsigned wakes = 0;
  constexpr std::uint32_t kRounds = 30;
  for (std::uint32_t round = 0; round < kRounds; ++round) {
    // On one port, and the other has nothing: that is what takes time to find out.
    const unsigned port = round % 2;
    players[port].send(marked(port, round), 3);
    Packets packets;
    while (packets.size() < 3) {
      CHECK(waiter.wait(5000), "round %u: not readable with %zu of 3 packets read", round,
            packets.size());
      ++wakes;
      while (pcap_dispatch(p, -1, keep, user(packets)) > 0) {
      }
    }
    check_sequence(packets, marked(port, round), marked(port, round + 2));
  }
  std::printf("# woken %.1f times a round\n", wakes / double{kRounds});
  CHECK(wakes <= 10 * kRounds, "woken %u times", wakes);

  // No packets, no wake-ups, but for one that was under way.
  unsigned idle_wakes = 0;
  for (const auto start = Clock::now(); seconds_since(start) < 0.4;) {
    idle_wakes += waiter.wait(100);
    CHECK(pcap_dispatch(p, -1, nullptr, nullptr) == 0, "a packet on idle links");
  }
  CHECK(idle_wakes <= 2, "woken %u times in 0.4 s", idle_wakes);
}

void waits_with_rest_unread() {
  // Part of what came is read: a program that waits now must not miss the rest. (Edge-triggered, it
  // has to read until there is nothing more.)
  for (const Waiting how : {Waiting::kSelect, Waiting::kPoll, Waiting::kEpoll}) {
    const Handle handle = open_capture({.device = "see0,see1"});
    pcap_t* p = handle.get();
    set_nonblock(p);
    Waiter waiter(how, pcap_get_selectable_fd(p));
    const Players players(2);
    players.send(0, 5);
    Packets packets;
    while (packets.size() < 10) {
      CHECK(waiter.wait(5000), "not readable with %zu of 10 packets read", packets.size());
      CHECK(pcap_dispatch(p, 1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
    }
    check_ports(packets, 2, 0, 5);
    CHECK(pcap_dispatch(p, 1, keep, user(packets)) == 0, "an eleventh packet");
    CHECK(!waiter.wait(0), "readable without packets");
  }
}

void waits_on_a_handle_that_blocks() {
  // As dumpcap does it: a read after select() must not wait for what is to come next.
  for (const int count : {1, -1}) {
    for (const Waiting how : {Waiting::kSelect, Waiting::kPoll, Waiting::kEpoll}) {
      const Handle handle = open_capture({.device = "see0,see1"});
      pcap_t* p = handle.get();
      const Waiter waiter(how, pcap_get_selectable_fd(p));
      const Players players(2);
      for (std::uint32_t round = 0; round < 10; ++round) {
        players.send(round, 1);
        Packets packets;
        while (packets.size() < 2 || waiter.wait(20)) {
          if (packets.size() < 2) CHECK(waiter.wait(5000), "never readable");
          CHECK(pcap_dispatch(p, count, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
        }
        check_ports(packets, 2, round, 1);
      }
    }
  }
}

constexpr std::uint64_t kWindowNs = 200'000'000;

/// Frames on port 0 that fill blocks, after one on port 1 whose block is not handed over for long:
/// they can go after the window, and nothing but time tells.
class Held {
 public:
  Held() {
    setenv("PCAPV3_BUFFER", "8M", 1);
    setenv("PCAPV3_BLOCK", "128K", 1);
    setenv("PCAPV3_RETIRE", "1500", 1);
    setenv("PCAPV3_WINDOW", "200", 1);
    handle = open_capture({.device = "see0,see1", .precision = PCAP_TSTAMP_PRECISION_NANO});
    const Players players(2);
    players[1].send(marked(1, 0), 1);
    players[0].send(0, 5, 60'000);  // two a block
  }

  Handle handle;
};

/// Whether they came as they should. A busy machine can make them come later, so that there is
/// only a lower bound, and the retire timeout.
void check_held(const Packets& packets) {
  CHECK(packets.size() == 4, "%zu packets", packets.size());
  check_sequence(packets, 0, 3, 1, 60'000);
  const std::uint64_t delay = now_ns() - stamp_ns(packets.front().header);
  CHECK(delay >= kWindowNs, "%.1f ms after its stamp", static_cast<double>(delay) / 1e6);
  CHECK(delay < 1'400'000'000, "%.1f ms after its stamp", static_cast<double>(delay) / 1e6);
}

void only_time_passes(Waiting how) {
  const Held held;
  pcap_t* p = held.handle.get();
  set_nonblock(p);
  const Waiter waiter(how, pcap_get_selectable_fd(p));
  const bool edge = how == Waiting::kEpollEdge;  // it has to read all that there is
  Packets packets;
  unsigned wakes = 0;
  while (packets.size() < 4) {
    CHECK(waiter.wait(5000), "not readable with %zu of 4 packets read", packets.size());
    ++wakes;
    while (pcap_dispatch(p, edge ? -1 : 1, keep, user(packets)) > 0 && edge) {
    }
  }
  check_held(packets);
  CHECK(wakes <= 20, "woken %u times", wakes);
}

void only_time_passes_in_a_read() {
  Record stats("PCAPV3_STATS");
  {
    const Held held;
    check_held(take_count(held.handle.get(), 4));
    // Port 1 has kept its packet longer than was promised: it comes at once, and is counted. The
    // rest of port 0 comes when its timer says so, before or after.
    const Packets rest = take_count(held.handle.get(), 2);
    const bool first = number_of(rest[0].bytes) == marked(1, 0);
    check_frame(rest[first ? 0 : 1], {.number = marked(1, 0)});
    check_frame(rest[first ? 1 : 0], {.number = 4, .size = 60'000});
  }
  CHECK(figure(stats.text(), "see1", "late") == 1 && figure(stats.text(), "see0", "late") == 0,
        "%s", stats.text().c_str());
}

void nonblocking() {
  for (const bool before : {true, false}) {
    const Handle handle = create({.device = "see0,see1", .timeout_ms = 3000});
    pcap_t* p = handle.get();
    if (before) set_nonblock(p);
    CHECK(pcap_activate(p) == 0, "%s", pcap_geterr(p));
    if (!before) set_nonblock(p);
    CHECK(pcap_getnonblock(p, nullptr) == 1, "it blocks");
    const auto start = Clock::now();
    Packets packets;
    pcap_pkthdr* header = nullptr;
    const u_char* data = nullptr;
    for (const int count : {1, 0, -1}) {
      const int taken = pcap_dispatch(p, count, keep, user(packets));
      CHECK(taken == 0, "status %d", taken);
    }
    const int status = pcap_next_ex(p, &header, &data);
    CHECK(status == 0, "status %d", status);
    CHECK(seconds_since(start) < 2.5, "took %.3f s", seconds_since(start));
    char error[PCAP_ERRBUF_SIZE] = "";
    CHECK(pcap_setnonblock(p, 0, error) == 0 && pcap_getnonblock(p, error) == 0, "%s", error);
    const Players players(2);
    players.send(0, 10);
    check_ports(take_count(p, 20), 2, 0, 10);
  }
}

/// As nonblocking(), and reads that block come back by the time-out.
void without_descriptor() {
  setenv("PCAPV3_BLOCKING", program_invocation_short_name, 1);
  CHECK(pcap_get_selectable_fd(open_capture({.device = "see0,see1"}).get()) == -1, "it has one");
  nonblocking();
  const Handle handle = open_capture({.device = "see0,see1", .timeout_ms = 50});
  Packets packets;
  CHECK(pcap_dispatch(handle.get(), -1, keep, user(packets)) == 0, "not by the time-out");
}

const Test kTests[] = {
    {"2 ports, equal load: each packet once, in order", [] { in_order(2, equal); }},
    {"4 ports, equal load", [] { in_order(4, equal); }},
    {"8 ports, equal load", [] { in_order(8, equal); }},
    {"2 ports, load 100 to 1", [] { in_order(2, hundred_to_one); }},
    {"4 ports, load 100 to 1", [] { in_order(4, hundred_to_one); }},
    {"8 ports, load 100 to 1", [] { in_order(8, hundred_to_one); }},
    {"2 ports, bursts against steady traffic", [] { in_order(2, bursts); }},
    {"4 ports, bursts against steady traffic", [] { in_order(4, bursts); }},
    {"8 ports, bursts against steady traffic", [] { in_order(8, bursts); }},
    {"2 ports, one is idle", [] { in_order(2, one_idle); }},
    {"4 ports, one is idle", [] { in_order(4, one_idle); }},
    {"8 ports, one is idle", [] { in_order(8, one_idle); }},
    {"2 ports, each fed by two threads", [] { in_order(2, equal, 2); }},
    {"who is busy is not woken for each block", busy_reader},
    {"pcap_open_live opens it", open_live},
    {"pcap_create and pcap_activate open it", create_and_activate},
    {"64 ports", sixty_four_ports},
    {"lists that can't be used are refused, with the reason", refused_lists},
    {"settings that can't be used are refused", refused_settings},
    {"PCAPV3=off: there is no such device", off_is_stock},
    {"an interface with such a name goes before the list", interface_with_a_comma},
    {"pcap_lookupnet has no network", lookupnet},
    {"PCAPV3_PORTS shows it in the device list", device_list},
    {"no descriptor or ring is left behind", nothing_is_left},
    {"snapshot length", snapshot_length},
    {"promiscuous mode is each port's", promiscuous},
    {"the buffer size is each port's", buffer_size},
    {"nanoseconds", nanoseconds},
    {"time-stamp types", time_stamp_types},
    {"immediate mode", immediate_mode},
    {"there is no monitor mode", monitor_mode},
    {"link types of Ethernet ports", ethernet_datalinks},
    {"mixed link types become LINUX_SLL2", mixed_link_types},
    {"a filter set before the traffic", filter_before_traffic},
    {"a filter set after the traffic", filter_after_arrival},
    {"filters replaced under traffic", filter_under_traffic},
    {"a filter too long for the kernel", filter_too_long_for_kernel},
    {"VLAN filters", vlan_filter},
    {"filters on LINUX_SLL2", filter_on_sll2},
    {"direction", direction},
    {"pcap_dispatch's counts", dispatch_counts},
    {"all ways of reading, mixed", mixed_reading},
    {"pcap_next_ex's packet is valid until the next call", next_ex_stays_valid},
    {"pcap_stats adds up", stats_add_up},
    {"injecting is refused, with the reason", inject},
    {"pcap_breakloop in the callback", break_from_callback},
    {"pcap_breakloop in a signal handler: what had come is delivered", drain_on_signal},
    {"so is what the kernel has not handed over yet", drain_what_comes_before_the_break},
    {"pcap_breakloop in a thread: one packet at most", break_of_thread},
    {"pcap_breakloop ends a read without packets", break_while_idle},
    {"pcap_breakloop before the first read", break_before_reading},
    {"pcap_breakloop under traffic loses nothing", break_under_traffic},
    {"select: readable with packets, and only then", [] { waits(Waiting::kSelect); }},
    {"poll", [] { waits(Waiting::kPoll); }},
    {"epoll, level-triggered", [] { waits(Waiting::kEpoll); }},
    {"epoll, edge-triggered", [] { waits(Waiting::kEpollEdge); }},
    {"readable while packets are left", waits_with_rest_unread},
    {"a handle that blocks returns from what it was woken for", waits_on_a_handle_that_blocks},
    {"select, when only time passes", [] { only_time_passes(Waiting::kSelect); }},
    {"poll, when only time passes", [] { only_time_passes(Waiting::kPoll); }},
    {"epoll, when only time passes", [] { only_time_passes(Waiting::kEpoll); }},
    {"epoll by edges, when only time passes", [] { only_time_passes(Waiting::kEpollEdge); }},
    {"a read, when only time passes; a late packet", only_time_passes_in_a_read},
    {"non-blocking mode", nonblocking},
    {"a handle without a descriptor", without_descriptor},
};

const Registration kRegistration(
    {.name = "ports", .tests = kTests, .links = 64, .settings = "PCAPV3_WINDOW=2000"});

}  // namespace
}  // namespace pcapv3::live
