// SPDX-License-Identifier: BSD-3-Clause
// What a handle costs before a packet has come: memory, time, descriptors, and whether it can be
// had at all where a process may have little. Prints names and values, as reader.cc. Which libpcap
// it measures is the environment's choice (PCAPV3=off is stock's). A list of interfaces,
// "see0,see1", is one handle here and as many as there are names with stock, which has no lists.
//
//   limits [OPTION]... memory DEVICE      100 handles: MiB each, and how long it took to open one
//   limits [OPTION]... open_close DEVICE  a handle that is opened and closed, 100 times
//   limits [OPTION]... locked DEVICE      whether it can be opened once mlockall(MCL_FUTURE) has
//   been
//                                         called, with a limit of 8 MiB (RLIMIT_MEMLOCK)
//   limits [OPTION]... address DEVICE     in how many address spaces of 40, 50, ... 100 MiB
//   (RLIMIT_AS)
//                                         30 MiB can be allocated once it is open
//   limits [OPTION]... files DEVICE       the descriptors of a process's first handle, of its
//   second, and
//                                         of that when one was given out
//   limits [OPTION]... most DEVICE        how many handles there can be with 1,024 files
//   limits [OPTION]... delay DEVICE COMMAND...  the longest delay of a packet that COMMAND makes
//
// Options: -i (immediate mode), -b KIB (buffer), -t MS (time-out).
#include <dirent.h>
#include <linux/capability.h>
#include <pcap/pcap.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr rlim_t kMiB = 1 << 20;

struct Options {
  bool immediate = false;
  int buffer_kib = 0;  // 0: not set
  int timeout_ms = 1000;
} options;

[[noreturn]] void give_up(const char* what, const char* why) {
  std::fprintf(stderr, "limits: %s: %s\n", what, why);
  std::exit(EXIT_FAILURE);
}

double clock_ms(clockid_t clock) {
  timespec t = {};
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) / 1e6;
}

