// SPDX-License-Identifier: BSD-3-Clause
// Frames all the time, on a thread of their own.
#pragma once

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "capture.h"

namespace pcapv3::live {

/// Sends numbered frames until it is told to stop.
class Traffic {
 public:
  struct Shape {
    const char* interface = "play0";
    std::uint32_t first = 0;
    std::size_t size = 100;
    unsigned pause_us = 0;  ///< After each; 0: as fast as it can.
    unsigned a_second = 0;  ///< About so many, in place of a pause.
  };

  explicit Traffic(const Shape& shape)
      : sender_(shape.interface, peer()),
        next_(shape.first),
        thread_([this, shape] { send(shape); }) {}
  Traffic(const Traffic&) = delete;
  Traffic& operator=(const Traffic&) = delete;
  ~Traffic() { stop(); }

  /// The number of the first frame that has not been sent.
  std::uint32_t next() const { return next_; }
  std::uint32_t stop() {
    over_ = true;
    if (thread_.joinable()) thread_.join();
    return next_;
  }
  void wait_for(std::uint32_t more) const {
    const std::uint32_t until = next_ + more;
    while (next_ < until) std::this_thread::yield();
  }

 private:
  void send(const Shape& shape) {
    const auto start = Clock::now();
    while (!over_) {
      sender_.send({.number = next_, .size = shape.size});
      ++next_;
      if (shape.pause_us != 0) usleep(shape.pause_us);
      if (shape.a_second == 0) continue;
      const auto due = start + std::chrono::nanoseconds((next_ - shape.first) *
                                                        (1'000'000'000ull / shape.a_second));
      while (!over_ && Clock::now() < due) {
        if (due - Clock::now() > std::chrono::milliseconds(1)) {
          std::this_thread::sleep_for(std::chrono::microseconds(200));
        }
      }
    }
  }

  const Sender sender_;
  std::atomic<std::uint32_t> next_;
  std::atomic<bool> over_ = false;
  std::thread thread_;
};

}  // namespace pcapv3::live
