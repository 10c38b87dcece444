// SPDX-License-Identifier: BSD-3-Clause
// A load that is quiet and busy by turns, and the eye that sees whether all of it comes out of a
// capture: each frame once and whole, in order. Leaves opening and reading to the tests.
//
// The frames are IPv4 with UDP, so that tcpdump has one line for each, and carry their number as
// the source address.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "capture.h"
#include "frames.h"
#include "harness.h"
#include "ports.h"

namespace pcapv3::live {

/// Has this thread stay on one processor, the same for all who ask: frames then come in the order
/// in which they are sent, and two of them do not meet on their way.
inline void pin() {
  cpu_set_t set;
  CPU_ZERO(&set);
  CHECK(sched_getaffinity(0, sizeof(set), &set) == 0, "%s", std::strerror(errno));
  int first = 0;
  while (!CPU_ISSET(first, &set)) ++first;
  CPU_ZERO(&set);
  CPU_SET(first, &set);
  CHECK(sched_setaffinity(0, sizeof(set), &set) == 0, "%s", std::strerror(errno));
}

/// Bytes of the frames of a load; the last of all has one more.
constexpr std::size_t kLoadSize = 100;
// Where a frame has its number, and what that decides.
constexpr std::size_t kLoadNumber = 26;
constexpr std::size_t kLoadFill = 42;

/// A frame of a load that can have one number after the other.
class LoadFrame {
 public:
  explicit LoadFrame(std::size_t size) {
    const auto ip_length = static_cast<std::uint16_t>(size - ETH_HLEN);
    bytes_.insert(bytes_.end(), kNobody.begin(), kNobody.end());
    bytes_.insert(bytes_.end(), kSomebody.begin(), kSomebody.end());
    for (const std::uint16_t word :
         {std::uint16_t{ETHERTYPE_IP}, std::uint16_t{0x4500}, ip_length, std::uint16_t{0},
          std::uint16_t{0}, std::uint16_t{64 << 8 | 17}, std::uint16_t{0}}) {
      append16(bytes_, word);
    }
    append32(bytes_, 0);
    append32(bytes_, 0x0a000002);
    append32(bytes_, 9 << 16 | 9);  // the discard service
    append16(bytes_, static_cast<std::uint16_t>(ip_length - 20));
    bytes_.resize(size);
  }
  const Bytes& numbered(std::uint32_t number) {
    for (unsigned i = 0; i < 4; ++i) {
      bytes_[kLoadNumber + i] = static_cast<std::uint8_t>(number >> (24 - 8 * i));
    }
    for (std::size_t at = kLoadFill; at < bytes_.size(); ++at) {
      bytes_[at] = static_cast<std::uint8_t>(number * 31 + at);
    }
    return bytes_;
  }

 private:
  Bytes bytes_;
};

/// What has come of a load. Fails the test at once if it is not what is due.
class Seen {
 public:
  explicit Seen(unsigned ports = 1) : due_(ports, 0) {}

  /// The handle has nanoseconds.
  void take(const pcap_pkthdr& header, const u_char* data) {
    CHECK(header.caplen == header.len && header.len >= kLoadSize && data[13] == 0,
          "a packet of %u bytes, %u of them captured", header.len, header.caplen);
    const std::uint32_t number = read32(data + kLoadNumber);
    bool same = true;
    for (std::size_t at = kLoadFill; at < header.len; ++at) {
      same &= data[at] == static_cast<std::uint8_t>(number * 31 + at);
    }
    CHECK(same, "frame %x has other bytes than it was sent with", number);
    take(number, header.len, stamp_ns(header));
  }
  void take(std::uint32_t number, std::size_t size, std::uint64_t stamp_ns) {
    const unsigned port = sender_of(number);
    CHECK(port < due_.size(), "a frame of port %u", port);
    CHECK(unmarked(number) == unmarked(due_[port]), "frame %u of port %u came where %u was due",
          unmarked(number), port, unmarked(due_[port]));
    CHECK(stamp_ns >= last_ns_, "frame %u of port %u is %.6f ms older than the one before",
          unmarked(number), port, static_cast<double>(last_ns_ - stamp_ns) / 1e6);
    last_ns_ = stamp_ns;
    ++due_[port];
    ended_ += size == kLoadSize + 1;
    count_.fetch_add(1, std::memory_order_relaxed);
  }
  static void callback(u_char* seen, const pcap_pkthdr* header, const u_char* data) {
    reinterpret_cast<Seen*>(seen)->take(*header, data);
  }

  /// Whether the last frame of every port has come.
  bool ended() const { return ended_ == due_.size(); }
  std::uint32_t count() const { return count_.load(std::memory_order_relaxed); }
  std::uint32_t count(unsigned port) const { return due_[port]; }

 private:
  std::vector<std::uint32_t> due_;  // by port
  std::uint64_t last_ns_ = 0;
  std::size_t ended_ = 0;
  std::atomic<std::uint32_t> count_ = 0;
};

/// Sends such a load on each of some ports. Ten times a second, if not told otherwise, it is quiet,
/// with 500 frames a second, and then busy, as fast as the link takes them, but never so far ahead
/// of the reader that no ring could hold it.
class Load {
 public:
  struct Shape {
    unsigned ports = 1;
    bool in_turn = false;  ///< Every other port is quiet while the rest are busy.
    double seconds = 1;
    std::uint32_t most_ahead = 20000;
    unsigned quiet_ms = 50;
    unsigned busy_ms = 50;
  };

  Load(const Shape& shape, const Seen& seen) : shape_(shape), seen_(seen) {
    for (unsigned port = 0; port < shape.ports; ++port) {
      senders_.push_back(std::make_unique<Sender>(play(port).c_str(), peer()));
      threads_.emplace_back([this, port] { send(port); });
    }
  }
  ~Load() {
    for (std::thread& thread : threads_) thread.join();
  }
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

 private:
  void send(unsigned port) {
    using std::chrono::milliseconds;
    constexpr milliseconds kPause(2);
    pin();
    const Sender& sender = *senders_[port];
    LoadFrame frame(kLoadSize);
    std::uint32_t number = 0;
    const auto send_one = [&] {
      if (!sender.try_send(frame.numbered(marked(port, unmarked(number++))))) give_up("send");
      sent_.fetch_add(1, std::memory_order_relaxed);
    };
    bool busy = shape_.in_turn && port % 2 == 1;
    auto until = Clock::now();
    const auto end = until + std::chrono::duration<double>(shape_.seconds);
    while (until < end) {
      until += milliseconds(busy ? shape_.busy_ms : shape_.quiet_ms);
      while (Clock::now() < until) {
        if (busy && sent_.load(std::memory_order_relaxed) < seen_.count() + shape_.most_ahead) {
          for (int i = 0; i < 32; ++i) send_one();
        } else if (busy) {
          std::this_thread::sleep_for(std::chrono::microseconds(100));
        } else {
          std::this_thread::sleep_for(kPause);
          send_one();
        }
      }
      busy = !busy;
    }
    LoadFrame last(kLoadSize + 1);
    if (!sender.try_send(last.numbered(marked(port, unmarked(number))))) give_up("send");
  }

  const Shape shape_;
  const Seen& seen_;
  std::atomic<std::uint32_t> sent_ = 0;
  std::vector<std::unique_ptr<Sender>> senders_;
  std::vector<std::thread> threads_;
};

}  // namespace pcapv3::live
