// The reading half of the benchmarks: opens a handle, runs a command that makes traffic, and prints
// what came, what was dropped and what that cost: a name, a value, a name, a value. Which libpcap
// it measures is the environment's choice (PCAPV3=off is stock's); what is run and compared is the
// script run's. CPU time is that of this process alone, its system calls and what interrupts it in
// it; the command is a process of its own.
//
//   reader [OPTION]... count INTERFACE COMMAND...    read all; -e: stall now and then
//   reader [OPTION]... latency INTERFACE COMMAND...  and tell the time from stamp to callback
//   reader [OPTION]... hold INTERFACE COMMAND...     read nothing, and tell what the ring holds
//   reader [OPTION]... many INTERFACE COMMAND...     sixteen handles at once
//   reader [OPTION]... activate INTERFACE            time pcap_activate
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <pcap/pcap.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

namespace {

struct Options {
  bool immediate = false;   // -i
  int snapshot = 262144;    // -s: tcpdump's
  int timeout_ms = 100;     // -t
  std::uint64_t every = 0;  // -e: stall after so many packets...
  unsigned stall_ms = 0;    // -w: ...for so long
  int raw = 0;              // -r 1|2|3: hold: a ring of that version, without libpcap
} options;

double clock_ns(clockid_t clock) {
  timespec t = {};
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}

[[noreturn]] void give_up(const char* what, const char* why) {
  std::fprintf(stderr, "reader: %s: %s\n", what, why);
  std::exit(EXIT_FAILURE);
}

// ---- Traffic: a command that runs beside the reader ----

pid_t traffic = 0;
volatile sig_atomic_t traffic_ended = 0;
pcap_t* looping = nullptr;

void on_traffic_end(int) {
  traffic_ended = 1;
  if (looping != nullptr) pcap_breakloop(looping);
}

void start_traffic(char** command) {
  struct sigaction action = {};
  action.sa_handler = on_traffic_end;
  sigaction(SIGCHLD, &action, nullptr);
  traffic = fork();
  if (traffic < 0) give_up("fork", std::strerror(errno));
  if (traffic == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execvp(command[0], command);
    _exit(127);
  }
}

void wait_for_traffic() {
  int status = 0;
  while (waitpid(traffic, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0) give_up("traffic", "it failed");
}

// ---- Handles ----

pcap_t* create(const char* interface) {
  char error[PCAP_ERRBUF_SIZE];
  pcap_t* handle = pcap_create(interface, error);
  if (handle == nullptr) give_up(interface, error);
  pcap_set_snaplen(handle, options.snapshot);
  pcap_set_timeout(handle, options.timeout_ms);
  pcap_set_immediate_mode(handle, options.immediate ? 1 : 0);
  pcap_set_promisc(handle, 1);
  pcap_set_tstamp_precision(handle, PCAP_TSTAMP_PRECISION_NANO);
  return handle;
}

void activate(pcap_t* handle) {
  if (pcap_activate(handle) < 0) give_up("pcap_activate", pcap_geterr(handle));
}

/// Memory that a virtual machine touches for the first time costs extra, so it is touched before.
pcap_t* open_warm(const char* interface) {
  for (int i = 0;; ++i) {
    pcap_t* handle = create(interface);
    activate(handle);
    if (i == 1) return handle;
    pcap_close(handle);
  }
}

struct Count {
  std::uint64_t packets = 0;
  std::vector<double> latencies_us;
};

void on_packet_stalling(u_char* user, const pcap_pkthdr*, const u_char*) {
  auto* count = reinterpret_cast<Count*>(user);
  if (++count->packets % options.every != 0) return;
  // Not interrupted by the end of the traffic: the stall is to last.
  timespec left = {.tv_sec = options.stall_ms / 1000,
                   .tv_nsec = static_cast<long>(options.stall_ms % 1000) * 1'000'000};
  while (nanosleep(&left, &left) != 0) {
  }
}

void on_packet(u_char* user, const pcap_pkthdr*, const u_char*) {
  ++reinterpret_cast<Count*>(user)->packets;
}

void on_packet_timed(u_char* user, const pcap_pkthdr* header, const u_char*) {
  auto* count = reinterpret_cast<Count*>(user);
  ++count->packets;
  const double stamp = static_cast<double>(header->ts.tv_sec) * 1e9 +
                       static_cast<double>(header->ts.tv_usec);  // nanoseconds, as asked for
  count->latencies_us.push_back((clock_ns(CLOCK_REALTIME) - stamp) / 1e3);
}

/// Reads until all that the kernel put into the ring has been delivered.
void read_rest(pcap_t* handle, pcap_handler callback, Count& count, pcap_stat& stats) {
  char error[PCAP_ERRBUF_SIZE];
  if (pcap_setnonblock(handle, 1, error) != 0) give_up("pcap_setnonblock", error);
  const double limit = clock_ns(CLOCK_MONOTONIC) + 5e9;
  for (;;) {
    if (pcap_stats(handle, &stats) != 0) give_up("pcap_stats", pcap_geterr(handle));
    if (count.packets + stats.ps_drop >= stats.ps_recv) return;
    if (clock_ns(CLOCK_MONOTONIC) > limit) return;
    pollfd ring = {.fd = pcap_get_selectable_fd(handle), .events = POLLIN, .revents = 0};
    poll(&ring, 1, 10);
    const int got = pcap_dispatch(handle, -1, callback, reinterpret_cast<u_char*>(&count));
    if (got < 0 && got != PCAP_ERROR_BREAK) give_up("pcap_dispatch", pcap_geterr(handle));
  }
}

double quantile(std::vector<double>& values, double which) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[static_cast<std::size_t>(which * double(values.size() - 1))];
}

// ---- What is measured ----

void run_count(const char* interface, char** command, bool timed) {
  pcap_t* handle = open_warm(interface);
  Count count;
  count.latencies_us.reserve(1 << 20);
  const pcap_handler callback = timed                ? on_packet_timed
                                : options.every != 0 ? on_packet_stalling
                                                     : on_packet;
  looping = handle;
  const double start = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
  start_traffic(command);
  while (traffic_ended == 0) {
    const int status = pcap_loop(handle, -1, callback, reinterpret_cast<u_char*>(&count));
    if (status == PCAP_ERROR) give_up("pcap_loop", pcap_geterr(handle));
  }
  pcap_stat stats = {};
  read_rest(handle, callback, count, stats);
  const double cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - start;
  wait_for_traffic();
  if (count.packets + stats.ps_drop != stats.ps_recv) {
    give_up("count", "packets were neither delivered nor dropped");
  }
  std::printf("packets %llu received %u dropped %u dropped_percent %.3f cpu_ns %.1f\n",
              static_cast<unsigned long long>(count.packets), stats.ps_recv, stats.ps_drop,
              100.0 * stats.ps_drop / std::max(stats.ps_recv, 1u),
              cpu / static_cast<double>(std::max<std::uint64_t>(count.packets, 1)));
  if (timed) {
    std::printf("median_us %.0f p99_us %.0f p999_us %.0f max_us %.0f\n",
                quantile(count.latencies_us, 0.5), quantile(count.latencies_us, 0.99),
                quantile(count.latencies_us, 0.999), quantile(count.latencies_us, 1));
  }
  pcap_close(handle);
}

void run_many(const char* interface, char** command) {
  constexpr std::size_t kHandles = 16;
  pcap_t* handles[kHandles];
  for (pcap_t*& handle : handles) {
    handle = create(interface);
    activate(handle);
  }
  start_traffic(command);
  wait_for_traffic();
  std::uint64_t least = UINT64_MAX;
  for (pcap_t* handle : handles) {
    Count count;
    pcap_stat stats = {};
    read_rest(handle, on_packet, count, stats);
    least = std::min(least, count.packets);
    pcap_close(handle);
  }
  std::printf("least %llu\n", static_cast<unsigned long long>(least));
}

void run_activate(const char* interface) {
  double first_ms = 0;
  std::vector<double> times_ms;
  for (int i = 0; i < 30; ++i) {
    pcap_t* handle = create(interface);
    const double start = clock_ns(CLOCK_MONOTONIC);
    activate(handle);
    const double ms = (clock_ns(CLOCK_MONOTONIC) - start) / 1e6;
    if (i == 0) first_ms = ms;
    if (i >= 5) times_ms.push_back(ms);
    pcap_close(handle);
  }
  std::printf("first_ms %.2f warm_ms %.2f\n", first_ms, quantile(times_ms, 0.5));
}

// ---- Rings that nobody reads ----

constexpr unsigned align(unsigned bytes) { return TPACKET_ALIGN(bytes); }

/// A ring of version 1, 2 or 3 without libpcap. V1 and V2 get slots as stock libpcap makes them for
/// V2 on an Ethernet interface without offloads: the header, 256 bytes for a link-layer header
/// whose size it can't know, and the snapshot length or the MTU and 18 bytes, whichever is less; 2
/// MiB of them. V3 gets 64 MiB, and no reserved room: the least that the kernel itself needs.
int open_raw(const char* interface) {
  tpacket_req3 ring = {};
  socklen_t length = sizeof(ring);
  if (options.raw == 3) {
    ring.tp_block_size = ring.tp_frame_size = 1 << 20;
    ring.tp_block_nr = ring.tp_frame_nr = 64;
    ring.tp_retire_blk_tov = 1000;
  } else {
    constexpr unsigned kLargestFrame = 1500 + 18;
    static_assert(align(sizeof(tpacket2_hdr)) == align(sizeof(tpacket_hdr)));
    const unsigned headers = align(TPACKET2_HDRLEN + 256) + 4 - 256;  // 4: a VLAN tag
    const unsigned stored = std::min(static_cast<unsigned>(options.snapshot), kLargestFrame);
    ring.tp_frame_size = align(headers + stored);
    ring.tp_block_size = 4096;
    ring.tp_block_nr = (2 << 20) / ring.tp_block_size;
    ring.tp_frame_nr = ring.tp_block_nr * (ring.tp_block_size / ring.tp_frame_size);
    length = sizeof(tpacket_req);
  }
  // What a filter returns is how much is stored.
  sock_filter store = {BPF_RET | BPF_K, 0, 0, static_cast<unsigned>(options.snapshot)};
  const sock_fprog program = {.len = 1, .filter = &store};
  const int version = options.raw - 1;  // TPACKET_V1 is 0
  sockaddr_ll address = {};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(if_nametoindex(interface));
  const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) != 0 ||
      setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) != 0 ||
      setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, length) != 0 ||
      mmap(nullptr, std::size_t{ring.tp_block_size} * ring.tp_block_nr, PROT_READ | PROT_WRITE,
           MAP_SHARED, fd, 0) == MAP_FAILED ||
      bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    give_up("raw ring", std::strerror(errno));
  }
  return fd;
}

