// SPDX-License-Identifier: BSD-3-Clause
// Compares what readers hold that are stopped for a while, as by Ctrl-Z: for each cell, a reader
// with this library and one with stock libpcap (PCAPV3=off) beside it, each a process of its own,
// on the same traffic. Any number of cells share one stall. Prints what became of the packets;
// judge.awk says whether that is as it should be, stall.sh makes the links.
//
//   stall PEER RATE SIZE STALL_MS <CELLS
//   stall --plain INTERFACE
//
// PEER is the path of the network namespace with the links' other ends, whose names begin with
// "play" where those here begin with "see". Each port that a cell names gets RATE packets a second,
// of SIZE bytes. A cell is a line
//
//   DEVICE plain|immediate TO_MS SNAPLEN BUFFER
//
// with a buffer of 0 for none that is set. DEVICE may be a list, "see0,see1", which stock libpcap
// reads with a handle for each of its interfaces. It is printed again with RATE, SIZE and STALL_MS,
// the packets received, dropped and delivered here, the same by stock, and again those received and
// dropped here, as pcap_stats() has them once the reader has been ended.
//
// --plain switches off an interface's offloads, so that stock libpcap in immediate mode has a slot
// for the largest frame and not one for 64 KiB (pcap-linux.c: iface_get_offload).
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <pcap/pcap.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include <atomic>
#include <deque>
#include <iostream>
#include <set>
#include <sstream>
#include <string>

#include "tests/live/frames.h"

namespace {

using pcapv3::live::Sender;

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::uint64_t kSecond = 1000 * kMs;
// Traffic before and after the stall.
constexpr std::uint64_t kBeforeNs = 700 * kMs;
constexpr std::uint64_t kAfterNs = 500 * kMs;
constexpr std::uint64_t kLimitNs = 60 * kSecond;  // of every wait

[[noreturn]] void give_up(const std::string& what, const char* why) {
  std::fprintf(stderr, "stall: %s: %s\n", what.c_str(), why);
  std::exit(EXIT_FAILURE);  // readers and sender end with this process
}

std::uint64_t now() {
  timespec t = {};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * kSecond + static_cast<std::uint64_t>(t.tv_nsec);
}

void sleep_until(std::uint64_t when) {
  const timespec t = {.tv_sec = static_cast<time_t>(when / kSecond),
                      .tv_nsec = static_cast<long>(when % kSecond)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr) == EINTR) {
  }
}

// ---- Cells ----

struct Cell {
  std::string device;
  std::string mode;
  int timeout_ms = 0;
  int snapshot = 0;
  int buffer = 0;  // 0: not set
};

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> names;
  std::istringstream text(list);
  for (std::string name; std::getline(text, name, ',');) names.push_back(name);
  return names;
}

std::vector<Cell> read_cells() {
  std::vector<Cell> cells;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    Cell cell;
    words >> cell.device >> cell.mode >> cell.timeout_ms >> cell.snapshot >> cell.buffer;
    if (!words || (cell.mode != "plain" && cell.mode != "immediate")) give_up(line, "no cell");
    cells.push_back(cell);
  }
  if (cells.empty()) give_up("usage", "there are no cells");
  return cells;
}

// ---- Readers: a process each ----

/// What a reader tells, in memory that it shares with this process.
struct Report {
  std::atomic<bool> ready;
  std::atomic<bool> counted;
  std::atomic<bool> finished;
  std::atomic<std::uint64_t> delivered;
  pcap_stat counts;  // while it reads
  pcap_stat final_counts;
};

struct Reader {
  std::size_t cell;
  bool stock;
  std::string device;
  Report* report;
  pid_t process;
};

pcap_t* reading = nullptr;
Report* own_report = nullptr;

void on_break(int) { pcap_breakloop(reading); }

/// As tcpdump does on SIGUSR1. (After a break, what is counted here is what was delivered.)
void on_count(int) {
  if (pcap_stats(reading, &own_report->counts) == 0) own_report->counted = true;
}

