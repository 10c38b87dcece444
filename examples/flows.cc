// SPDX-License-Identifier: BSD-3-Clause
// Counts the flows on a network interface: one thread captures, others decode. It shows what blocks
// are good for (pcap_v3_next_block(3)) and, for comparison, the same with single packets, which are
// copied. The capture thread leaves a note in each block's private area (pcap_v3_block_private(3)),
// from which the decoders know how long the block has waited for them.
//
//   flows [-n THREADS] [-p] [-w NS] INTERFACE
//
//   -n  the number of decoder threads, by default 1; with 0, the capture thread decodes
//   -p  hand over packet by packet
//   -w  work this many nanoseconds more on each packet, as a deeper decoder would
//
// It ends on SIGINT or SIGTERM, when all packets that came before it have been counted. If blocks
// were handed over, it reports on standard error the longest time that one has waited, a sign of
// too few threads. It is built with
//
//   c++ -O2 -std=c++17 flows.cc $(pkg-config --cflags --libs pcap-linux-v3) -pthread
//
// The queue between the threads is moodycamel's BlockingConcurrentQueue (Debian:
// libconcurrentqueue-dev). It is a header, fast with several consumers, and it grows, so that the
// capture thread never waits. Its contents are bounded: the ring limits blocks, and kMostPackets
// limits packets.
#include <concurrentqueue/blockingconcurrentqueue.h>
#include <pcap/linux-v3.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <unordered_map>
#include <vector>

namespace {

// ---- Decoding ----

/// The addresses, ports and protocol of a conversation. Both directions are one flow.
struct Flow {
  std::array<u_char, 16> low{}, high{};
  std::uint16_t low_port = 0, high_port = 0;
  u_char protocol = 0;

  bool operator==(const Flow& other) const {
    return low == other.low && high == other.high && low_port == other.low_port &&
           high_port == other.high_port && protocol == other.protocol;
  }
};

struct HashFlow {
  std::size_t operator()(const Flow& flow) const {
    std::uint64_t words[4];
    std::memcpy(words, flow.low.data(), 16);
    std::memcpy(words + 2, flow.high.data(), 16);
    std::uint64_t hash = flow.protocol + (std::uint64_t{flow.low_port} << 32 | flow.high_port);
    for (const std::uint64_t word : words) hash = (hash ^ word) * 0x9e3779b97f4a7c15;
    return hash ^ hash >> 32;
  }
};

std::uint16_t read16(const u_char* at) { return static_cast<std::uint16_t>(at[0] << 8 | at[1]); }

/// Finds the flow of an Ethernet frame. Returns false if it is not IP.
bool find_flow(const u_char* frame, std::size_t bytes, Flow& flow) {
  std::size_t at = 12;
  while (at + 6 <= bytes && (read16(frame + at) == 0x8100 || read16(frame + at) == 0x88a8)) at += 4;
  if (at + 2 > bytes) return false;
  const std::uint16_t type = read16(frame + at);
  const u_char* ip = frame + at + 2;
  const std::size_t left = bytes - at - 2;
  std::size_t address_bytes, addresses, header;
  bool first_fragment = true;
  if (type == 0x0800 && left >= 20) {
    address_bytes = 4, addresses = 12, header = 4u * (ip[0] & 15);
    flow.protocol = ip[9];
    first_fragment = (read16(ip + 6) & 0x1fff) == 0;
  } else if (type == 0x86dd && left >= 40) {
    address_bytes = 16, addresses = 8, header = 40;
    flow.protocol = ip[6];
  } else {
    return false;
  }
  std::memcpy(flow.low.data(), ip + addresses, address_bytes);
  std::memcpy(flow.high.data(), ip + addresses + address_bytes, address_bytes);
  if ((flow.protocol == 6 || flow.protocol == 17) && first_fragment && left >= header + 4) {
    flow.low_port = read16(ip + header);
    flow.high_port = read16(ip + header + 2);
  }
  if (flow.high < flow.low || (flow.high == flow.low && flow.high_port < flow.low_port)) {
    std::swap(flow.low, flow.high);
    std::swap(flow.low_port, flow.high_port);
  }
  return true;
}

std::uint64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

/// Decodes packets, and counts what one thread has seen.
class Decoder {
 public:
  explicit Decoder(std::uint64_t work_ns) : work_ns_(work_ns) {}