double now_ms() { return clock_ms(CLOCK_MONOTONIC); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// ---- Handles ----

using Handles = std::vector<pcap_t*>;

bool is_stock() {
  const char* setting = std::getenv("PCAPV3");
  return setting != nullptr && std::strcmp(setting, "off") == 0;
}

std::vector<std::string> names_of(const std::string& device) {
  std::vector<std::string> names;
  for (std::size_t from = 0; from <= device.size();) {
    const std::size_t comma = is_stock() ? device.find(',', from) : std::string::npos;
    names.push_back(device.substr(from, comma - from));
    from = comma == std::string::npos ? device.size() + 1 : comma + 1;
  }
  return names;
}

char error[PCAP_ERRBUF_SIZE + 100];

/// Adds what stands for one handle on `device`. Returns false, with `error`, if it can't be opened.
bool open_one(const std::string& device, Handles& handles) {
  for (const std::string& name : names_of(device)) {
    pcap_t* handle = pcap_create(name.c_str(), error);
    if (handle == nullptr) return false;
    pcap_set_snaplen(handle, 262144);
    pcap_set_timeout(handle, options.timeout_ms);
    pcap_set_immediate_mode(handle, options.immediate ? 1 : 0);
    pcap_set_promisc(handle, 1);
    if (options.buffer_kib != 0) pcap_set_buffer_size(handle, options.buffer_kib * 1024);
    const int status = pcap_activate(handle);
    if (status < 0) {
      std::snprintf(error, sizeof(error), "%s: %s", pcap_statustostr(status), pcap_geterr(handle));
      pcap_close(handle);
      return false;
    }
    handles.push_back(handle);
  }
  return true;
}

void open_or_give_up(const std::string& device, Handles& handles) {
  if (!open_one(device, handles)) give_up(device.c_str(), error);
}

void close_all(Handles& handles) {
  for (pcap_t* handle : handles) pcap_close(handle);
  handles.clear();
}

// ---- What is measured ----

double available_mib() {
  FILE* file = std::fopen("/proc/meminfo", "re");
  char line[200];
  double kib = -1;
  while (file != nullptr && std::fgets(line, sizeof(line), file) != nullptr) {
    if (std::sscanf(line, "MemAvailable: %lf", &kib) == 1) break;
  }
  if (kib < 0) give_up("/proc/meminfo", "no MemAvailable");
  std::fclose(file);
  return kib / 1024;
}

/// What this process has mapped of packet sockets' rings.
double mapped_mib() {
  FILE* file = std::fopen("/proc/self/maps", "re");
  if (file == nullptr) give_up("/proc/self/maps", std::strerror(errno));
  char line[500];
  double bytes = 0;
  while (std::fgets(line, sizeof(line), file) != nullptr) {
    unsigned long from = 0;
    unsigned long to = 0;
    if (std::strstr(line, "socket:[") != nullptr && std::sscanf(line, "%lx-%lx", &from, &to) == 2) {
      bytes += static_cast<double>(to - from);
    }
  }
  std::fclose(file);
  return bytes / double{kMiB};
}

void memory(const std::string& device) {
  constexpr int kCount = 100;
  Handles handles;
  // Memory that a virtual machine touches for the first time costs extra, so it is touched before.
  for (int i = 0; i < kCount; ++i) open_or_give_up(device, handles);
  close_all(handles);
  const double before = available_mib();
  std::vector<double> times_ms;
  for (int i = 0; i < kCount; ++i) {
    const double start = now_ms();
    open_or_give_up(device, handles);
    times_ms.push_back(now_ms() - start);
  }
  std::printf("mib %.2f mapped_mib %.2f many_open_ms %.3f\n", (before - available_mib()) / kCount,
              mapped_mib() / kCount, median(times_ms));
  close_all(handles);
}

void open_close(const std::string& device) {
  std::vector<double> open_ms;
  std::vector<double> close_ms;
  std::vector<double> both_ms;
  for (int i = 0; i < 100; ++i) {
    Handles handles;
    const double start = now_ms();
    open_or_give_up(device, handles);
    const double opened = now_ms();
    close_all(handles);
    const double closed = now_ms();
    open_ms.push_back(opened - start);
    close_ms.push_back(closed - opened);
    both_ms.push_back(closed - start);
  }
  std::printf("open_ms %.3f close_ms %.3f both_ms %.3f\n", median(open_ms), median(close_ms),
              median(both_ms));
}

void limit(int resource, rlim_t value) {
  const rlimit limits = {.rlim_cur = value, .rlim_max = value};
  if (setrlimit(static_cast<__rlimit_resource>(resource), &limits) != 0) {
    give_up("setrlimit", std::strerror(errno));
  }
}

/// Takes away the capability to lock more memory than the limit allows.
void drop_ipc_lock() {
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};
  bool done = syscall(SYS_capget, &header, sets) == 0;
  for (auto* set : {&sets[0].effective, &sets[0].permitted}) *set &= ~(1u << CAP_IPC_LOCK);
  done = done && syscall(SYS_capset, &header, sets) == 0;
  if (!done) give_up("CAP_IPC_LOCK", std::strerror(errno));
}

void locked(const std::string& device) {
  drop_ipc_lock();
  limit(RLIMIT_MEMLOCK, 8 * kMiB);
  // What is mapped before depends on the libraries that libpcap was built with; with MCL_CURRENT it
  // can take most of the limit.
  if (mlockall(MCL_FUTURE) != 0) give_up("mlockall", std::strerror(errno));
  Handles handles;
  const bool opened = open_one(device, handles);
  if (!opened) std::fprintf(stderr, "limits: locked: %s\n", error);
  std::printf("opened %d\n", opened ? 1 : 0);
}

void address(const std::string& device) {
  int count = 0;
  for (rlim_t mib = 40; mib <= 100; mib += 10) {
    const pid_t child = fork();
    if (child < 0) give_up("fork", std::strerror(errno));
    if (child == 0) {
      limit(RLIMIT_AS, mib * kMiB);
      Handles handles;
      const bool opened = open_one(device, handles);
      void* room = opened ? std::malloc(30 * kMiB) : nullptr;
      _exit(room != nullptr ? EXIT_SUCCESS : EXIT_FAILURE);
    }
    int status = 0;
    if (waitpid(child, &status, 0) == child && status == 0) ++count;
  }
  std::printf("allocated %d\n", count);
}

int count_files() {
  DIR* folder = opendir("/proc/self/fd");
  if (folder == nullptr) give_up("/proc/self/fd", std::strerror(errno));
  int count = 0;
  while (readdir(folder) != nullptr) ++count;
  closedir(folder);
  return count;
}

