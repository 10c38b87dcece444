// SPDX-License-Identifier: BSD-3-Clause
// A ring that grows: each packet comes once and in order, or is counted as dropped, and what must
// not be changed under the program stays.
#include <pcap/linux-v3.h>
#include <sys/wait.h>

#include <algorithm>
#include <optional>

#include "capture.h"
#include "traffic.h"

namespace pcapv3::live {
namespace {

constexpr std::size_t kSmall = std::size_t{5} << 20;   // no first ring is larger
constexpr std::size_t kGrown = std::size_t{16} << 20;  // no later one is smaller
// Large enough that a slow sender, too, sends what makes a ring grow: 10 MB/s.
constexpr std::size_t kLargeFrame = 1400;

/// The bytes of the largest ring that this process has mapped.
std::size_t ring_bytes() {
  std::ifstream maps("/proc/self/maps");
  std::size_t largest = 0;
  for (std::string line; std::getline(maps, line);) {
    if (line.find("socket:[") == line.npos) continue;
    std::size_t dash = 0;
    const std::size_t from = std::stoul(line, &dash, 16);
    largest = std::max(largest, std::stoul(line.substr(dash + 1), nullptr, 16) - from);
  }
  return largest;
}

/// Checks the numbers of the frames that come from several senders, each of which counts from a
/// number of its own. Gaps are allowed, and counted.
class Numbers {
 public:
  static constexpr std::uint32_t kApart = 1u << 30;

  void add(std::uint32_t number) {
    std::optional<std::uint32_t>& last = last_[number / kApart];
    const std::uint32_t due = last.has_value() ? *last + 1 : number / kApart * kApart;
    CHECK(number >= due, "frame %u after %u", number, due - 1);
    missing_ += number - due;
    last = number;
    ++count_;
  }
  std::uint64_t count() const { return count_; }
  std::uint64_t missing() const { return missing_; }
  bool has(std::uint32_t number) const {
    const std::optional<std::uint32_t>& last = last_[number / kApart];
    return last.has_value() && *last >= number;
  }

