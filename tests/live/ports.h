// SPDX-License-Identifier: BSD-3-Clause
// What tests of several ports share: frames that tell which port they came in by, what the library
// writes about each port, waiting outside of libpcap, and links that change. The links themselves
// are made by the scripts (netns.sh: make_ports).
#pragma once

#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "capture.h"
#include "frames.h"
#include "harness.h"

namespace pcapv3::live {

inline std::string see(unsigned port) { return "see" + std::to_string(port); }
inline std::string play(unsigned port) { return "play" + std::to_string(port); }

/// The device name of the first `ports` ports.
inline std::string list_of(unsigned ports) {
  std::string list = see(0);
  for (unsigned i = 1; i < ports; ++i) list += "," + see(i);
  return list;
}

/// A frame's number that has its sender in the highest byte; the sender's is its port's if each
/// port has but one.
constexpr std::uint32_t marked(unsigned sender, std::uint32_t number) {
  return sender << 24 | number;
}
constexpr unsigned sender_of(std::uint32_t number) { return number >> 24; }
constexpr std::uint32_t unmarked(std::uint32_t number) { return number & 0xffffff; }

/// Sends what the ports receive.
class Players {
 public:
  explicit Players(unsigned ports, unsigned first = 0) : first_(first) {
    for (unsigned i = 0; i < ports; ++i) {
      senders_.push_back(std::make_unique<Sender>(play(first + i).c_str(), peer()));
    }
  }
  const Sender& operator[](unsigned port) const { return *senders_[port - first_]; }

  /// One on each port, with its mark.
  void send(const Frame& frame) const {
    for (unsigned i = 0; i < senders_.size(); ++i) {
      Frame copy = frame;
      copy.number = marked(first_ + i, frame.number);
      senders_[i]->send(copy);
    }
  }
  /// Frames `first` to `first + count - 1`, each on all ports before the next.
  void send(std::uint32_t first, std::uint32_t count) const {
    for (std::uint32_t i = 0; i < count; ++i) send({.number = first + i});
  }

 private:
  unsigned first_;
  std::vector<std::unique_ptr<Sender>> senders_;
};

/// The packets are frames `first`, `first + step`, ..., `count` of them, of each of the ports 0 to
/// `ports - 1`, every one once; those of a port in their order, and all by time.
inline void check_numbers(const Packets& packets, unsigned ports, std::uint32_t first,
                          std::uint32_t count, std::uint32_t step = 1) {
  std::vector<std::uint32_t> due(ports, first);
  timeval last = {};
  for (const Packet& packet : packets) {
    const std::uint32_t number = number_of(packet.bytes);
    const unsigned port = sender_of(number);
    CHECK(port < ports, "a frame of port %u", port);
    CHECK(unmarked(number) == due[port], "frame %u of port %u came where %u was due",
          unmarked(number), port, due[port]);
    due[port] += step;
    CHECK(!timercmp(&packet.header.ts, &last, <), "frame %u of port %u is out of order",
          unmarked(number), port);
    last = packet.header.ts;
  }
  for (unsigned port = 0; port < ports; ++port) {
    CHECK(due[port] == first + count * step, "frame %u of port %u is the first that did not come",
          due[port], port);
  }
}

/// The same, and each is whole.
inline void check_ports(const Packets& packets, unsigned ports, std::uint32_t first,
                        std::uint32_t count, std::uint32_t step = 1) {
  check_numbers(packets, ports, first, count, step);
  for (const Packet& packet : packets) check_frame(packet, {.number = number_of(packet.bytes)});
}

/// A file in memory for what PCAPV3_STATS or PCAPV3_DEBUG asks for, while it lasts.
class Record {
 public:
  explicit Record(const char* variable) : variable_(variable), fd_(memfd_create(variable, 0)) {
    setenv(variable, ("/proc/self/fd/" + std::to_string(fd_)).c_str(), 1);
  }
  ~Record() {
    unsetenv(variable_);
    close(fd_);
  }
  Record(const Record&) = delete;
  Record& operator=(const Record&) = delete;

  std::string text() const {
    std::string text;
    char bytes[4096];
    ssize_t count;
    while ((count = pread(fd_, bytes, sizeof(bytes), static_cast<off_t>(text.size()))) > 0) {
      text.append(bytes, static_cast<std::size_t>(count));
    }
    return text;
  }

