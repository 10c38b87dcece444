// SPDX-License-Identifier: BSD-3-Clause
// Opening and closing handles, and several of them at once.
#include <fstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "capture.h"
#include "interposed.h"

namespace pcapv3::live {
namespace {

void version() {
  const std::string text = pcap_lib_version();
  const bool has_module = text.find("pcap-linux-v3") != std::string::npos;
  CHECK(text.starts_with("libpcap version "), "%s", text.c_str());
  CHECK(has_module != is_mode("distribution"), "%s", text.c_str());
}

void check_opened(pcap_t* p) {
  CHECK(pcap_datalink(p) == DLT_EN10MB, "%d", pcap_datalink(p));
  CHECK(pcap_fileno(p) >= 0, "%d", pcap_fileno(p));
  CHECK(pcap_get_selectable_fd(p) >= 0, "%d", pcap_get_selectable_fd(p));
  CHECK(pcap_get_required_select_timeout(p) == nullptr, "a time-out is required");
  CHECK(pcap_file(p) == nullptr, "a live capture has a file");
  remote().send(0, 10);
  check_sequence(take_until(p, 9), 0, 9);
}

void open_live() {
  char error[PCAP_ERRBUF_SIZE] = "";
  const Handle handle(pcap_open_live("see0", 1000, 1, 10, error));
  CHECK(handle != nullptr, "%s", error);
  CHECK(pcap_snapshot(handle.get()) == 1000, "%d", pcap_snapshot(handle.get()));
  check_opened(handle.get());
}

void create_and_activate() {
  const Handle handle = create({.snaplen = 2000});
  pcap_t* p = handle.get();
  CHECK(pcap_set_promisc(p, 1) == 0, "%s", pcap_geterr(p));
  CHECK(pcap_activate(p) == 0, "%s", pcap_geterr(p));
  CHECK(pcap_snapshot(p) == 2000, "%d", pcap_snapshot(p));
  check_opened(p);
}

std::size_t count_mappings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) ++count;
  return count;
}

void no_leaks() {
  const Sender sender = remote();
  std::size_t descriptors = 0;
  std::size_t mappings = 0;
  for (std::uint32_t i = 0; i < 100; ++i) {
    const Handle handle = open_capture({.immediate = i % 4 == 1, .buffer_bytes = 4 << 20});
    sender.send(i, 1);
    take_until(handle.get(), i);
    if (i % 4 == 2) set_nonblock(handle.get());
    if (i == 11) {  // what is set up once has been, and as many are immediate as at the end
      descriptors = count_descriptors();
      mappings = count_mappings();
    }
    if (i == 99) {
      CHECK(count_descriptors() == descriptors, "%zu, not %zu", count_descriptors(), descriptors);
      CHECK(count_mappings() == mappings, "%zu, not %zu", count_mappings(), mappings);
    }
  }
}

void two_threads() {
  constexpr std::uint32_t kLast = 9999;
  const Handle handles[] = {open_capture({.buffer_bytes = 16 << 20}),
                            open_capture({.buffer_bytes = 16 << 20})};
  std::vector<std::thread> threads;
  for (const Handle& handle : handles) {
    threads.emplace_back([&] { check_sequence(take_until(handle.get(), kLast), 0, kLast); });
  }
  remote().send(0, kLast + 1);
  for (std::thread& thread : threads) thread.join();
}

void unmapped_once() {
  Handle handle = open_capture();
  interposed::large_unmaps = 0;
  handle.reset();
  CHECK(interposed::large_unmaps == 1, "%d times", interposed::large_unmaps.load());
}

void sixteen_handles() {
  std::vector<Handle> handles;
  for (int i = 0; i < 16; ++i) handles.push_back(open_capture());
  remote().send(0, 1000);
  for (const Handle& handle : handles) check_sequence(take_until(handle.get(), 999), 0, 999);
}

const Test kTests[] = {
    {"pcap_lib_version names the library", version},
    {"pcap_open_live", open_live},
    {"pcap_create and pcap_activate", create_and_activate},
    {"100 handles leave nothing behind", no_leaks, 40},
    {"two threads with a handle each", two_threads},
    {"a ring is unmapped once", unmapped_once, 20, Stock::kNone},
    {"sixteen handles at once all get every packet", sixteen_handles, 30, Stock::kNone},
};
const Registration kRegistration({.name = "opening",
                                  .tests = kTests,
                                  .modes = "ours off distribution"});

}  // namespace
}  // namespace pcapv3::live