 private:
  std::optional<std::uint32_t> last_[4];
  std::uint64_t count_ = 0;
  std::uint64_t missing_ = 0;
};

std::uint32_t number_at(const pcap_pkthdr& header, const u_char* bytes) {
  for (std::size_t at = 0; at + kPayload <= header.caplen && at < 64; ++at) {
    if (read32(bytes + at) == kMagic) return read32(bytes + at + 4);
  }
  fail(__FILE__, __LINE__, "number_at", "a frame of %u bytes that no test sent", header.caplen);
}

void count(u_char* numbers, const pcap_pkthdr* header, const u_char* bytes) {
  reinterpret_cast<Numbers*>(numbers)->add(number_at(*header, bytes));
}

void read(pcap_t* p, Numbers& numbers) {
  const int status = pcap_dispatch(p, -1, count, reinterpret_cast<u_char*>(&numbers));
  CHECK(status >= 0, "status %d, %s", status, pcap_geterr(p));
}

/// Reads until the ring has at least `bytes`, and some frames more.
void read_until_grown(pcap_t* p, Numbers& numbers, std::size_t bytes) {
  for (std::uint64_t looked = 0; ring_bytes() < bytes;) {
    looked = numbers.count();
    while (numbers.count() < looked + 5000) read(p, numbers);
  }
  const std::uint64_t enough = numbers.count() + 100'000;
  while (numbers.count() < enough) read(p, numbers);
}

void check_counts(pcap_t* p, const Numbers& numbers, std::uint64_t sent) {
  const pcap_stat stats = stats_of(p);
  CHECK(numbers.count() + numbers.missing() == sent, "%llu came and %llu did not, of %llu",
        static_cast<unsigned long long>(numbers.count()),
        static_cast<unsigned long long>(numbers.missing()), static_cast<unsigned long long>(sent));
  CHECK(numbers.missing() == stats.ps_drop, "%llu are missing, %u were dropped",
        static_cast<unsigned long long>(numbers.missing()), stats.ps_drop);
  CHECK(stats.ps_recv == sent, "%u received, of %llu", stats.ps_recv,
        static_cast<unsigned long long>(sent));
}

/// Sends from two threads as fast as they can, until the ring has grown.
void grow_under_load(const char* device) {
  const Handle handle = open_capture({.device = device, .timeout_ms = 100});
  pcap_t* p = handle.get();
  Numbers numbers;
  Traffic one({.size = kLargeFrame});
  Traffic two({.first = Numbers::kApart, .size = 80});
  CHECK(ring_bytes() <= kSmall, "%zu bytes at first", ring_bytes());
  read_until_grown(p, numbers, kGrown);
  const std::uint32_t ends[] = {one.stop() - 1, two.stop() - 1};
  while (!numbers.has(ends[0]) || !numbers.has(ends[1])) read(p, numbers);
  check_counts(p, numbers, std::uint64_t{ends[0]} + 1 + (ends[1] - Numbers::kApart) + 1);
}

void under_load() { grow_under_load("see0"); }

void after_a_stall() {
  const Handle handle = open_capture({.timeout_ms = 100});
  pcap_t* p = handle.get();
  Numbers numbers;
  const Sender sender = remote();
  const std::uint32_t sent = overrun(p, sender, 0);
  while (numbers.count() + stats_of(p).ps_drop < sent) read(p, numbers);
  std::uint32_t next = sent;
  // What came while nobody read shows that the ring was too small: it grows as frames come.
  while (ring_bytes() < kGrown) {
    sender.send(next, 500, kLargeFrame);
    next += 500;
    while (!numbers.has(next - 1)) read(p, numbers);
  }
  for (int i = 0; i < 20; ++i, next += 500) {
    sender.send(next, 500, kLargeFrame);
    while (!numbers.has(next + 499)) read(p, numbers);
  }
  check_counts(p, numbers, next);
}

void with_a_filter() {
  const Handle handle = open_capture({.timeout_ms = 100});
  pcap_t* p = handle.get();
  set_filter(p, kOdd);
  Packets packets;
  Traffic traffic({.size = kLargeFrame});
  std::uint32_t due = 1;
  while (ring_bytes() < kGrown || due < 200'000) {
    for (const Packet& packet : take_count(p, 1000)) {
      const std::uint32_t number = number_of(packet.bytes);
      CHECK(number >= due && number % 2 == 1, "frame %u where %u was due", number, due);
      due = number + 2;
    }
  }
}

/// Blocks that are outstanding when the ring is replaced stay valid.
void blocks() {
  const Handle handle = open_capture({.timeout_ms = 100});
  pcap_t* p = handle.get();
  Numbers numbers;
  Traffic traffic({.size = kLargeFrame});
  std::vector<pcap_v3_block_t*> held;
  while (ring_bytes() < kGrown || numbers.count() < 200'000) {
    pcap_v3_block_t* block = nullptr;
    const int status = pcap_v3_next_block(p, -1, &block);
    CHECK(status == 1, "status %d, %s", status, pcap_geterr(p));
    held.push_back(block);
    if (held.size() < 8) continue;
    CHECK(pcap_v3_dispatch_block(held.front(), -1, count, reinterpret_cast<u_char*>(&numbers)) >= 0,
          "a corrupt block");
    pcap_v3_release_block(held.front());
    held.erase(held.begin());
  }
  for (pcap_v3_block_t* block : held) pcap_v3_release_block(block);
}

/// Reads some traffic that would make the ring grow.
void read_a_lot(pcap_t* p) {
  Numbers numbers;
  Traffic traffic({.size = kLargeFrame});
  while (numbers.count() < 300'000) read(p, numbers);
}

void kept_socket() {
  const Handle handle = open_capture({.timeout_ms = 100});
  const int descriptor = pcap_fileno(handle.get());
  CHECK(descriptor >= 0, "no descriptor");
  read_a_lot(handle.get());
  CHECK(ring_bytes() <= kSmall, "%zu bytes", ring_bytes());
}

void forked() {
  const Handle handle = open_capture({.timeout_ms = 100});
  const pid_t child = fork();
  if (child == 0) {
    read_a_lot(handle.get());
    CHECK(ring_bytes() <= kSmall, "%zu bytes", ring_bytes());
    _exit(EXIT_SUCCESS);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "status %d", status);
}

void small_request() {
  const Handle handle = open_capture({.timeout_ms = 100, .buffer_bytes = 1 << 20});
  read_a_lot(handle.get());
  CHECK(ring_bytes() <= kSmall, "%zu bytes", ring_bytes());
}

/// A growth leaves neither a ring nor a descriptor behind.
void nothing_left() {
  const std::size_t before = count_descriptors();
  for (int i = 0; i < 3; ++i) {
    const Handle handle = open_capture({.timeout_ms = 100});
    Numbers numbers;
    const Traffic traffic({.size = kLargeFrame});
    read_until_grown(handle.get(), numbers, kGrown);
  }
  CHECK(count_descriptors() == before, "%zu descriptors, before %zu", count_descriptors(), before);
  CHECK(count_rings() == 0, "%zu rings", count_rings());
}

const Test kTests[] = {
    {"a ring grows under load, and each frame comes once, in order", under_load, 60},
    {"a ring grows after a stall", after_a_stall, 60},
    {"a ring grows with a filter", with_a_filter, 60},
    {"a ring grows while blocks are outstanding", blocks, 60},
    {"a ring does not grow once the program has its socket", kept_socket, 60},
    {"a ring does not grow in a forked process", forked, 60},
    {"a ring does not grow beyond a small request", small_request, 60},
    {"a growth leaves nothing behind", nothing_left, 60},
};
const Registration kRegistration({.name = "growth",
                                  .tests = kTests,
                                  .instruments = "address thread"});

}  // namespace
}  // namespace pcapv3::live
