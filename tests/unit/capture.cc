// SPDX-License-Identifier: BSD-3-Clause
#include "capture.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>
#include <utility>

#include "catch.h"
#include "pcap-linux-v3/include/pcap/linux-v3.h"
#include "pcap-linux-v3/port.h"

namespace pcapv3::test {
namespace {

constexpr std::uint64_t kForever = ~std::uint64_t{0};
constexpr int kFirstInterface = 5;

/// Sets the environment's settings while a capture is opened.
class Environment {
 public:
  explicit Environment(const Capture::Options& options) {
    if (options.buffer != nullptr) {
      setenv("PCAPV3_BUFFER", options.buffer, 1);
      setenv("PCAPV3_RETIRE", "8", 1);
    }
    setenv("PCAPV3_DRAIN", options.drain ? "on" : "off", 1);
    setenv("PCAPV3_BLOCKING", options.hides_descriptor ? program_invocation_short_name : "off", 1);
  }
  ~Environment() {
    for (const char* name : {"PCAPV3_BUFFER", "PCAPV3_RETIRE", "PCAPV3_DRAIN", "PCAPV3_BLOCKING"}) {
      unsetenv(name);
    }
  }
};

}  // namespace

/// The functions that the module calls.
struct Capture::Host {
  static void look(pcap_t* p, pcapv3_host_view* view) {
    const Capture& c = *of(p).capture;
    view->socket = c.ports_[of(p).index].socket;
    view->link_type = DLT_EN10MB;
    view->snapshot = 262144;
    view->vlan_offset = 12;
    view->direction = PCAP_D_INOUT;
    view->ifindex = c.ports_[of(p).index].ifindex;
    view->lo_ifindex = 1;
    view->promiscuous = c.options_.promiscuous ? 1 : 0;
    view->has_filter = c.has_filter() ? 1 : 0;
    view->filter_here = view->filter_is_whole =
        c.has_filter() && (!c.filters_old_blocks_ || c.old_blocks != 0) ? 1 : 0;
    view->filter_blocks = c.old_blocks;
  }
  static int wait(pcap_t* p) { return of(p).capture->wait(); }
  static int check(pcap_t* p) {
    Capture& c = *of(p).capture;
    ++c.looks_after_trouble;
    if (!c.gone[0]) return 0;
    error(p, PCAPV3_INTERFACE_GONE);
    return PCAP_ERROR;
  }
  static int wait_for_break(pcap_t* p, int ms) {
    Capture& c = *of(p).capture;
    (void)c.kernel.wait(c.kernel.now_ns() + static_cast<std::uint64_t>(ms) * kMs,
                        [&c] { return c.break_event_; });
    return c.break_event_ ? 1 : 0;
  }
  static int is_down(pcap_t*) { return 0; }
  static int filter(void* owner, const u_char* bytes, unsigned, unsigned captured, int,
                    unsigned short) {
    Capture& c = *static_cast<Handle*>(owner)->capture;
    return c.filter(c.filters_.size() - 1, bytes, captured);
  }
  /// A filter's code is its index in the list.
  static const bpf_insn* filter_code(pcap_t* p, unsigned* count) {
    static bpf_insn code;
    code.k = static_cast<bpf_u_int32>(of(p).capture->filters_.size() - 1);
    *count = 1;
    return &code;
  }
  static int run_filter(void* code, const u_char* bytes, unsigned, unsigned captured, int,
                        unsigned short) {
    return the_capture->filter(static_cast<bpf_insn*>(code)->k, bytes, captured);
  }
  static void ring_replaced(pcap_t* p) { ++of(p).capture->rings_replaced; }
  static unsigned block_filtered(pcap_t* p) {
    Capture& c = *of(p).capture;
    return c.old_blocks == 0 ? 0 : --c.old_blocks;
  }
  static void count(pcap_t* p) {
    Capture& c = *of(p).capture;
    const Port& port = c.ports_[of(p).index];
    pcapv3_port_before_count(port.port);
    tpacket_stats_v3 stats{};
    socklen_t length = sizeof(stats);
    if (getsockopt(port.socket, SOL_PACKET, PACKET_STATISTICS, &stats, &length) != 0) return;
    const int second = c.reader != nullptr ? pcapv3_reader_second_socket(c.reader) : -1;
    tpacket_stats frames{};
    length = sizeof(frames);
    if (second >= 0) getsockopt(second, SOL_PACKET, PACKET_STATISTICS, &frames, &length);
    pcapv3_port_count(port.port, stats.tp_packets + frames.tp_packets,
                      stats.tp_drops + frames.tp_drops, stats.tp_freeze_q_cnt);
  }
  static void add_counts(pcap_t* p, unsigned packets, unsigned drops) {
    pcapv3_port_count(of(p).capture->ports_[of(p).index].port, packets, drops, 0);
  }
  static int is_gone(pcap_t* p, unsigned index) { return of(p).capture->gone[index] ? 1 : 0; }
  static int bind_again(pcap_t* p, unsigned index) {
    Capture& c = *of(p).capture;
    if (!c.returning[index]) return -1;
    c.gone[index] = c.returning[index] = false;
    return 0;
  }
  static void error(pcap_t* p, const char* text) { of(p).capture->error = text; }

