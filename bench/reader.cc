// SPDX-License-Identifier: BSD-3-Clause
// The reading half of the benchmarks: opens a handle, runs a command that makes traffic, and prints
// what came, what was dropped and what that cost: a name, a value, a name, a value. Which libpcap
// it measures is the environment's choice (PCAPV3=off is stock's); what is run and compared is the
// script run's. CPU time is that of this process alone, its system calls and what interrupts it in
// it; the command is a process of its own.
//
//   reader [OPTION]... count INTERFACE COMMAND...    read all; -e: stall now and then; -c: by which
//                                                    call; -r: without libpcap; -o: and write it
//   reader [OPTION]... latency INTERFACE COMMAND...  and tell the time from stamp to callback; -e:
//                                                    of one packet in so many
//   reader [OPTION]... hold INTERFACE COMMAND...     read nothing, and tell what the ring holds
//   reader [OPTION]... many INTERFACE COMMAND...     sixteen handles at once
//   reader [OPTION]... fanout INTERFACE COMMAND...   -n processes share what comes, in
//   PCAPV3_FANOUT's
//                                                    group, each on a CPU of its own; -k: with work
//                                                    for each packet
//   reader [OPTION]... activate INTERFACE            time pcap_activate
#include <fcntl.h>
#include <pcap/pcap.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
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
#include <optional>
#include <string>
#include <vector>

#include "raw_ring.h"