  void decode(const pcap_pkthdr& header, const u_char* bytes) {
    ++packets_;
    Flow flow;
    if (find_flow(bytes, header.caplen, flow)) ++flows_[flow];
    if (work_ns_ == 0) return;
    const std::uint64_t start = now_ns();
    while (now_ns() - start < work_ns_) {
    }
  }
  /// The pcap_handler. Its user argument is user().
  static void on_packet(u_char* decoder, const pcap_pkthdr* header, const u_char* bytes) {
    reinterpret_cast<Decoder*>(decoder)->decode(*header, bytes);
  }
  u_char* user() { return reinterpret_cast<u_char*>(this); }
  void got_block(std::uint64_t waited_ns) { longest_ns_ = std::max(longest_ns_, waited_ns); }

  void add(const Decoder& other) {
    packets_ += other.packets_;
    longest_ns_ = std::max(longest_ns_, other.longest_ns_);
    for (const auto& [flow, packets] : other.flows_) flows_[flow] += packets;
  }
  unsigned long long packets() const { return packets_; }
  std::size_t flows() const { return flows_.size(); }
  /// Returns the longest time that a block has waited.
  std::uint64_t longest_ns() const { return longest_ns_; }

 private:
  std::uint64_t work_ns_;
  unsigned long long packets_ = 0;
  std::uint64_t longest_ns_ = 0;
  std::unordered_map<Flow, unsigned long long, HashFlow> flows_;
};

// ---- Handing over, by blocks and by packets ----

[[noreturn]] void give_up(const char* text) {
  std::fprintf(stderr, "flows: %s\n", text);
  std::_Exit(EXIT_FAILURE);  // ends all threads at once
}

moodycamel::BlockingConcurrentQueue<pcap_v3_block_t*> blocks;

/// The capture thread's note for the thread that decodes the block. It lies in the block, so that
/// the queue has to carry nothing else.
struct Note {
  std::uint64_t queued_ns;
};
Note& note_of(pcap_v3_block_t* block) { return *static_cast<Note*>(pcap_v3_block_private(block)); }

void decode_blocks(Decoder& decoder) {
  for (;;) {
    pcap_v3_block_t* block = nullptr;
    blocks.wait_dequeue(block);
    if (block == nullptr) return;
    decoder.got_block(now_ns() - note_of(block).queued_ns);
    const int status = pcap_v3_dispatch_block(block, -1, Decoder::on_packet, decoder.user());
    pcap_v3_release_block(block);
    if (status == PCAP_ERROR) give_up("a corrupt block");
  }
}

/// Captures until a break. If there are no threads to hand over to, `decoder` gets the packets.
void capture_blocks(pcap_t* handle, unsigned threads, Decoder& decoder) {
  for (;;) {
    pcap_v3_block_t* block = nullptr;
    const int status = pcap_v3_next_block(handle, -1, &block);
    if (status == PCAP_ERROR_BREAK) return;
    if (status == PCAP_ERROR) give_up(pcap_geterr(handle));
    if (status == 0) continue;
    if (threads != 0) {
      note_of(block).queued_ns = now_ns();
      blocks.enqueue(block);
    } else {
      pcap_v3_dispatch_block(block, -1, Decoder::on_packet, decoder.user());
      pcap_v3_release_block(block);
    }
  }
}

/// A copied packet. Its bytes follow it in memory.
struct Packet {
  pcap_pkthdr header;
  u_char* bytes() { return reinterpret_cast<u_char*>(this + 1); }
};

constexpr std::size_t kMostPackets = 1 << 18;

moodycamel::BlockingConcurrentQueue<Packet*> packets;

void decode_packets(Decoder& decoder) {
  for (;;) {
    Packet* packet = nullptr;
    packets.wait_dequeue(packet);
    if (packet == nullptr) return;
    decoder.decode(packet->header, packet->bytes());
    std::free(packet);
  }
}

void hand_over_packet(u_char*, const pcap_pkthdr* header, const u_char* bytes) {
  auto* packet = static_cast<Packet*>(std::malloc(sizeof(Packet) + header->caplen));
  if (packet == nullptr) give_up("no memory");
  packet->header = *header;
  std::memcpy(packet->bytes(), bytes, header->caplen);
  packets.enqueue(packet);
}

void capture_packets(pcap_t* handle, unsigned threads, Decoder& decoder) {
  const pcap_handler callback = threads != 0 ? hand_over_packet : Decoder::on_packet;
  for (;;) {
    const int status = pcap_dispatch(handle, -1, callback, decoder.user());
    if (status == PCAP_ERROR_BREAK) return;
    if (status == PCAP_ERROR) give_up(pcap_geterr(handle));
    // This waits for decoders that don't keep up. Meanwhile packets stay in the ring, or are
    // dropped.
    while (packets.size_approx() > kMostPackets) usleep(100);
  }
}

pcap_t* to_break = nullptr;
void on_signal(int) { pcap_breakloop(to_break); }

}  // namespace