  static constexpr pcapv3_host_ops kOps = {
      look,   wait,        check,      wait_for_break, is_down,
      filter, filter_code, run_filter, block_filtered, ring_replaced,
      count,  add_counts,  is_gone,    bind_again,     error,
  };
};

Capture::Capture(FeedKind kind, const Options& options)
    : gone(64), returning(64), kind_(kind), options_(options), nonblocking_(options.nonblocking) {
  const Environment environment(options);
  char text[PCAP_ERRBUF_SIZE] = "";
  the_capture = this;
  struct sigaction action {};
  action.sa_handler = [](int) { the_capture->break_loop(); };
  REQUIRE(sigaction(SIGUSR1, &action, &before_) == 0);

  const bool several = kind == FeedKind::kMerged;
  ports_.resize(several ? options.ports : 1);
  for (unsigned i = 0; i < ports(); ++i) {
    ports_[i].handle = std::make_unique<Handle>(Handle{this, i});
    ports_[i].ifindex = kFirstInterface + static_cast<int>(i);
  }
  auto* const handle = reinterpret_cast<pcap_t*>(several ? &own_ : ports_[0].handle.get());
  reader = pcapv3_reader_open(handle, &Host::kOps, &break_flag_, &breaking_, text);
  REQUIRE(reader != nullptr);
  if (several) REQUIRE(pcapv3_reader_open_ports(reader) == 0);
  for (Port& port : ports_) open_port(port);
  if (several) {
    std::vector<pcapv3_port*> ports;
    std::vector<int> sockets;
    for (const Port& port : ports_) {
      ports.push_back(port.port);
      sockets.push_back(port.socket);
    }
    REQUIRE(pcapv3_reader_set_ports(reader, this->ports(), ports.data(), sockets.data()) == 0);
  } else {
    pcapv3_reader_set_port(reader, ports_[0].port, ports_[0].socket);
  }
  pcapv3_reader_set_no_timeout(reader, options.no_timeout ? 1 : 0);
  pcapv3_reader_set_nonblocking(reader, nonblocking_ ? 1 : 0);
  if (kind == FeedKind::kTwoRings) {
    frames_ = ::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    pcapv3_slots_request request{};
    request.ifindex = ports_[0].ifindex;
    request.snapshot = 262144;
    request.buffer_bytes = 2 << 20;
    pcapv3_reader_begin_frames(reader, ports_[0].port, frames_, &request);
    REQUIRE(pcapv3_reader_made_frames(reader) == 0);
    kernel.bind(frames_, ports_[0].ifindex);
    REQUIRE(pcapv3_reader_add_frames(reader) == 0);
  }
  REQUIRE((pcapv3_reader_hides_descriptor(reader, options.timeout_ms) != 0) ==
          options.hides_descriptor);
}

Capture::~Capture() {
  pcapv3_reader_remove_ports(reader);
  pcapv3_frames* const frames = pcapv3_reader_close_frames(reader);
  pcapv3_reader_close(reader);
  for (const Port& port : ports_) {
    pcapv3_port_close(port.port);
    close(port.socket);
  }
  pcapv3_wait_for_frames(frames);
  sigaction(SIGUSR1, &before_, nullptr);
  the_capture = nullptr;
  if (after_close) after_close();
}

void Capture::open_port(Port& port) {
  char text[PCAP_ERRBUF_SIZE] = "";
  port.port =
      pcapv3_port_open(reinterpret_cast<pcap_t*>(port.handle.get()), &Host::kOps, "eth0", text);
  REQUIRE(port.port != nullptr);
  port.socket = ::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  const int version = TPACKET_V3;
  const unsigned headroom = 4;  // for a VLAN tag
  setsockopt(port.socket, SOL_PACKET, PACKET_VERSION, &version, sizeof(version));
  setsockopt(port.socket, SOL_PACKET, PACKET_RESERVE, &headroom, sizeof(headroom));
  pcapv3_ring_request request{};
  request.timeout_ms = options_.timeout_ms;
  request.ifindex = port.ifindex;
  REQUIRE(pcapv3_port_make_ring(port.port, port.socket, &request) == 0);
  kernel.bind(port.socket, port.ifindex);
  pcapv3_port_refresh(port.port);
}

// ---- Packets ----

bool Capture::send(unsigned port, std::size_t bytes) {
  const bool stored = kernel.receive(ports_[port].ifindex, next_, bytes);
  if (stored) stored_.insert(next_);
  ++next_;
  return stored;
}

void Capture::send_many(unsigned count, std::size_t bytes) {
  for (unsigned i = 0; i < count; ++i) send(i % ports(), bytes);
}

void Capture::send_slowly(unsigned port) {
  kernel.receive_slowly(ports_[port].ifindex, next_);
  stored_.insert(next_++);
}

void Capture::spoil_last(unsigned port) {
  kernel.ring(ports_[port].socket).last_packet().tp_snaplen = 1 << 20;
}

// ---- Reading ----

void Capture::callback(u_char* user, const pcap_pkthdr* header, const u_char* bytes) {
  auto& self = *reinterpret_cast<Capture*>(user);
  const std::uint32_t number = number_of(bytes, header->caplen);
  self.got.push_back(number);
  self.last_bytes = bytes;
  self.is_kept = pcapv3_reader_keeps_packet(self.reader) != 0;
  if (self.in_callback) self.in_callback(number);
}

int Capture::read(int count) {
  return pcapv3_reader_read(reader, count, callback, reinterpret_cast<u_char*>(this));
}

int Capture::read_some(int count) {
  int status = 0;
  for (int i = 0; i < 50 && status == 0; ++i) status = read(count);
  return status;
}

void Capture::read_all() {
  // A read that finds nothing then ends.
  const bool nonblocking = nonblocking_;
  set_nonblocking(true);
  for (int empty = 0; empty < 3;) {
    const int status = read();
    REQUIRE(status >= 0);
    empty = status == 0 ? empty + 1 : 0;
    if (status == 0) kernel.pass(30 * kMs);
  }
  set_nonblocking(nonblocking);
}

void Capture::read_until(std::size_t count) {
  for (int i = 0; i < 50 && got.size() < count; ++i) REQUIRE(read() >= 0);
}

int Capture::acquire(int timeout_ms, pcap_v3_block** block) {
  if (kind_ == FeedKind::kTwoRings) pcapv3_reader_use_blocks_only(reader);
  return pcapv3_reader_acquire(reader, timeout_ms, block);
}

void Capture::walk(pcap_v3_block* block) {
  pcap_v3_dispatch_block(block, -1, callback, reinterpret_cast<u_char*>(this));
}

void Capture::release(pcap_v3_block* block) { pcap_v3_release_block(block); }

// ---- Breaks ----

void Capture::break_loop() {
  pcapv3_request_break(&breaking_);
  break_flag_ = 1;
  break_event_ = true;
  pcapv3_wake_reader(&breaking_);
}

void Capture::break_in_handler() { raise(SIGUSR1); }
void Capture::break_in_thread() {
  std::thread([this] { break_loop(); }).join();
}

// ---- The host ----

void Capture::set_filter(std::function<bool(std::uint32_t)> filter) {
  filters_.push_back(std::move(filter));
  filters_old_blocks_ = old_blocks != 0;
  for (const Port& port : ports_) pcapv3_port_filter_set(port.port);
  pcapv3_reader_follow(reader);
}

int Capture::filter(std::size_t filter, const u_char* bytes, unsigned captured) {
  const std::uint32_t number = number_of(bytes, captured);
  if (filters_[filter](number)) return 1;
  if (!rejected.insert(number).second) FAIL("a packet was rejected twice");
  return 0;
}

void Capture::set_nonblocking(bool nonblocking) {
  nonblocking_ = nonblocking;
  pcapv3_reader_set_nonblocking(reader, nonblocking ? 1 : 0);
}

/// Waits as stock libpcap does for its socket (pcap-linux.c: pcap_wait_for_frames_mmap).
int Capture::wait() {
  if (in_wait) return in_wait();
  const std::uint64_t until_ns =
      nonblocking_              ? kernel.now_ns()
      : options_.timeout_ms > 0 ? kernel.now_ns() + static_cast<unsigned>(options_.timeout_ms) * kMs
                                : kForever;
  const int socket = ports_[0].socket;
  (void)kernel.wait(until_ns,
                    [&] { return break_event_ || gone[0] || kernel.is_readable(socket); });
  break_event_ = false;
  if (break_flag_ != 0) {
    break_flag_ = 0;
    return PCAP_ERROR_BREAK;
  }
  if (!gone[0] || kernel.is_readable(socket)) return 0;
  error = PCAPV3_INTERFACE_GONE;
  return PCAP_ERROR;
}

Counters Capture::counters() {
  Counters sum;
  for (Port& port : ports_) {
    Host::count(reinterpret_cast<pcap_t*>(port.handle.get()));
    port.port->blocks().collect(port.port->counters());
    const Counters& c = port.port->counters();
    sum.received += c.received;
    sum.dropped += c.dropped;
    sum.delivered += c.delivered;
    sum.filtered += c.filtered;
    sum.other_way += c.other_way;
    sum.corrupt += c.corrupt;
    sum.late += c.late;
    sum.blocks += c.blocks;
    sum.frames += c.frames;
    sum.unwalked += c.unwalked;
  }
  return sum;
}

bool Capture::frozen(pcap_stat& stats) const {
  stats = {};
  for (const Port& port : ports_) {
    pcap_stat of_port{};
    if (pcapv3_port_frozen_stats(port.port, &of_port) == 0) return false;
    stats.ps_recv += of_port.ps_recv;
    stats.ps_drop += of_port.ps_drop;
  }
  return true;
}

bool Capture::is_readable() const {
  // (The wrapped poll() would let time pass.)
  pollfd event[2] = {{pcapv3_reader_descriptor(reader), POLLIN, 0}, {-1, 0, 0}};
  return ::poll(event, 2, 0) > 0;
}

Numbers from_to(std::uint32_t first, std::uint32_t last) {
  Numbers numbers;
  for (std::uint32_t i = first; i <= last; ++i) numbers.push_back(i);
  return numbers;
}

}  // namespace pcapv3::test