namespace {

using pcapv3::bench::RawPacket;
using pcapv3::bench::RawRing;

struct Options {
  bool immediate = false;        // -i
  int snapshot = 262144;         // -s: tcpdump's
  int timeout_ms = 100;          // -t
  std::uint64_t every = 0;       // -e: stall, or take the time, after so many packets...
  unsigned stall_ms = 0;         // -w: ...stall for so long
  int raw = 0;                   // -r 1|2|3: count, hold: a ring of that version, without libpcap
  unsigned buffer_mib = 0;       // -b: ring; 0: the library's choice
  std::string call = "loop";     // -c loop|dispatch|next_ex: count
  const char* output = nullptr;  // -o: count with -r: a file to write packets to
  unsigned processes = 1;        // -n: fanout
  unsigned work_ns = 0;          // -k: fanout: what the callback takes, of CPU time
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
  traffic = vfork();  // no copy of the page tables of a large ring, which would count as reading
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
  if (options.buffer_mib != 0) {
    pcap_set_buffer_size(handle, static_cast<int>(options.buffer_mib << 20));
  }
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
  std::uint64_t untimed = 0;  // since the last whose time was taken
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
  if (++count->untimed < options.every) return;
  count->untimed = 0;
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

/// How often this process has given up its CPU in order to wait.
long waits() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nvcsw;
}

// ---- What is measured ----

void print_count(std::uint64_t packets, std::uint64_t received, std::uint64_t dropped, double cpu) {
  if (packets + dropped != received) give_up("count", "packets were neither delivered nor dropped");
  std::printf("packets %llu received %llu dropped %llu dropped_percent %.3f cpu_ns %.1f\n",
              static_cast<unsigned long long>(packets), static_cast<unsigned long long>(received),
              static_cast<unsigned long long>(dropped),
              100.0 * static_cast<double>(dropped) / static_cast<double>(received + !received),
              cpu / static_cast<double>(packets + !packets));
}

/// Reads by the call that is to be measured until the traffic has ended.
void read_all(pcap_t* handle, pcap_handler callback, Count& count) {
  auto* user = reinterpret_cast<u_char*>(&count);
  int status = 0;
  if (options.call == "loop") {
    while (traffic_ended == 0 && status != PCAP_ERROR) {
      status = pcap_loop(handle, -1, callback, user);
    }
  } else if (options.call == "dispatch") {
    while (traffic_ended == 0 && status != PCAP_ERROR) {
      status = pcap_dispatch(handle, -1, callback, user);
    }
  } else if (options.call == "next_ex") {
    pcap_pkthdr* header = nullptr;
    const u_char* data = nullptr;
    while (traffic_ended == 0 && status != PCAP_ERROR) {
      status = pcap_next_ex(handle, &header, &data);
      if (status == 1) ++count.packets;
    }
  } else {
    give_up(options.call.c_str(), "no such call");
  }
  if (status == PCAP_ERROR) give_up(options.call.c_str(), pcap_geterr(handle));
}

void run_count(const char* interface, char** command, bool timed) {
  pcap_t* handle = open_warm(interface);
  Count count;
  count.latencies_us.reserve(1 << 20);
  const pcap_handler callback = timed                ? on_packet_timed
                                : options.every != 0 ? on_packet_stalling
                                                     : on_packet;
  looping = handle;
  const double began = clock_ns(CLOCK_MONOTONIC);
  const long waited = waits();
  const double start = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
  start_traffic(command);
  read_all(handle, callback, count);
  pcap_stat stats = {};
  read_rest(handle, callback, count, stats);
  const double cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - start;
  const double cpu_percent = 100 * cpu / (clock_ns(CLOCK_MONOTONIC) - began);
  const double wait_packets = static_cast<double>(count.packets) / double(waits() - waited + 1);
  wait_for_traffic();
  print_count(count.packets, stats.ps_recv, stats.ps_drop, cpu);
  std::printf("cpu_percent %.2f packets_a_wait %.1f\n", cpu_percent, wait_packets);
  if (timed) {
    std::printf("median_us %.0f p99_us %.0f p999_us %.0f max_us %.0f\n",
                quantile(count.latencies_us, 0.5), quantile(count.latencies_us, 0.99),
                quantile(count.latencies_us, 0.999), quantile(count.latencies_us, 1));
    for (const int percent : {0, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 100}) {
      std::printf("quantile_%d %.0f\n", percent, quantile(count.latencies_us, percent / 100.0));
    }
  }
  pcap_close(handle);
}

/// A savefile written in large pieces: the least that a program like tcpdump -w has to do.
class Writer {
 public:
  explicit Writer(const char* path)
      : fd_(open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)), buffer_(kPiece + kMax) {
    if (fd_ < 0) give_up(path, std::strerror(errno));
    const pcap_file_header header = {.magic = 0xa1b2c3d4,
                                     .version_major = PCAP_VERSION_MAJOR,
                                     .version_minor = PCAP_VERSION_MINOR,
                                     .thiszone = 0,
                                     .sigfigs = 0,
                                     .snaplen = static_cast<bpf_u_int32>(options.snapshot),
                                     .linktype = DLT_EN10MB};
    put(&header, sizeof(header));
  }
  ~Writer() {
    flush();
    close(fd_);
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  void write_packet(const RawPacket& p) {
    const std::uint32_t record[4] = {p.seconds, p.nanoseconds / 1000, p.stored, p.length};
    if (p.stored > kMax - sizeof(record)) give_up("write", "a packet of more than 1 MiB");
    put(record, sizeof(record));
    put(p.bytes, p.stored);
    if (used_ >= kPiece) flush();
  }

 private:
  static constexpr std::size_t kPiece = 1 << 20;
  static constexpr std::size_t kMax = 1 << 20;  // of one packet, so that it fits behind a piece

  void put(const void* bytes, std::size_t length) {
    std::memcpy(buffer_.data() + used_, bytes, length);
    used_ += length;
  }
  void flush() {
    const std::size_t piece = used_ < kPiece ? used_ : kPiece;
    for (std::size_t done = 0; done < piece;) {
      const ssize_t n = write(fd_, buffer_.data() + done, piece - done);
      if (n < 0 && errno != EINTR) give_up("write", std::strerror(errno));
      if (n > 0) done += static_cast<std::size_t>(n);
    }
    used_ -= piece;
    std::memmove(buffer_.data(), buffer_.data() + piece, used_);
  }

  int fd_;
  std::vector<char> buffer_;
  std::size_t used_ = 0;
};

pcapv3::bench::RingRequest raw_request() {
  return {.version = options.raw,
          .blocks = options.buffer_mib != 0 ? options.buffer_mib : 64,
          .snapshot = static_cast<unsigned>(options.snapshot),
          .retire_ms = static_cast<unsigned>(options.timeout_ms)};
}

/// As run_count, without libpcap.
void run_raw_count(const char* interface, char** command) {
  std::optional<RawRing> ring;
  ring.emplace(interface, raw_request());  // twice, as open_warm
  ring.emplace(interface, raw_request());
  std::optional<Writer> writer;
  if (options.output != nullptr) writer.emplace(options.output);
  std::uint64_t packets = 0;
  std::uint64_t received = 0;
  std::uint64_t dropped = 0;
  const auto read_once = [&] {
    pollfd readable = {.fd = ring->fd(), .events = POLLIN, .revents = 0};
    poll(&readable, 1, 100);
    packets += writer ? ring->walk([&](const RawPacket& p) { writer->write_packet(p); })
                      : ring->walk([](const RawPacket&) {});
  };
  const double start = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
  start_traffic(command);
  while (traffic_ended == 0) read_once();
  const double limit = clock_ns(CLOCK_MONOTONIC) + 5e9;
  while (ring->add_statistics(received, dropped),
         packets + dropped < received && clock_ns(CLOCK_MONOTONIC) < limit) {
    read_once();
  }
  writer.reset();
  const double cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - start;
  wait_for_traffic();
  print_count(packets, received, dropped, cpu);
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

// ---- Several processes with a callback that works ----

std::uint64_t turns_of_work = 0;

void work(std::uint64_t turns) {
  volatile std::uint64_t value = 1;
  for (std::uint64_t i = 0; i < turns; ++i) value = value * 3 + 1;
}

void on_packet_working(u_char* user, const pcap_pkthdr*, const u_char*) {
  ++reinterpret_cast<Count*>(user)->packets;
  work(turns_of_work);
}

/// How many turns take `ns` of CPU time: of several tries the quickest, which nothing has
/// disturbed.
std::uint64_t turns_for(double ns) {
  constexpr std::uint64_t kTry = 1'000'000;
  double quickest = 1e18;
  for (int i = 0; i < 20; ++i) {
    const double start = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    work(kTry);
    quickest = std::min(quickest, clock_ns(CLOCK_THREAD_CPUTIME_ID) - start);
  }
  return static_cast<std::uint64_t>(ns * static_cast<double>(kTry) / quickest);
}

struct Share {
  std::uint64_t packets;
  pcap_stat stats;
};

/// One of the processes: a byte when it is ready, and its share once SIGTERM has told it to end.
void read_share(const char* interface, unsigned cpu, int to_parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof(set), &set) != 0) give_up("CPU", std::strerror(errno));
  struct sigaction action = {};
  action.sa_handler = on_traffic_end;
  sigaction(SIGTERM, &action, nullptr);
  pcap_t* handle = open_warm(interface);
  looping = handle;
  if (write(to_parent, "", 1) != 1) give_up("pipe", std::strerror(errno));
  Count count;
  read_all(handle, on_packet_working, count);
  Share share = {};
  read_rest(handle, on_packet_working, count, share.stats);
  share.packets = count.packets;
  if (write(to_parent, &share, sizeof(share)) != sizeof(share)) give_up("pipe", "no room");
  std::exit(EXIT_SUCCESS);
}