int main(int argc, char** argv) {
  unsigned threads = 1;
  bool by_packet = false;
  std::uint64_t work_ns = 0;
  for (int option; (option = getopt(argc, argv, "n:pw:")) != -1;) {
    if (option == 'n') {
      threads = static_cast<unsigned>(std::atoi(optarg));
    } else if (option == 'p') {
      by_packet = true;
    } else if (option == 'w') {
      work_ns = std::strtoull(optarg, nullptr, 10);
    } else {
      return EXIT_FAILURE;
    }
  }
  if (optind + 1 != argc) give_up("usage: flows [-n THREADS] [-p] [-w NS] INTERFACE");

  char error[PCAP_ERRBUF_SIZE];
  pcap_t* handle = pcap_create(argv[optind], error);
  if (handle == nullptr) give_up(error);
  pcap_set_promisc(handle, 1);
  pcap_set_timeout(handle, 100);
  if (!by_packet && pcap_v3_set_private_size(handle, sizeof(Note)) != 0) {
    give_up(pcap_geterr(handle));
  }
  if (pcap_activate(handle) < 0) give_up(pcap_geterr(handle));
  if (pcap_datalink(handle) != DLT_EN10MB) give_up("only Ethernet is decoded here");
  to_break = handle;
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);

  std::vector<Decoder> decoders(threads + 1, Decoder(work_ns));
  std::vector<std::thread> running;
  for (unsigned i = 0; i < threads; ++i) {
    running.emplace_back(by_packet ? decode_packets : decode_blocks, std::ref(decoders[i + 1]));
  }
  std::fprintf(stderr, "flows: capturing\n");
  (by_packet ? capture_packets : capture_blocks)(handle, threads, decoders[0]);

  // A null pointer behind all the others ends each thread.
  for (unsigned i = 0; i < threads; ++i)
    by_packet ? packets.enqueue(nullptr) : blocks.enqueue(nullptr);
  for (std::thread& thread : running) thread.join();
  for (unsigned i = 0; i < threads; ++i) decoders[0].add(decoders[i + 1]);
  pcap_stat stats{};
  if (pcap_stats(handle, &stats) != 0) give_up(pcap_geterr(handle));
  pcap_close(handle);
  if (threads != 0 && !by_packet) {
    std::fprintf(stderr, "flows: a block has waited for %.3f ms at most\n",
                 static_cast<double>(decoders[0].longest_ns()) * 1e-6);
  }
  std::printf("packets %llu flows %zu received %u dropped %u\n", decoders[0].packets(),
              decoders[0].flows(), stats.ps_recv, stats.ps_drop);
}
