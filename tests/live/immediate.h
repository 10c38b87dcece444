// SPDX-License-Identifier: BSD-3-Clause
// What tests of immediate mode share: a handle that knows whether it adapts, and what the library
// says of it at its end. Each holds for the kinds of immediate mode that have one ring, too
// (MODES="v3 off" tests/live/run immediate).
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "capture.h"
#include "ports.h"

namespace pcapv3::live {

using std::chrono::milliseconds;

/// Whether the handles that are opened now adapt.
inline bool is_adaptive() {
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
  // Slots are of the snapshot length. Stock libpcap gets many, so that it loses nothing; a handle
  // that adapts gets few, so that a flood comes by both rings.
  explicit Capture(Options options = {.snaplen = 2000}) : device_(options.device) {
    options.immediate = true;
    if (adaptive_ && options.snaplen >= 2000) {
      options.snaplen = 70'000;
    } else if (!adaptive_ && options.buffer_bytes == 0) {
      options.buffer_bytes = 64 << 20;
    }
    handle_ = open_capture(options);
  }
  operator pcap_t*() const { return handle_.get(); }

  /// Closes it, and checks its statistics, and how many packets came by the frame ring, where there
  /// is one: the first may come before the first read, which opens that. `undelivered`: at most so
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

inline int dispatch(pcap_t* p, int count, Packets& packets) {
  const int taken = pcap_dispatch(p, count, keep, user(packets));
  CHECK(taken >= 0, "status %d, %s", taken, pcap_geterr(p));
  return taken;
}

/// Reads all that can be had now.
inline void take_all(pcap_t* p, Packets& packets) {
  while (dispatch(p, -1, packets) > 0) {
  }
}

/// Sends frames one by one and takes each before the next: quiet traffic.
inline void trickle(pcap_t* p, const Sender& sender, std::uint32_t first, std::uint32_t count) {
  for (std::uint32_t i = first; i < first + count; ++i) {
    sender.send({.number = i});
    check_sequence(take_until(p, i), i, i);
  }
}

/// Frames in a flood, which no frame ring holds.
constexpr std::uint32_t kFlood = 2000;

constexpr std::size_t kLargest = 65549;  // the MTU and an Ethernet header

inline Frame small_or_large(std::uint32_t number) {
  return {.number = number, .size = number % 5 == 0 ? kLargest : 100};
}

}  // namespace pcapv3::live