void run_fanout(const char* interface, char** command) {
  struct Process {
    pid_t id;
    int pipe;
  };
  turns_of_work = turns_for(options.work_ns);
  std::vector<Process> processes;
  for (unsigned i = 0; i < options.processes; ++i) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) give_up("pipe", std::strerror(errno));
    const pid_t id = fork();
    if (id < 0) give_up("fork", std::strerror(errno));
    if (id == 0) read_share(interface, i, ends[1]);
    close(ends[1]);
    processes.push_back({id, ends[0]});
  }
  for (const Process& process : processes) {
    char ready = 0;
    if (read(process.pipe, &ready, 1) != 1) give_up("fanout", "a reader failed");
  }
  traffic = fork();  // whose end is waited for here, so that no signal is to tell of it
  if (traffic == 0) {
    execvp(command[0], command);
    _exit(127);
  }
  wait_for_traffic();
  std::uint64_t packets = 0;
  std::uint64_t received = 0;
  std::uint64_t dropped = 0;
  for (const Process& process : processes) kill(process.id, SIGTERM);
  for (const Process& process : processes) {
    Share share = {};
    if (read(process.pipe, &share, sizeof(share)) != sizeof(share)) give_up("fanout", "no share");
    packets += share.packets;
    received += share.stats.ps_recv;
    dropped += share.stats.ps_drop;
  }
  print_count(packets, received, dropped, 0);
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
  std::optional<RawRing> ring;
  if (options.raw != 0) {
    // V1 and V2 get blocks as stock libpcap makes them, 2 MiB of them. V3 gets 64 MiB, and no
    // reserved room: the least that the kernel itself needs.
    pcapv3::bench::RingRequest request = raw_request();
    if (options.raw != 3) request.block_bytes = 4096, request.blocks = 512;
    ring.emplace(interface, request);
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
  std::uint64_t received = 0;
  std::uint64_t dropped = 0;
  if (ring) {
    ring->add_statistics(received, dropped);
  } else {
    pcap_stat stats = {};
    pcap_stats(handle, &stats);
    received = stats.ps_recv;
    dropped = stats.ps_drop;
  }
  if (dropped == 0) give_up("hold", "the traffic did not fill the ring");
  const auto held = static_cast<double>(received - dropped);
  const double mib = mapped_ring_mib();
  std::printf("held %.0f ring_mib %.2f per_mib %.0f\n", held, mib, held / mib);
}

}  // namespace

int main(int argc, char** argv) {
  for (int option; (option = getopt(argc, argv, "+is:t:e:w:r:b:c:o:n:k:")) != -1;) {
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
      case 'b':
        options.buffer_mib = static_cast<unsigned>(std::atoi(optarg));
        break;
      case 'c':
        options.call = optarg;
        break;
      case 'o':
        options.output = optarg;
        break;
      case 'n':
        options.processes = static_cast<unsigned>(std::atoi(optarg));
        break;
      case 'k':
        options.work_ns = static_cast<unsigned>(std::atoi(optarg));
        break;
      default:
        return EXIT_FAILURE;
    }
  }
  if (argc - optind < 2) give_up("usage", "reader [OPTION]... MODE INTERFACE [COMMAND...]");
  const std::string mode = argv[optind];
  const char* interface = argv[optind + 1];
  char** command = argv + optind + 2;
  if (mode == "count" && options.raw != 0) {
    run_raw_count(interface, command);
  } else if (mode == "count") {
    run_count(interface, command, false);
  } else if (mode == "latency") {
    run_count(interface, command, true);
  } else if (mode == "many") {
    run_many(interface, command);
  } else if (mode == "fanout") {
    run_fanout(interface, command);
  } else if (mode == "hold") {
    run_hold(interface, command);
  } else if (mode == "activate") {
    run_activate(interface);
  } else {
    give_up(argv[optind], "no such mode");
  }
}
