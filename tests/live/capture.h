// SPDX-License-Identifier: BSD-3-Clause
// What tests do with a libpcap handle: open it, take frames from it, compare them with those sent.
// Leaves making and sending frames to frames.h.
#pragma once

#include <dirent.h>
#include <pcap.h>
#include <poll.h>
#include <sys/select.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>

#include "frames.h"
#include "harness.h"

namespace pcapv3::live {

struct CloseHandle {
  void operator()(pcap_t* handle) const { pcap_close(handle); }
};
using Handle = std::unique_ptr<pcap_t, CloseHandle>;

/// Sends what see0 receives.
inline Sender remote() { return Sender("play0", peer()); }
/// Sends out of see0.
inline Sender local() { return Sender("see0"); }

constexpr char kOdd[] = "ether[21] & 1 = 1";  // the lowest byte of a frame's number
constexpr char kEven[] = "ether[21] & 1 = 0";

constexpr int kWhole = 262144;  // the largest snapshot length libpcap takes

struct Options {
  const char* device = "see0";
  int snaplen = kWhole;
  int timeout_ms = 10;
  bool immediate = false;
  int buffer_bytes = 0;  // 0: the library's own choice
  int precision = PCAP_TSTAMP_PRECISION_MICRO;
};

/// A handle with its options set, not activated.
inline Handle create(const Options& options = {}) {
  char error[PCAP_ERRBUF_SIZE] = "";
  Handle handle(pcap_create(options.device, error));
  CHECK(handle != nullptr, "%s", error);
  pcap_t* p = handle.get();
  CHECK(pcap_set_snaplen(p, options.snaplen) == 0, "%s", pcap_geterr(p));
  CHECK(pcap_set_timeout(p, options.timeout_ms) == 0, "%s", pcap_geterr(p));
  CHECK(pcap_set_immediate_mode(p, options.immediate) == 0, "%s", pcap_geterr(p));
  CHECK(pcap_set_buffer_size(p, options.buffer_bytes) == 0, "%s", pcap_geterr(p));
  CHECK(pcap_set_tstamp_precision(p, options.precision) == 0, "%s", pcap_geterr(p));
  return handle;
}

inline Handle open_capture(const Options& options = {}) {
  Handle handle = create(options);
  const int status = pcap_activate(handle.get());
  CHECK(status == 0, "status %d, %s", status, pcap_geterr(handle.get()));
  return handle;
}

inline void set_nonblock(pcap_t* p) {
  char error[PCAP_ERRBUF_SIZE] = "";
  CHECK(pcap_setnonblock(p, 1, error) == 0, "%s", error);
}

inline void set_filter(pcap_t* p, const char* expression) {
  bpf_program program;
  CHECK(pcap_compile(p, &program, expression, 1, PCAP_NETMASK_UNKNOWN) == 0, "%s: %s", expression,
        pcap_geterr(p));
  const int status = pcap_setfilter(p, &program);
  pcap_freecode(&program);
  CHECK(status == 0, "%s: %s", expression, pcap_geterr(p));
}

/// Sets kOdd as a filter too long for the kernel, which takes 4096 instructions (BPF_MAXINSNS);
/// libpcap then filters by itself and says so on standard error.
inline void set_long_filter(pcap_t* p) {
  std::vector<bpf_insn> code(5000, bpf_insn(BPF_STMT(BPF_LD | BPF_IMM, 1)));
  code.push_back(BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 21));
  code.push_back(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 1, 0, 1));
  code.push_back(BPF_STMT(BPF_RET | BPF_K, kWhole));
  code.push_back(BPF_STMT(BPF_RET | BPF_K, 0));
  bpf_program program = {.bf_len = static_cast<u_int>(code.size()), .bf_insns = code.data()};
  CHECK(pcap_setfilter(p, &program) == 0, "%s", pcap_geterr(p));
}

inline void set_direction(pcap_t* p, pcap_direction_t direction) {
  CHECK(pcap_setdirection(p, direction) == 0, "%s", pcap_geterr(p));
}

inline std::vector<int> datalinks_of(pcap_t* p) {
  int* list = nullptr;
  const int count = pcap_list_datalinks(p, &list);
  CHECK(count >= 0, "%s", pcap_geterr(p));
  std::vector<int> types(list, list + count);
  pcap_free_datalinks(list);
  return types;
}

inline void set_datalink(pcap_t* p, int type) {
  CHECK(pcap_set_datalink(p, type) == 0, "%s", pcap_geterr(p));
  CHECK(pcap_datalink(p) == type, "%d, not %d", pcap_datalink(p), type);
}

struct Packet {
  pcap_pkthdr header;
  Bytes bytes;

  Packet(const pcap_pkthdr& packet_header, const u_char* data)
      : header(packet_header), bytes(data, data + packet_header.caplen) {}
};
using Packets = std::vector<Packet>;

inline void keep(u_char* packets, const pcap_pkthdr* header, const u_char* data) {
  reinterpret_cast<Packets*>(packets)->emplace_back(*header, data);
}

inline u_char* user(Packets& packets) { return reinterpret_cast<u_char*>(&packets); }

/// The number of a captured frame. Fails the test if it is none of ours: links carry nothing else.
inline std::uint32_t number_of(const Bytes& bytes) {
  for (std::size_t at = 0; at + kPayload <= bytes.size() && at < 64; ++at) {
    if (read32(&bytes[at]) == kMagic) return read32(&bytes[at + 4]);
  }
  fail(__FILE__, __LINE__, "number_of", "a frame of %zu bytes that no test sent", bytes.size());
}