void on_packet(u_char* report, const pcap_pkthdr*, const u_char*) {
  std::atomic<std::uint64_t>& delivered = reinterpret_cast<Report*>(report)->delivered;
  delivered.store(delivered.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

/// Reads until SIGTERM has come.
void read(const Cell& cell, const Reader& reader) {
  if (reader.stock) setenv("PCAPV3", "off", 1);
  char error[PCAP_ERRBUF_SIZE] = "";
  reading = pcap_create(reader.device.c_str(), error);
  if (reading == nullptr) give_up(reader.device, error);
  pcap_set_snaplen(reading, cell.snapshot);
  pcap_set_timeout(reading, cell.timeout_ms);
  pcap_set_immediate_mode(reading, cell.mode == "immediate" ? 1 : 0);
  pcap_set_promisc(reading, 1);
  if (cell.buffer != 0) pcap_set_buffer_size(reading, cell.buffer);
  if (pcap_activate(reading) != 0) give_up(reader.device, pcap_geterr(reading));
  Report& report = *reader.report;
  own_report = &report;
  struct sigaction action = {};
  action.sa_handler = on_break;
  sigaction(SIGTERM, &action, nullptr);
  action.sa_handler = on_count;
  sigaction(SIGUSR1, &action, nullptr);
  report.ready = true;
  if (pcap_loop(reading, -1, on_packet, reinterpret_cast<u_char*>(&report)) != PCAP_ERROR_BREAK) {
    give_up("pcap_loop", pcap_geterr(reading));
  }
  if (pcap_stats(reading, &report.final_counts) != 0) {
    give_up("pcap_stats", pcap_geterr(reading));
  }
  report.finished = true;
  pcap_close(reading);
}

template <typename Function>
pid_t start(Function function) {
  const pid_t id = fork();
  if (id < 0) give_up("fork", std::strerror(errno));
  if (id > 0) return id;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  function();
  std::fflush(nullptr);
  _exit(EXIT_SUCCESS);
}

std::vector<Reader> start_readers(const std::vector<Cell>& cells) {
  std::vector<Reader> readers;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    readers.push_back({i, false, cells[i].device, nullptr, 0});
    for (const std::string& name : split(cells[i].device)) {
      readers.push_back({i, true, name, nullptr, 0});
    }
  }
  void* memory = mmap(nullptr, readers.size() * sizeof(Report), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) give_up("mmap", std::strerror(errno));
  Report* report = static_cast<Report*>(memory);  // zero bytes are what it begins with
  for (Reader& reader : readers) {
    reader.report = report++;
    reader.process = start([&] { read(cells[reader.cell], reader); });
  }
  return readers;
}

void expect_running(const Reader& reader) {
  int status = 0;
  if (waitpid(reader.process, &status, WNOHANG) != 0) give_up(reader.device, "a reader ended");
}

void wait_until_ready(const std::vector<Reader>& readers) {
  const std::uint64_t limit = now() + kLimitNs;
  for (const Reader& reader : readers) {
    while (!reader.report->ready) {
      expect_running(reader);
      if (now() > limit) give_up(reader.device, "a reader was not ready in time");
      sleep_until(now() + 2 * kMs);
    }
  }
}

void signal_all(const std::vector<Reader>& readers, int signal) {
  for (const Reader& reader : readers) kill(reader.process, signal);
}

void stop(const std::vector<Reader>& readers) {
  signal_all(readers, SIGSTOP);
  for (const Reader& reader : readers) {
    int status = 0;
    if (waitpid(reader.process, &status, WUNTRACED) < 0 || !WIFSTOPPED(status)) {
      give_up(reader.device, "a reader ended when it was stopped");
    }
  }
}

/// Waits until nothing more is delivered. (What stays in a block of stock's that is not closed is
/// not waited for: with a long time-out it stays for good.)
void wait_until_idle(const std::vector<Reader>& readers) {
  constexpr std::uint64_t kIdleNs =
      600 * kMs;  // more than twice the longest retire timeout of ours
  const std::uint64_t limit = now() + kLimitNs;
  std::uint64_t seen = 0;
  for (std::uint64_t since = now(); now() < since + kIdleNs && now() < limit;) {
    sleep_until(now() + 20 * kMs);
    std::uint64_t delivered = 0;
    for (const Reader& reader : readers) delivered += reader.report->delivered;
    if (delivered != seen) since = now();
    seen = delivered;
  }
}

void finish(const std::vector<Reader>& readers) {
  const std::uint64_t limit = now() + kLimitNs;
  signal_all(readers, SIGUSR1);
  for (const Reader& reader : readers) {
    while (!reader.report->counted) {
      expect_running(reader);
      if (now() > limit) give_up(reader.device, "a reader did not count");
      sleep_until(now() + 2 * kMs);
    }
  }
  signal_all(readers, SIGTERM);
  for (const Reader& reader : readers) {
    int status = 0;
    while (waitpid(reader.process, &status, WNOHANG) == 0) {
      if (now() > limit) give_up(reader.device, "a reader did not end");
      sleep_until(now() + 2 * kMs);
    }
    if (status != 0 || !reader.report->finished) give_up(reader.device, "a reader failed");
  }
}

// ---- Traffic ----

/// Sends to each of the ports in turn, from the time `start_ns` on.
void send(const char* peer, const std::set<std::string>& ports, std::uint64_t rate,
          std::size_t size, std::uint64_t count, std::uint64_t start_ns) {
  std::deque<Sender> senders;
  for (const std::string& port : ports) {
    if (port.rfind("see", 0) != 0) give_up(port, "the name does not begin with \"see\"");
    senders.emplace_back(("play" + port.substr(3)).c_str(), peer);
  }
  prctl(PR_SET_TIMERSLACK, 1);
  const pcapv3::live::Bytes bytes = pcapv3::live::bytes_of({.size = size});
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t due = start_ns + i * kSecond / rate;
    if (now() < due) sleep_until(due);
    for (const Sender& sender : senders) {
      if (!sender.try_send(bytes)) give_up("send", std::strerror(errno));
    }
  }
}