/// What this process has mapped of packet sockets' rings, whoever made them.
double mapped_ring_mib() {
  double bytes = 0;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long from = 0;
    unsigned long to = 0;
    if (line.find("socket:[") != std::string::npos &&
        std::sscanf(line.c_str(), "%lx-%lx", &from, &to) == 2) {
      bytes += static_cast<double>(to - from);
    }
  }
  return bytes / (1 << 20);
}

void run_hold(const char* interface, char** command) {
  pcap_t* handle = nullptr;
  int fd = -1;
  if (options.raw != 0) {
    fd = open_raw(interface);
  } else {
    handle = create(interface);
    activate(handle);
    // One read that finds nothing: from then on packets are cut at the snapshot length in the
    // kernel.
    char error[PCAP_ERRBUF_SIZE];
    if (pcap_setnonblock(handle, 1, error) != 0) give_up("pcap_setnonblock", error);
    pcap_dispatch(handle, 1, on_packet, nullptr);
  }
  start_traffic(command);
  wait_for_traffic();
  tpacket_stats_v3 raw = {};
  pcap_stat stats = {};
  if (handle != nullptr) {
    pcap_stats(handle, &stats);
  } else {
    socklen_t length = sizeof(raw);
    getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &raw, &length);
    stats.ps_recv = raw.tp_packets;
    stats.ps_drop = raw.tp_drops;
  }
  if (stats.ps_drop == 0) give_up("hold", "the traffic did not fill the ring");
  const double mib = mapped_ring_mib();
  std::printf("held %u ring_mib %.2f per_mib %.0f\n", stats.ps_recv - stats.ps_drop, mib,
              (stats.ps_recv - stats.ps_drop) / mib);
}

}  // namespace

