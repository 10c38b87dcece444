// SPDX-License-Identifier: BSD-3-Clause
// What it costs to walk packets that are there: blocks in memory, filled as the kernel fills them,
// taken through the module's own reading path into a callback that counts. No kernel, no system
// call, so that the instructions of a run are the same each time; bench/instructions counts them
// under callgrind. With a number of rounds it tells the time instead.
//
//   walk SCENARIO [ROUNDS]      or no argument, for a list of the scenarios
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "pcap-linux-v3/delivery.h"
#include "pcap-linux-v3/merge.h"
#include "tests/kernel_ring.h"

namespace {

using namespace pcapv3;

constexpr std::uint32_t kBlockBytes = 128 * 1024;
constexpr std::uint32_t kBlocks = 16;
constexpr std::uint32_t kPacketBytes = 64;
constexpr std::uint64_t kStart = 1'700'000'000'000'000'000;

/// A ring with all of its blocks handed over.
class FullRing {
 public:
  explicit FullRing(std::uint32_t headroom)
      : headroom_(headroom),
        kernel_(Geometry{kBlockBytes, kBlocks, 8}, headroom, kStart),
        ring_(kernel_.map(), kernel_.geometry()) {}

  /// Fills the blocks with packets stamped as `stamp` gives them, one after the other, until one
  /// finds no room.
  template <typename Stamp>
  void fill(Stamp stamp) {
    test::TestPacket packet{.bytes = test::Bytes(kPacketBytes)};
    for (packets_ = 0;; ++packets_) {
      const std::uint64_t ns = stamp(packets_);
      packet.sec = static_cast<std::uint32_t>(ns / 1'000'000'000);
      packet.nsec = static_cast<std::uint32_t>(ns % 1'000'000'000);
      if (!kernel_.receive(packet, ns)) return;
    }
  }
  std::uint64_t packets() const { return packets_; }
  Ring& ring() { return ring_; }
  std::uint32_t headroom() const { return headroom_; }

 private:
  std::uint32_t headroom_;
  test::KernelRing kernel_;
  Ring ring_;
  std::uint64_t packets_ = 0;
};

struct Port {
  explicit Port(const Plan& plan)
      : full(plan.link_header == LinkHeader::kFrame ? kFrameHeadroom : kCookedHeadroom),
        position(full.ring()),
        delivery(&never, counters) {
    position.set_headroom(full.headroom());
    delivery.follow(plan);
  }

  static inline const volatile std::sig_atomic_t never = 0;
  FullRing full;
  RingPosition position;
  Counters counters;
  Delivery delivery;
};

std::uint64_t counted;
std::uint64_t bytes_counted;

void count(u_char*, const pcap_pkthdr* header, const u_char*) {
  ++counted;
  bytes_counted += header->len;
}

constexpr int kAll = 1 << 30;

/// Where callgrind is to count, and clocks are to run.
[[gnu::noinline]] void measured_single(Port& port) {
  while (port.position.open()) {
    port.delivery.run(port.position.cursor(), kAll, count, nullptr);
    port.position.close();
  }
}

/// Releases blocks as merged.cc does.
[[gnu::noinline]] void measured_merge(Merge& merge, Delivery& delivery,
                                      std::vector<std::unique_ptr<Port>>& ports,
                                      std::uint64_t now) {
  for (;;) {
    for (unsigned i = 0; i < ports.size(); ++i) {
      while (merge.is_spent(i)) {
        ports[i]->position.close();
        merge.gave_back(i);
      }
    }
    merge.look(now);
    if (merge.done()) return;
    delivery.run(merge, kAll, count, nullptr);
  }
}

Plan plan(LinkHeader header = LinkHeader::kFrame) {
  Plan plan;
  plan.link_header = header;
  plan.vlan_offset = header == LinkHeader::kFrame ? 12 : -1;
  plan.snapshot = 262144;
  plan.ifindex = 2;
  plan.lo_ifindex = 1;
  return plan;
}

/// Batches of `batch` packets a microsecond apart, from each port in turn.
struct Turns {
  std::uint64_t port, ports, batch;
  std::uint64_t operator()(std::uint64_t n) const {
    return kStart + ((n / batch * ports + port) * batch + n % batch) * 1000;
  }
};

struct Scenario {
  const char* name;
  const char* what;
  Plan plan;
  unsigned ports;
  unsigned batch;
};

std::vector<Scenario> scenarios() {
  Plan one_way = plan();
  one_way.direction = PCAP_D_IN;
  Plan filtered = plan();
  filtered.filter.run = [](void*, const std::uint8_t*, std::uint32_t, std::uint32_t, int,
                           std::uint16_t) { return 1; };
  return {
      {"frame", "one port, Ethernet", plan(), 0, 0},
      {"sll2", "one port, cooked, LINUX_SLL2", plan(LinkHeader::kSll2), 0, 0},
      {"one_way", "one port, incoming packets only", one_way, 0, 0},
      {"filtered", "one port, a filter that runs here and accepts all", filtered, 0, 0},
      {"merge_one", "a merge of one port", plan(), 1, 1},
      {"merge_blocks", "two ports, each a block in turn", plan(), 2, 800},
      {"merge_batches", "two ports, 32 packets in turn", plan(), 2, 32},
      {"merge_packets", "two ports, packet by packet in turn", plan(), 2, 1},
      {"merge_eight", "eight ports, packet by packet in turn", plan(), 8, 1},
  };
}

double seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

double run(const Scenario& scenario) {
  std::vector<std::unique_ptr<Port>> ports;
  for (unsigned i = 0; i < std::max(scenario.ports, 1u); ++i) {
    ports.push_back(std::make_unique<Port>(scenario.plan));
    ports[i]->full.fill(Turns{i, std::max(scenario.ports, 1u), std::max(scenario.batch, 1u)});
  }
  counted = 0;
  double start = 0;
  if (scenario.ports == 0) {
    start = seconds();
    measured_single(*ports[0]);
  } else {
    Merge merge;
    const UserlandFilter filter;
    for (unsigned i = 0; i < scenario.ports; ++i) {
      if (!merge.add(i, ports[i]->position, ports[i]->counters, filter)) std::exit(EXIT_FAILURE);
    }
    start = seconds();
    // Long after the last stamp, so that all may go.
    measured_merge(merge, ports[0]->delivery, ports, kStart + 3600ull * 1'000'000'000);
  }
  const double took = seconds() - start;
  std::uint64_t there = 0;
  for (const auto& port : ports) there += port->full.packets();
  if (counted != there) {
    std::fprintf(stderr, "walk: %llu packets of %llu\n", static_cast<unsigned long long>(counted),
                 static_cast<unsigned long long>(there));
    std::exit(EXIT_FAILURE);
  }
  return took / static_cast<double>(counted);
}

}  // namespace

int main(int argc, char** argv) {
  for (const Scenario& scenario : scenarios()) {
    if (argc < 2) {
      std::printf("%s\t%s\n", scenario.name, scenario.what);
    } else if (std::strcmp(argv[1], scenario.name) == 0) {
      double least = run(scenario);
      const int rounds = argc > 2 ? std::atoi(argv[2]) : 0;
      for (int i = 0; i < rounds; ++i) least = std::min(least, run(scenario));
      std::printf("packets %llu%s", static_cast<unsigned long long>(counted), rounds ? "" : "\n");
      if (rounds != 0) std::printf(" ns %.2f\n", least * 1e9);
      return EXIT_SUCCESS;
    }
  }
  return argc < 2 ? EXIT_SUCCESS : EXIT_FAILURE;
}
