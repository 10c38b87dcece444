// SPDX-License-Identifier: BSD-3-Clause
// Several ports as one handle: each packet comes once, and in the order of the time stamps.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "capture.h"
#include "ports.h"

namespace pcapv3::live {
namespace {

constexpr int kSmallRing = 8 << 20;

constexpr int kLargeRing = 32 << 20;

/// How many frames a port gets in a millisecond of a test.
using Load = unsigned (*)(unsigned port, unsigned ports, unsigned ms);

constexpr unsigned kFramesAMs = 40;  // on all ports, about

constexpr unsigned kLoadMs = 500;

unsigned equal(unsigned, unsigned ports, unsigned) { return kFramesAMs / ports; }

unsigned hundred_to_one(unsigned port, unsigned, unsigned ms) {
  return port == 0 ? kFramesAMs : ms % 5 == 0 ? 2 : 0;
}

unsigned bursts(unsigned port, unsigned, unsigned ms) {
  return port == 0 ? 4 : ms % 100 == 10 * port ? 300 : 0;
}

unsigned one_idle(unsigned port, unsigned ports, unsigned) {
  return port == ports - 1 ? 0 : kFramesAMs / (ports - 1);
}

unsigned busy(unsigned, unsigned ports, unsigned) { return 8 * kFramesAMs / ports; }

/// Sends a load, in a thread for each port and `threads` for each of those with frames.
class Traffic {
 public:
  Traffic(unsigned ports, Load load, unsigned threads) {
    for (unsigned i = 0; i < ports * threads; ++i) {
      const unsigned port = i % ports;
      senders_.push_back(std::make_unique<Sender>(play(port).c_str(), peer()));
      threads_.emplace_back([=, this, sender = senders_.back().get()] {
        const auto start = Clock::now();
        std::uint32_t sent = 0;
        for (unsigned ms = 0; ms < kLoadMs; ++ms) {
          std::this_thread::sleep_until(start + std::chrono::milliseconds(ms));
          for (unsigned left = load(port, ports, ms); left != 0; --left) {
            sender->send({.number = marked(i, sent++)});
          }
        }
      });
      unsigned frames = 0;
      for (unsigned ms = 0; ms < kLoadMs; ++ms) frames += load(port, ports, ms);
      frames_.push_back(frames);
    }
  }
  ~Traffic() {
    for (std::thread& thread : threads_) thread.join();
  }
  Traffic(const Traffic&) = delete;
  Traffic& operator=(const Traffic&) = delete;

  /// By number of the thread.
  const std::vector<unsigned>& frames() const { return frames_; }