// ---- A stall ----

struct Sum {
  unsigned long long received = 0;
  unsigned long long dropped = 0;
  unsigned long long delivered = 0;
  unsigned long long final_received = 0;
  unsigned long long final_dropped = 0;

  void add(const Report& report) {
    received += report.counts.ps_recv;
    dropped += report.counts.ps_drop;
    delivered += report.delivered;
    final_received += report.final_counts.ps_recv;
    final_dropped += report.final_counts.ps_drop;
  }
};

void run(const char* peer, std::uint64_t rate, std::size_t size, std::uint64_t stall_ms) {
  const std::vector<Cell> cells = read_cells();
  std::set<std::string> ports;
  for (const Cell& cell : cells) {
    for (const std::string& name : split(cell.device)) ports.insert(name);
  }
  const std::vector<Reader> readers = start_readers(cells);
  wait_until_ready(readers);

  const std::uint64_t start_ns = now() + 20 * kMs;
  const std::uint64_t lasts_ns = kBeforeNs + stall_ms * kMs + kAfterNs;
  const pid_t sender =
      start([&] { send(peer, ports, rate, size, rate * lasts_ns / kSecond, start_ns); });
  sleep_until(start_ns + kBeforeNs);
  stop(readers);
  sleep_until(start_ns + kBeforeNs + stall_ms * kMs);
  signal_all(readers, SIGCONT);
  int status = 0;
  if (waitpid(sender, &status, 0) != sender || status != 0) give_up("traffic", "it failed");
  wait_until_idle(readers);
  finish(readers);

  for (std::size_t i = 0; i < cells.size(); ++i) {
    const Cell& cell = cells[i];
    Sum sums[2];
    for (const Reader& reader : readers) {
      if (reader.cell == i) sums[reader.stock ? 1 : 0].add(*reader.report);
    }
    std::printf("%s %s %d %d %d %llu %zu %llu", cell.device.c_str(), cell.mode.c_str(),
                cell.timeout_ms, cell.snapshot, cell.buffer, static_cast<unsigned long long>(rate),
                size, static_cast<unsigned long long>(stall_ms));
    for (const Sum& sum : sums) {
      std::printf(" %llu %llu %llu", sum.received, sum.dropped, sum.delivered);
    }
    std::printf(" %llu %llu\n", sums[0].final_received, sums[0].final_dropped);
  }
}

void switch_off_offloads(const char* interface) {
  const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (fd < 0) give_up("socket", std::strerror(errno));
  for (const std::uint32_t command : {ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO}) {
    ethtool_value off = {.cmd = command, .data = 0};
    ifreq request = {};
    std::snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", interface);
    request.ifr_data = reinterpret_cast<char*>(&off);
    if (ioctl(fd, SIOCETHTOOL, &request) != 0) give_up(interface, std::strerror(errno));
  }
  close(fd);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--plain") {
    switch_off_offloads(argv[2]);
    return EXIT_SUCCESS;
  }
  const auto number = [&](int i) { return i < argc ? std::strtoull(argv[i], nullptr, 10) : 0; };
  const std::size_t size = number(3);
  if (argc != 5 || number(2) == 0 || size < ETH_HLEN + pcapv3::live::kPayload) {
    give_up("usage", "stall PEER RATE SIZE STALL_MS <CELLS");
  }
  run(argv[1], number(2), size, number(4));
  return EXIT_SUCCESS;
}