 private:
  const char* variable_;
  int fd_;
};

/// The last line that a record has about a port.
inline std::string line_of(const std::string& text, const std::string& device) {
  const std::size_t at = text.rfind(" " + device + ": ");
  return at == text.npos ? "" : text.substr(at + 1, text.find('\n', at) - at - 1);
}

/// A figure of its summary, by name.
inline unsigned figure(const std::string& text, const std::string& device,
                       const std::string& name) {
  const std::string line = line_of(text, device);
  const std::size_t at = line.find(" " + name + " ");
  CHECK(at != line.npos, "no %s of %s in: %s", name.c_str(), device.c_str(), text.c_str());
  return static_cast<unsigned>(std::stoul(line.substr(at + name.size() + 2)));
}

enum class Waiting { kSelect, kPoll, kEpoll, kEpollEdge };

/// Waits for a descriptor to be readable, in one of the ways that programs have.
class Waiter {
 public:
  Waiter(Waiting how, int fd) : how_(how), fd_(fd) {
    if (how != Waiting::kEpoll && how != Waiting::kEpollEdge) return;
    events_ = epoll_create1(EPOLL_CLOEXEC);
    epoll_event event = {};
    event.events = EPOLLIN;
    if (how == Waiting::kEpollEdge) event.events |= EPOLLET;
    if (events_ < 0 || epoll_ctl(events_, EPOLL_CTL_ADD, fd, &event) != 0) give_up("epoll");
  }
  ~Waiter() {
    if (events_ >= 0) close(events_);
  }
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  bool wait(int timeout_ms) const {
    if (how_ == Waiting::kPoll) return readable(fd_, timeout_ms);
    if (how_ == Waiting::kSelect) return selectable(fd_, timeout_ms);
    epoll_event event = {};
    return epoll_wait(events_, &event, 1, timeout_ms) == 1;
  }

 private:
  Waiting how_;
  int fd_;
  int events_ = -1;
};

/// Runs ip(8), in this network namespace.
inline void ip(const std::string& arguments) {
  const int status = std::system(("ip " + arguments).c_str());
  CHECK(status == 0, "ip %s: status %d", arguments.c_str(), status);
}

/// Its carrier comes back by a work queue of the kernel's: until then frames are dropped.
inline void wait_for_carrier(const std::string& interface) {
  const std::string path = "/sys/class/net/" + interface + "/operstate";
  for (std::string state; state != "up";) std::getline(std::ifstream(path), state);
  // Its other end is ready a little later, but with the lock held that this waits for
  // (link_watch.c: linkwatch_do_dev).
  const std::string number = interface.substr(interface.find_first_of("0123456789"));
  ip("-n " + peer_name() + " link set play" + number + " alias up");
}

/// As the scripts have made it.
inline void make_port(unsigned port) {
  const std::string space = peer_name();
  ip("link add " + play(port) + " netns " + space + " mtu 65535 type veth peer name " + see(port) +
     " mtu 65535");
  ip("link set " + see(port) + " arp off up");
  ip("-n " + space + " link set " + play(port) + " arp off up");
  wait_for_carrier(see(port));
}

/// Reads until the record has `text`, so that the library has done what it tells of.
inline void read_until_told(pcap_t* p, const Record& debug, const std::string& text,
                            Packets& packets) {
  while (debug.text().find(text) == std::string::npos) {
    readable(pcap_get_selectable_fd(p), 20);
    CHECK(pcap_dispatch(p, -1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
  }
}

/// Reads until `count` packets are there.
inline void read_until(pcap_t* p, std::size_t count, Packets& packets) {
  while (packets.size() < count) {
    readable(pcap_get_selectable_fd(p), 100);
    const int taken = pcap_dispatch(p, -1, keep, user(packets));
    CHECK(taken >= 0, "status %d, %s", taken, pcap_geterr(p));
  }
}

/// How many packets are those of `port`, which are frames `first`, `first + step`, ... in order.
inline std::size_t check_port(const Packets& packets, unsigned port, std::uint32_t first,
                              std::uint32_t step = 1) {
  std::size_t count = 0;
  for (const Packet& packet : packets) {
    const std::uint32_t number = number_of(packet.bytes);
    if (sender_of(number) != port) continue;
    CHECK(unmarked(number) == first, "frame %u of port %u came where %u was due", unmarked(number),
          port, first);
    first += step;
    ++count;
  }
  return count;
}

}  // namespace pcapv3::live