 private:
  std::vector<std::unique_ptr<Sender>> senders_;
  std::vector<std::thread> threads_;
  std::vector<unsigned> frames_;
};

/// What is kept of a packet under load.
struct Seen {
  std::uint32_t number;
  std::uint64_t stamp_ns;
  std::uint64_t delivered_ns;
};

void keep_seen(u_char* all, const pcap_pkthdr* header, const u_char* data) {
  // Behind the Ethernet header, as in every frame of a load.
  CHECK(header->caplen == 100 && read32(data + 14) == kMagic, "no frame of ours, %u bytes",
        header->caplen);
  reinterpret_cast<std::vector<Seen>*>(all)->push_back(
      {read32(data + 18), stamp_ns(*header), now_ns()});
}

double ms_at(std::vector<std::uint64_t>& delays_ns, double share) {
  const auto at = static_cast<std::ptrdiff_t>(static_cast<double>(delays_ns.size() - 1) * share);
  std::nth_element(delays_ns.begin(), delays_ns.begin() + at, delays_ns.end());
  return static_cast<double>(delays_ns[static_cast<std::size_t>(at)]) / 1e6;
}

long waits_of_thread() {
  rusage usage = {};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nvcsw;
}

/// What one capture of a load was like.
struct Captured {
  unsigned late = 0;  ///< Packets, as the library says.
  long waits = 0;     ///< Of the reader.
};

Captured capture_load(unsigned ports, Load load, unsigned threads, int ring = kSmallRing) {
  long waits = 0;
  Record stats("PCAPV3_STATS");
  std::vector<Seen> seen;
  std::vector<unsigned> frames;
  {
    const std::string list = list_of(ports);
    const Handle handle = open_capture(
        {.device = list.c_str(), .buffer_bytes = ring, .precision = PCAP_TSTAMP_PRECISION_NANO});
    const Traffic traffic(ports, load, threads);
    frames = traffic.frames();
    std::size_t total = 0;
    for (const unsigned count : frames) total += count;
    seen.reserve(total);
    const long waits_before = waits_of_thread();
    while (seen.size() < total) {
      const int taken =
          pcap_dispatch(handle.get(), -1, keep_seen, reinterpret_cast<u_char*>(&seen));
      CHECK(taken >= 0, "status %d, %s", taken, pcap_geterr(handle.get()));
      CHECK(stats_of(handle.get()).ps_drop == 0, "dropped");
    }
    waits = waits_of_thread() - waits_before;
    const pcap_stat counts = stats_of(handle.get());
    CHECK(counts.ps_recv == total, "%u received of %zu", counts.ps_recv, total);
  }

  std::vector<std::vector<bool>> came;
  for (const unsigned count : frames) came.emplace_back(count);
  std::vector<std::uint64_t> delays;
  std::size_t inversions = 0;
  std::uint64_t last = 0;
  for (const Seen& packet : seen) {
    const unsigned sender = sender_of(packet.number);
    const std::uint32_t number = unmarked(packet.number);
    CHECK(sender < came.size() && number < came[sender].size(), "frame %u of sender %u", number,
          sender);
    CHECK(!came[sender][number], "frame %u of sender %u came twice", number, sender);
    came[sender][number] = true;
    inversions += packet.stamp_ns < last;
    last = std::max(last, packet.stamp_ns);
    delays.push_back(packet.delivered_ns - std::min(packet.delivered_ns, packet.stamp_ns));
  }

  unsigned late = 0;
  unsigned delivered = 0;
  for (unsigned i = 0; i < ports; ++i) {
    late += figure(stats.text(), see(i), "late");
    delivered += figure(stats.text(), see(i), "delivered");
    CHECK(figure(stats.text(), see(i), "dropped") == 0, "%s", stats.text().c_str());
    CHECK(figure(stats.text(), see(i), "undelivered") == 0, "%s", stats.text().c_str());
  }
  CHECK(delivered == seen.size(), "%u delivered of %zu", delivered, seen.size());
  CHECK(inversions == late, "%zu out of order, %u counted as late", inversions, late);
  const double median_ms = ms_at(delays, 0.5);
  const double most_ms = ms_at(delays, 0.999);
  std::printf(
      "# %zu packets, delay %.1f ms in the middle, %.1f ms at 99.9 %%, %u late, %ld waits\n",
      seen.size(), median_ms, most_ms, late, waits);
  CHECK(median_ms < 100, "%.1f ms", median_ms);
  return {late, waits};
}

/// Every frame once, and in the order of their stamps. A packet can be late when its CPU is taken
/// away from it between the stamp and the ring, which a machine that is shared does now and then.
void in_order(unsigned ports, Load load, unsigned threads = 1) {
  unsetenv("PCAPV3_WINDOW");  // set for the subject
  constexpr int kTries = 3;
  unsigned late = 1;
  for (int i = 0; i < kTries && late != 0; ++i) late = capture_load(ports, load, threads).late;
  CHECK(late == 0, "packets were late in each of %d tries", kTries);
}

/// Blocks come every 4 ms, each port's every 8; a reader that is busy looks every 15. A ring that
/// has little room is not left alone for so long. On a machine that is short of CPUs, who reads is.
void busy_reader() {
  constexpr int kTries = 3;
  Captured large;
  Captured small;
  for (int i = 0; i < kTries; ++i) {
    large = capture_load(2, busy, 1, kLargeRing);
    small = capture_load(2, busy, 1, kSmallRing);
    if (large.waits < kLoadMs / 7 && small.waits > large.waits) return;
  }
  CHECK(false, "%ld waits in %u ms; with less room %ld", large.waits, kLoadMs, small.waits);
}

const Test kTests[] = {
    {"2 ports, equal load: each packet once, in order", [] { in_order(2, equal); }},
    {"4 ports, equal load", [] { in_order(4, equal); }},
    {"8 ports, equal load", [] { in_order(8, equal); }},
    {"2 ports, load 100 to 1", [] { in_order(2, hundred_to_one); }},
    {"4 ports, load 100 to 1", [] { in_order(4, hundred_to_one); }},
    {"8 ports, load 100 to 1", [] { in_order(8, hundred_to_one); }},
    {"2 ports, bursts against steady traffic", [] { in_order(2, bursts); }},
    {"4 ports, bursts against steady traffic", [] { in_order(4, bursts); }},
    {"8 ports, bursts against steady traffic", [] { in_order(8, bursts); }},
    {"2 ports, one is idle", [] { in_order(2, one_idle); }},
    {"4 ports, one is idle", [] { in_order(4, one_idle); }},
    {"8 ports, one is idle", [] { in_order(8, one_idle); }},
    {"2 ports, each fed by two threads", [] { in_order(2, equal, 2); }},
    {"who is busy is not woken for each block", busy_reader},
};
const Registration kRegistration(
    {.name = "ports_order", .tests = kTests, .links = 8, .settings = "PCAPV3_WINDOW=2000"});

}  // namespace
}  // namespace pcapv3::live