int main(int argc, char** argv) {
  for (int option; (option = getopt(argc, argv, "+is:t:e:w:r:")) != -1;) {
    switch (option) {
      case 'i':
        options.immediate = true;
        break;
      case 's':
        options.snapshot = std::atoi(optarg);
        break;
      case 't':
        options.timeout_ms = std::atoi(optarg);
        break;
      case 'e':
        options.every = std::strtoull(optarg, nullptr, 10);
        break;
      case 'w':
        options.stall_ms = static_cast<unsigned>(std::atoi(optarg));
        break;
      case 'r':
        options.raw = std::atoi(optarg);
        break;
      default:
        return EXIT_FAILURE;
    }
  }
  if (argc - optind < 2) give_up("usage", "reader [OPTION]... MODE INTERFACE [COMMAND...]");
  const std::string mode = argv[optind];
  const char* interface = argv[optind + 1];
  char** command = argv + optind + 2;
  if (mode == "count") {
    run_count(interface, command, false);
  } else if (mode == "latency") {
    run_count(interface, command, true);
  } else if (mode == "many") {
    run_many(interface, command);
  } else if (mode == "hold") {
    run_hold(interface, command);
  } else if (mode == "activate") {
    run_activate(interface);
  } else {
    give_up(argv[optind], "no such mode");
  }
}
