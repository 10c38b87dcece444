// SPDX-License-Identifier: BSD-3-Clause
// What is told and kept of a packet: its time stamp, its length, and so many of its bytes.
#include <algorithm>

#include "capture.h"

namespace pcapv3::live {
namespace {

void time_stamps() {
  const Sender sender = remote();
  for (const bool nano : {false, true}) {
    const int precision = nano ? PCAP_TSTAMP_PRECISION_NANO : PCAP_TSTAMP_PRECISION_MICRO;
    const Handle handle = open_capture({.precision = precision});
    CHECK(pcap_get_tstamp_precision(handle.get()) == precision, "another precision");
    const std::int64_t unit_ns = nano ? 1 : 1000;
    long largest = 0;
    for (std::uint32_t number = 0; number < 50; ++number) {
      const std::int64_t before = static_cast<std::int64_t>(now_ns());
      sender.send(number, 1);
      const timeval stamp = take_until(handle.get(), number).front().header.ts;
      const std::int64_t ns = stamp.tv_sec * std::int64_t{1'000'000'000} + stamp.tv_usec * unit_ns;
      CHECK(ns >= before - unit_ns && ns <= static_cast<std::int64_t>(now_ns()),
            "%lld ns before it was sent, %lld ns ago", static_cast<long long>(before - ns),
            static_cast<long long>(static_cast<std::int64_t>(now_ns()) - ns));
      CHECK(stamp.tv_usec >= 0 && stamp.tv_usec * unit_ns < 1'000'000'000, "%ld",
            static_cast<long>(stamp.tv_usec));
      largest = std::max(largest, static_cast<long>(stamp.tv_usec));
    }
    // 50 stamps, 10 ms and more apart: not all of them in the first millisecond of a second
    CHECK(!nano || largest >= 1'000'000, "%ld is the largest: microseconds", largest);
  }
}

void snapshot_lengths() {
  const Sender sender = remote();
  const std::size_t sizes[] = {60, 1514, 9014, 65549};  // the MTU is 65535
  for (const int snaplen : {1, 64, 65535, kWhole}) {
    for (const char* filter : {static_cast<const char*>(nullptr), ""}) {
      const Handle handle = open_capture({.snaplen = snaplen});
      CHECK(pcap_snapshot(handle.get()) == snaplen, "%d", pcap_snapshot(handle.get()));
      if (filter != nullptr) set_filter(handle.get(), filter);
      for (const std::size_t size : sizes) sender.send({.size = size});
      const Packets packets = take_count(handle.get(), std::size(sizes));
      for (std::size_t i = 0; i < packets.size(); ++i) {
        check_frame(packets[i], {.size = sizes[i]}, snaplen);
      }
    }
  }
}

// ---- Cut in the kernel

/// One read that finds nothing, after which a handle is set up for good.
void first_read(pcap_t* p) {
  set_nonblock(p);
  CHECK(pcap_dispatch(p, -1, keep, nullptr) == 0, "packets on an idle link");
}

constexpr std::uint32_t kFrames = 6000;  // of 1500 bytes: three times the ring

/// Frames fit into a ring of 3 MiB if they are cut at the snapshot length.
void check_cut(pcap_t* p, int snaplen) {
  remote().send(0, kFrames, 1500);
  set_nonblock(p);
  const Packets packets = take_until(p, kFrames - 1);
  CHECK(packets.size() == kFrames, "%zu of %u packets", packets.size(), kFrames);
  for (const Packet& packet : packets) {
    const std::uint32_t number = number_of(packet.bytes);
    check_frame(packet, {.number = number, .size = 1500}, snaplen);
  }
  CHECK(stats_of(p).ps_drop == 0, "ps_drop %u", stats_of(p).ps_drop);
}

void cut_in_kernel() {
  const Handle handle = open_capture({.snaplen = 96, .buffer_bytes = 3 << 20});
  first_read(handle.get());
  check_cut(handle.get(), 96);
}

void cut_after_filter() {
  const Handle handle = open_capture({.snaplen = 96, .buffer_bytes = 3 << 20});
  first_read(handle.get());
  set_filter(handle.get(), "ether proto 0x88b5");
  check_cut(handle.get(), 96);
}

void tiny_snapshot_lengths() {
  for (const int snaplen : {1, 11, 14, 20}) {
    const Handle handle = open_capture({.snaplen = snaplen});
    pcap_t* p = handle.get();
    first_read(p);
    remote().send({.number = 1, .size = 200, .tags = {{.tci = 5}}});
    pollfd ready = {.fd = pcap_get_selectable_fd(p), .events = POLLIN, .revents = 0};
    CHECK(poll(&ready, 1, 5000) == 1, "no packet");
    const Packets packets = take_count(p, 1);
    const Bytes sent = bytes_of({.number = 1, .size = 200, .tags = {{.tci = 5}}});
    CHECK(packets[0].header.len == sent.size(), "len %u", packets[0].header.len);
    CHECK(packets[0].header.caplen == static_cast<unsigned>(snaplen), "caplen %u",
          packets[0].header.caplen);
    CHECK(std::equal(packets[0].bytes.begin(), packets[0].bytes.end(), sent.begin()),
          "other bytes at snapshot length %d", snaplen);
  }
}

const Test kTests[] = {
    {"time stamps", time_stamps},
    {"snapshot lengths", snapshot_lengths},
    {"packets are cut at the snapshot length in the kernel", cut_in_kernel, 20, Stock::kFails},
    {"the same after a filter was set", cut_after_filter, 20, Stock::kNone},
    {"tiny snapshot lengths with a VLAN tag", tiny_snapshot_lengths, 20, Stock::kNone},
};
const Registration kRegistration({.name = "packets",
                                  .tests = kTests,
                                  .modes = "ours off distribution"});

}  // namespace
}  // namespace pcapv3::live