/// Takes frames by pcap_dispatch until the one with the number `last` has come. It blocks as the
/// handle does; the test's time limit is the only other end.
inline Packets take_until(pcap_t* p, std::uint32_t last) {
  Packets packets;
  while (packets.empty() || number_of(packets.back().bytes) != last) {
    pollfd ready = {.fd = pcap_get_selectable_fd(p), .events = POLLIN, .revents = 0};
    if (pcap_getnonblock(p, nullptr) == 1) poll(&ready, 1, 100);
    const std::size_t before = packets.size();
    const int taken = pcap_dispatch(p, -1, keep, user(packets));
    CHECK(taken >= 0, "status %d, %s", taken, pcap_geterr(p));
    CHECK(static_cast<std::size_t>(taken) == packets.size() - before, "%d, but %zu callbacks",
          taken, packets.size() - before);
  }
  return packets;
}

/// Takes `count` frames, whatever is in them.
inline Packets take_count(pcap_t* p, std::size_t count) {
  Packets packets;
  while (packets.size() < count) {
    const int taken =
        pcap_dispatch(p, static_cast<int>(count - packets.size()), keep, user(packets));
    CHECK(taken >= 0, "status %d, %s", taken, pcap_geterr(p));
  }
  return packets;
}

/// The packet is `frame`, cut off at the snapshot length.
inline void check_frame(const Packet& packet, const Frame& frame, int snaplen = kWhole) {
  const Bytes sent = bytes_of(frame);
  const std::size_t caplen = std::min(sent.size(), static_cast<std::size_t>(snaplen));
  CHECK(packet.header.len == sent.size(), "len %u of frame %u, sent with %zu", packet.header.len,
        frame.number, sent.size());
  CHECK(packet.header.caplen == caplen, "caplen %u of frame %u, not %zu", packet.header.caplen,
        frame.number, caplen);
  CHECK(std::equal(packet.bytes.begin(), packet.bytes.end(), sent.begin()),
        "frame %u has other bytes than it was sent with", frame.number);
}

/// The packets are frames `first`, `first + step`, ... up to `last`, each whole and once, in order.
inline void check_sequence(const Packets& packets, std::uint32_t first, std::uint32_t last,
                           std::uint32_t step = 1, std::size_t size = 100) {
  std::uint32_t expected = first;
  for (const Packet& packet : packets) {
    const std::uint32_t number = number_of(packet.bytes);
    CHECK(number == expected, "frame %u came where %u was due", number, expected);
    check_frame(packet, {.number = number, .size = size});
    expected += step;
  }
  CHECK(expected == last + step, "frame %u is the first that did not come", expected);
}

inline pcap_stat stats_of(pcap_t* p) {
  pcap_stat stats = {};
  CHECK(pcap_stats(p, &stats) == 0, "%s", pcap_geterr(p));
  return stats;
}

/// Waits until `count` frames have come to the handle's ring, read or not.
inline void wait_until_received(pcap_t* p, unsigned count) {
  while (stats_of(p).ps_recv < count) std::this_thread::yield();
}

/// Sends large frames that nobody reads until the ring has no room for them; returns how many.
inline std::uint32_t overrun(pcap_t* p, const Sender& sender, std::uint32_t first) {
  constexpr std::uint32_t kBatch = 500;
  const unsigned dropped = stats_of(p).ps_drop;
  std::uint32_t sent = 0;
  while (stats_of(p).ps_drop == dropped) {
    sender.send(first + sent, kBatch, 1400);
    sent += kBatch;
  }
  return sent;
}

inline bool readable(int fd, int timeout_ms) {
  pollfd ready = {.fd = fd, .events = POLLIN, .revents = 0};
  return poll(&ready, 1, timeout_ms) == 1 && (ready.revents & POLLIN) != 0;
}

inline bool selectable(int fd, int timeout_ms) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(fd, &set);
  timeval limit = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000};
  return select(fd + 1, &set, nullptr, nullptr, &limit) == 1 && FD_ISSET(fd, &set);
}

/// How many rings this process has mapped.
inline std::size_t count_rings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) count += line.find("socket:[") != line.npos;
  return count;
}

inline bool is_promiscuous(const std::string& interface) {
  std::string flags;
  std::getline(std::ifstream("/sys/class/net/" + interface + "/flags"), flags);
  return (std::stoul(flags, nullptr, 16) & IFF_PROMISC) != 0;
}

/// How many descriptors this process has.
inline std::size_t count_descriptors() {
  std::size_t count = 0;
  DIR* directory = opendir("/proc/self/fd");
  CHECK(directory != nullptr, "%s", std::strerror(errno));
  while (readdir(directory) != nullptr) ++count;
  closedir(directory);
  return count - 3;  // ".", ".." and the directory's own
}

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// CLOCK_REALTIME, as packets are stamped.
inline std::uint64_t now_ns() {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

/// Of a handle with nanoseconds.
inline std::uint64_t stamp_ns(const pcap_pkthdr& header) {
  return static_cast<std::uint64_t>(header.ts.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(header.ts.tv_usec);
}

/// Waits until a thread, of this process or another, sleeps, as one does that waits for packets.
inline void wait_until_asleep(pid_t thread) {
  const std::string path = "/proc/" + std::to_string(thread) + "/stat";
  for (char state = 0; state != 'S';) {
    std::string line;
    std::getline(std::ifstream(path), line);
    state =
        line.at(line.rfind(')') + 2);  // proc(5): the name may hold spaces, but not what follows
    std::this_thread::yield();
  }
}

}  // namespace pcapv3::live
