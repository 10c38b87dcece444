// SPDX-License-Identifier: BSD-3-Clause
// Numbered Ethernet frames: how they are made, sent, and told from one another. A frame's number
// decides all its bytes, so that a test can say which frames came, in which order, and whether they
// came whole. Leaves receiving to the tests.
#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace pcapv3::live {

using Bytes = std::vector<std::uint8_t>;
using Mac = std::array<std::uint8_t, ETH_ALEN>;

constexpr std::uint16_t kEtherType = 0x88b5;  // IEEE 802: local experimental
constexpr std::uint32_t kMagic = 0x70763374;
constexpr std::size_t kPayload = 8;  // magic and number
constexpr Mac kBroadcast = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
constexpr Mac kNobody = {0x02, 0, 0, 0, 0, 0x01};    // where frames go
constexpr Mac kSomebody = {0x02, 0, 0, 0, 0, 0x02};  // where they come from

struct Tag {
  std::uint16_t type = ETHERTYPE_VLAN;
  std::uint16_t tci = 0;
};

struct Frame {
  std::uint32_t number = 0;
  std::size_t size = 100;  // without tags
  std::vector<Tag> tags = {};
  Mac destination = kNobody;
};

inline void append16(Bytes& bytes, std::uint16_t value) {
  bytes.push_back(static_cast<std::uint8_t>(value >> 8));
  bytes.push_back(static_cast<std::uint8_t>(value));
}

inline void append32(Bytes& bytes, std::uint32_t value) {
  append16(bytes, static_cast<std::uint16_t>(value >> 16));
  append16(bytes, static_cast<std::uint16_t>(value));
}

inline std::uint16_t read16(const std::uint8_t* bytes) {
  return static_cast<std::uint16_t>(bytes[0] << 8 | bytes[1]);
}

inline std::uint32_t read32(const std::uint8_t* bytes) {
  return std::uint32_t{read16(bytes)} << 16 | read16(bytes + 2);
}

/// The frame as it is on the link.
inline Bytes bytes_of(const Frame& frame) {
  Bytes bytes;
  bytes.reserve(frame.size + 4 * frame.tags.size());
  bytes.insert(bytes.end(), frame.destination.begin(), frame.destination.end());
  bytes.insert(bytes.end(), kSomebody.begin(), kSomebody.end());
  for (const Tag& tag : frame.tags) {
    append16(bytes, tag.type);
    append16(bytes, tag.tci);
  }
  append16(bytes, kEtherType);
  append32(bytes, kMagic);
  append32(bytes, frame.number);
  while (bytes.size() < frame.size + 4 * frame.tags.size()) {
    bytes.push_back(static_cast<std::uint8_t>(frame.number * 31 + bytes.size()));
  }
  return bytes;
}

[[noreturn]] inline void give_up(const char* what) {
  std::printf("# %s: %s\n", what, std::strerror(errno));
  std::fflush(stdout);
  _exit(EXIT_FAILURE);
}

/// Calls `function` in the network namespace at `path`, in a thread that goes there alone. Sockets
/// that it opens stay in that namespace.
template <typename Function>
void in_namespace(const char* path, Function function) {
  std::thread([&] {
    const int space = open(path, O_RDONLY | O_CLOEXEC);
    if (space < 0 || setns(space, CLONE_NEWNET) != 0) give_up(path);
    close(space);
    function();
  }).join();
}

/// Keeps this thread on its CPU, so that what it sends comes in order: a veth queues frames on the
/// CPU that sends them (net/core/dev.c: enqueue_to_backlog), and those of two CPUs may overtake one
/// another when the machine has much to do.
inline void stay_on_cpu() {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  if (sched_setaffinity(0, sizeof(one), &one) != 0) give_up("sched_setaffinity");
}

/// Sends frames out of an interface, in this network namespace or in the one at `namespace_path`.
class Sender {
 public:
  explicit Sender(const char* interface, const char* namespace_path = nullptr) {
    if (namespace_path == nullptr) {
      open_socket(interface);
    } else {
      in_namespace(namespace_path, [&] { open_socket(interface); });
    }
  }
  Sender(const Sender&) = delete;
  Sender& operator=(const Sender&) = delete;
  ~Sender() { close(fd_); }

  unsigned index() const { return index_; }
  const Mac& mac() const { return mac_; }

  /// False if the interface did not take it, errno says why.
  bool try_send(const Bytes& bytes) const {
    return ::send(fd_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size());
  }
  void send(const Frame& frame) const {
    if (!try_send(bytes_of(frame))) give_up("send");
  }
  /// Frames `first` to `first + count - 1`.
  void send(std::uint32_t first, std::uint32_t count, std::size_t size = 100) const {
    for (std::uint32_t i = 0; i < count; ++i) send({.number = first + i, .size = size});
  }

 private:
  void open_socket(const char* interface) {
    // Protocol 0: it sends, and receives nothing.
    fd_ = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    ifreq request = {};
    std::snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", interface);
    if (fd_ < 0 || ioctl(fd_, SIOCGIFINDEX, &request) != 0) give_up(interface);
    index_ = static_cast<unsigned>(request.ifr_ifindex);
    sockaddr_ll address = {};
    address.sll_family = AF_PACKET;
    address.sll_ifindex = request.ifr_ifindex;
    if (bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
        ioctl(fd_, SIOCGIFHWADDR, &request) != 0) {
      give_up(interface);
    }
    std::copy_n(request.ifr_hwaddr.sa_data, mac_.size(), mac_.begin());
  }

  int fd_ = -1;
  unsigned index_ = 0;
  Mac mac_ = {};
};

}  // namespace pcapv3::live