void files(const std::string& device) {
  Handles handles;
  const int before = count_files();
  open_or_give_up(device, handles);
  const int first = count_files();
  open_or_give_up(device, handles);
  const int second = count_files();
  if (pcap_get_selectable_fd(handles.back()) < 0) give_up("pcap_get_selectable_fd", "none");
  std::printf("first_files %d files %d files_given_out %d\n", first - before, second - first,
              count_files() - first);
  close_all(handles);
}

void most(const std::string& device) {
  limit(RLIMIT_NOFILE, 1024);
  Handles handles;
  int count = 0;
  while (open_one(device, handles)) ++count;
  std::fprintf(stderr, "limits: most: %d, then %s\n", count, error);
  std::printf("handles %d\n", count);
  close_all(handles);
}

pcap_t* reading = nullptr;

void on_traffic_end(int) { pcap_breakloop(reading); }

struct Delays {
  double longest_ms = 0;
  double last_stamp_ms = 0;
  unsigned count = 0;
};

void on_packet(u_char* user, const pcap_pkthdr* header, const u_char*) {
  auto* delays = reinterpret_cast<Delays*>(user);
  delays->last_stamp_ms =
      static_cast<double>(header->ts.tv_sec) * 1e3 + static_cast<double>(header->ts.tv_usec) / 1e3;
  delays->longest_ms =
      std::max(delays->longest_ms, clock_ms(CLOCK_REALTIME) - delays->last_stamp_ms);
  ++delays->count;
}

/// A packet that has not come when the traffic ends counts as one that has come by then; about when
/// it was stored is known from the packet before.
void delay(const std::string& device, char** command) {
  Handles handles;
  open_or_give_up(device, handles);
  reading = handles[0];
  struct sigaction action = {};
  action.sa_handler = on_traffic_end;
  sigaction(SIGCHLD, &action, nullptr);
  Delays delays;
  delays.last_stamp_ms = clock_ms(CLOCK_REALTIME);
  const pid_t traffic = fork();
  if (traffic < 0) give_up("fork", std::strerror(errno));
  if (traffic == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execvp(command[0], command);
    _exit(127);
  }
  if (pcap_loop(reading, -1, on_packet, reinterpret_cast<u_char*>(&delays)) != PCAP_ERROR_BREAK) {
    give_up("pcap_loop", pcap_geterr(reading));
  }
  pcap_stat stats = {};
  int status = 0;
  if (pcap_stats(reading, &stats) != 0) give_up("pcap_stats", pcap_geterr(reading));
  if (delays.count < stats.ps_recv - stats.ps_drop) {
    delays.longest_ms =
        std::max(delays.longest_ms, clock_ms(CLOCK_REALTIME) - delays.last_stamp_ms);
  }
  if (waitpid(traffic, &status, 0) != traffic || status != 0) give_up("traffic", "it failed");
  std::printf("delay_ms %.0f delivered %u received %u\n", delays.longest_ms, delays.count,
              stats.ps_recv);
  close_all(handles);
}

}  // namespace

int main(int argc, char** argv) {
  for (int option; (option = getopt(argc, argv, "+ib:t:")) != -1;) {
    switch (option) {
      case 'i':
        options.immediate = true;
        break;
      case 'b':
        options.buffer_kib = std::atoi(optarg);
        break;
      case 't':
        options.timeout_ms = std::atoi(optarg);
        break;
      default:
        return EXIT_FAILURE;
    }
  }
  if (argc - optind < 2) give_up("usage", "limits [OPTION]... MODE DEVICE [COMMAND...]");
  const std::string mode = argv[optind];
  const std::string device = argv[optind + 1];
  if (mode == "memory") {
    memory(device);
  } else if (mode == "open_close") {
    open_close(device);
  } else if (mode == "locked") {
    locked(device);
  } else if (mode == "address") {
    address(device);
  } else if (mode == "files") {
    files(device);
  } else if (mode == "most") {
    most(device);
  } else if (mode == "delay" && argc - optind > 2) {
    delay(device, argv + optind + 2);
  } else {
    give_up(mode.c_str(), "no such mode");
  }
  return EXIT_SUCCESS;
}
