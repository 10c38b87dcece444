// SPDX-License-Identifier: BSD-3-Clause
// Scenarios: filters, set before traffic, after packets have arrived, and under traffic; in the
// kernel and, when they are too long for it, in the library.
#include <atomic>
#include <chrono>

#include "record.h"

namespace pcapv3::fidelity {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint16_t kIp = ETHERTYPE_IP;

/// Sends a frame of another EtherType than ours. It is to nobody, so that no protocol sees it.
void send_as(const Sender& sender, const Frame& frame, std::uint16_t type) {
  Bytes bytes = bytes_of(frame);
  const std::size_t at = 2 * ETH_ALEN + 4 * frame.tags.size();
  bytes[at] = static_cast<std::uint8_t>(type >> 8);
  bytes[at + 1] = static_cast<std::uint8_t>(type);
  if (!sender.try_send(bytes)) give_up("send");
}

/// Eleven frames that filters tell apart.
void send_kinds(const Sender& sender, std::uint32_t first) {
  const Frame frames[] = {
      {},
      {.tags = {{.tci = 5}}},
      {.tags = {{.tci = 6}}},
      {.tags = {{.tci = 5}, {.tci = 6}}},
      {.tags = {{.tci = 0xe000}}},
      {.tags = {{.type = 0x88a8, .tci = 100}, {.tci = 5}}},
      {.size = 60},
      {.size = 600},
      {.destination = kBroadcast},
  };
  std::uint32_t number = first;
  for (Frame frame : frames) {
    frame.number = number++;
    sender.send(frame);
  }
  send_as(sender, {.number = number++}, kIp);
  send_as(sender, {.number = number}, kIp);
}
constexpr std::uint32_t kKinds = 11;

/// Each kind in both directions, in this order; they have all come to the ring afterwards.
void send_kinds_both_ways(const Watch& watch, std::uint32_t first) {
  send_kinds(peer(), first);
  watch.until(first + kKinds - 1);
  send_kinds(local(), first + 20);
  watch.until(first + 20 + kKinds - 1);
}

/// Compiles and sets a filter, and notes what became of it.
bool note_filter(pcap_t* p, const char* expression) {
  note("filter", "'%s'", expression);
  bpf_program program;
  const int status = pcap_compile(p, &program, expression, 1, PCAP_NETMASK_UNKNOWN);
  if (status != 0) {
    note_status("compile", status, p);
    return false;
  }
  note_status("set", pcap_setfilter(p, &program), p);
  pcap_freecode(&program);
  return true;
}

/// Opens up the filter and sends a frame, so that nothing can be left before it.
void note_end(pcap_t* p, std::size_t& taken) {
  constexpr std::uint32_t kMarker = 99999;
  set_filter(p, "");
  peer().send(kMarker, 1);
  const Packets packets = take_until(p, kMarker);
  note_numbers("end", p, packets);
  taken += packets.size();
}

constexpr const char* kExpressions[] = {
    "",
    "ether proto 0x88b5",
    "ip6 and tcp",
    "vlan",
    "vlan 5",
    "vlan 6",
    "vlan 0",
    "vlan 5 and ip",
    "vlan 5 and ether proto 0x88b5",
    "vlan 5 and vlan 6",
    "vlan and vlan",
    "not vlan",
    "ip",
    "not ip",
    "ip or vlan",
    "vlan or ip",
    "less 100",
    "greater 105",
    "len = 600",
    "ether broadcast",
    "ether multicast",
    "ether src 02:00:00:00:00:02",
    "ether[21] & 1 = 1",
    "ether proto 0x8100",
    "ether proto 0x88a8",
};

void before_traffic() {
  const Watch watch;
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  std::size_t taken = 0;
  note("no filter", "0 to 10 and 20 to 30");
  send_kinds_both_ways(watch, 0);
  note_numbers("frames", p, take_counted(p, taken));
  for (const char* expression : kExpressions) {
    if (!note_filter(p, expression)) continue;
    send_kinds_both_ways(watch, 0);
    note_numbers("frames", p, take_counted(p, taken));
    note_end(p, taken);
  }
}

void before_traffic_cooked() {
  const Watch watch;
  for (const int type : {DLT_LINUX_SLL, DLT_LINUX_SLL2}) {
    const Handle handle = open_capture({.device = "any"});
    pcap_t* p = handle.get();
    note_status("link type", pcap_set_datalink(p, type), p);
    std::size_t taken = 0;
    for (const char* expression :
         {"", "ether proto 0x88b5", "ip", "vlan 5", "not vlan", "less 100", "inbound", "outbound",
          "ether broadcast", "ether src 02:00:00:00:00:02", "link[0:2] = 4", "ether[0:2] = 4",
          "ip proto 17"}) {
      // In version 1's header there is none: only the kernel can judge it
      // (filters-in-kernel-alone).
      if (type == DLT_LINUX_SLL && std::string_view(expression).starts_with("ifindex")) continue;
      if (!note_filter(p, expression)) continue;
      // What is judged in the library is in the count of what was received.
      send_kinds_both_ways(watch, 0);
      note_numbers("frames", p, take_rest(p));
      char error[PCAP_ERRBUF_SIZE];
      CHECK(pcap_setnonblock(p, 0, error) == 0, "%s", error);
      note_end(p, taken);
    }
  }
}

void on_loopback() {
  const Watch watch("lo");
  const Sender sender("lo");
  for (const char* expression : {"", "ip", "less 60", "greater 200", "vlan", "ether broadcast"}) {
    const Handle handle = open_capture({.device = "lo"});
    if (!note_filter(handle.get(), expression)) continue;
    send_kinds(sender, 0);
    watch.until(kKinds - 1);
    note_numbers("frames", handle.get(), take_rest(handle.get()));
  }
}

/// Filters on what only the kernel has, of packets that come after they are set. A frame alone
/// first, which must come as well.
void in_kernel_alone() {
  const Watch watch;
  const struct {
    const char* expression;
    bool in;
  } cases[] = {{"inbound", true}, {"outbound", false}, {"ifindex 2", true}};
  for (const auto& test : cases) {
    const Handle handle = open_capture();
    pcap_t* p = handle.get();
    if (!note_filter(p, test.expression)) continue;
    (test.in ? peer() : local()).send(50, 1);
    watch.until(50);
    note_numbers("first", p, take_rest(p));
    send_kinds_both_ways(watch, 0);
    note_numbers("then", p, take_rest(p));
  }
}

void after_arrival() {
  const Watch watch;
  for (const char* device : {"see0", "any"}) {
    for (const char* expression : {"", "vlan", "vlan 5 and ip", "ip", "less 100", "outbound",
                                   "ether[21] & 1 = 1", "ip6 and tcp"}) {
      const Handle handle = open_capture({.device = device});
      pcap_t* p = handle.get();
      send_kinds_both_ways(watch, 0);
      if (!note_filter(p, expression)) continue;
      note_numbers("from before", p, take_rest(p));
    }
  }
}

void after_arrival_and_more() {
  const Watch watch;
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  std::uint32_t first = 0;
  for (const char* expression : {"vlan", "less 100", "ether[21] & 1 = 1", "vlan 5", ""}) {
    send_kinds_both_ways(watch, first);
    if (!note_filter(p, expression)) continue;
    send_kinds_both_ways(watch, first + 100);
    note_numbers("from before and since", p, take_rest(p));
    first += 200;
  }
}

// Too long for the kernel.

/// A filter of so many instructions that does nothing but look whether a frame's number is odd. The
/// kernel takes 4096 (BPF_MAXINSNS), libpcap asks it only with up to 65535.
std::vector<bpf_insn> long_filter(std::size_t length) {
  std::vector<bpf_insn> code(length - 4, bpf_insn(BPF_STMT(BPF_LD | BPF_IMM, 1)));
  code.push_back(BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 21));
  code.push_back(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 1, 0, 1));
  code.push_back(BPF_STMT(BPF_RET | BPF_K, kWhole));
  code.push_back(BPF_STMT(BPF_RET | BPF_K, 0));
  return code;
}

int set_code(pcap_t* p, std::vector<bpf_insn>& code) {
  bpf_program program = {.bf_len = static_cast<u_int>(code.size()), .bf_insns = code.data()};
  return pcap_setfilter(p, &program);
}

void too_long() {
  const Sender sender = peer();
  for (const std::size_t length : {4096, 4097, 65535, 65536, 100000}) {
    const Handle handle = open_capture();
    pcap_t* p = handle.get();
    sender.send(0, 20);
    wait_until_received(p, 20);
    std::vector<bpf_insn> code = long_filter(length);
    note("length", "%zu", length);
    note_status("set", set_code(p, code), p);
    sender.send(20, 20);
    note_numbers("odd", p, take_until(p, 39));
    set_filter(p, "ether[21] & 1 = 0");
    sender.send(40, 21);
    note_numbers("even", p, take_until(p, 60));
    note_status("set", set_code(p, code), p);
    sender.send(61, 20);
    note_numbers("odd", p, take_until(p, 79));
  }
}

/// A filter that runs in the library stays until there is another.
void too_long_after_kernels() {
  const Watch watch;
  const Sender sender = peer();
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  set_filter(p, "ether proto 0x88b5");
  std::vector<bpf_insn> code = long_filter(5000);
  note_status("set", set_code(p, code), p);
  // Each even frame in a block of its own, until the library can have no more of them to count.
  for (std::uint32_t number = 0; number < 20; number += 2) {
    sender.send(number, 1);
    watch.until(number);
    note_numbers("even", p, take_rest(p));
  }
}

/// A filter judges packets as they are, not as the snapshot length leaves them.
void past_the_snapshot() {
  const Watch watch;
  const Sender sender = peer();
  for (const int snaplen : {30, 60}) {
    const Handle handle = open_capture({.snaplen = snaplen});
    pcap_t* p = handle.get();
    note("snapshot length", "%d", snaplen);
    // The bytes of a frame follow from its number; this one is the same in all of its kind.
    note_filter(p, "ether[70] = 70");
    sender.send(0, 1);  // its byte 70 is 70
    watch.until(0);
    note_packets("first", p, take_rest(p));
    sender.send(0, 1);
    sender.send(1, 1);
    watch.until(1);
    note_packets("then", p, take_rest(p));
  }
}

// Bad ones.

void bad_expressions() {
  const Handle handle = open_capture();
  for (const char* expression :
       {"nonsense", "ip and", "port", "port 99999", "vlan 5000", "vlan -1", "ether[",
        "ether[70000000000] = 1", "less", "ifindex", "ifindex x", "wlan type mgt", "net 1.2.3.4/40",
        "mpls and vlan and arp and rarp", "link[0] = 1", "inbound or"}) {
    note_filter(handle.get(), expression);
  }
}

void bad_programs() {
  const Watch watch;
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  std::size_t taken = 0;
  set_filter(p, "less 100");
  note_status("none", pcap_setfilter(p, nullptr), p);
  bpf_insn accept = BPF_STMT(BPF_RET | BPF_K, 262144);
  bpf_insn jump = BPF_JUMP(BPF_JMP | BPF_JA, 77, 0, 0);
  bpf_insn open_end = BPF_STMT(BPF_LD | BPF_IMM, 1);
  bpf_insn unknown = BPF_STMT(0xffff, 1);
  bpf_insn zero[] = {BPF_STMT(BPF_LD | BPF_IMM, 1), BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0),
                     BPF_STMT(BPF_RET | BPF_K, 1)};
  const struct {
    const char* name;
    bpf_program program;
  } cases[] = {
      {"empty", {0, &accept}},    {"empty, nowhere", {0, nullptr}},
      {"jump", {1, &jump}},       {"open end", {1, &open_end}},
      {"unknown", {1, &unknown}}, {"division by zero", {3, zero}},
  };
  for (const auto& test : cases) {
    bpf_program program = test.program;
    note_status(test.name, pcap_setfilter(p, &program), p);
  }
  send_kinds_both_ways(watch, 0);
  note_numbers("still less 100", p, take_counted(p, taken));
  // Return values are snapshot lengths in the kernel.
  for (const bpf_u_int32 length : {1U, 20U, 100U, 0x7fffffffU, 0xffffffffU, 0U}) {
    bpf_insn cut = BPF_STMT(BPF_RET | BPF_K, length);
    bpf_program program = {.bf_len = 1, .bf_insns = &cut};
    note("return value", "%u", length);
    note_status("set", pcap_setfilter(p, &program), p);
    send_kinds_both_ways(watch, 0);
    note_packets("frames", p, take_counted(p, taken));
  }
}

// Under traffic.

/// Sends frames, numbered on, until it is told to end.
class Traffic {
 public:
  Traffic() : thread_([this] { run(); }) {}
  ~Traffic() { end(); }
  Traffic(const Traffic&) = delete;
  Traffic& operator=(const Traffic&) = delete;

  /// Returns how many were sent.
  std::uint32_t end() {
    enough_ = true;
    if (thread_.joinable()) thread_.join();
    return sent_;
  }

 private:
  void run() {
    stay_on_cpu();
    const Sender sender = peer();
    while (!enough_) {
      for (int i = 0; i < 8; ++i) sender.send(sent_++, 1);
      std::this_thread::sleep_for(std::chrono::microseconds(300));  // some 20,000 in a second
    }
  }

  std::atomic<bool> enough_ = false;
  std::atomic<std::uint32_t> sent_ = 0;
  std::thread thread_;
};

/// Sets each filter in turn, ten times a second, under traffic. All of them accept every fourth
/// frame (number % 4 == 1), so that none of those may be missing. Stock libpcap lets nothing in for
/// a moment, and forgets a filter that runs in the library.
template <typename Set, typename Accepts>
void replace_filters(Set set, Accepts accepts) {
  constexpr int kRounds = 12;
  // Room for all of it, however long this process has to wait for a CPU.
  const Handle handle = open_capture({.timeout_ms = 40, .buffer_bytes = 64 << 20});
  pcap_t* p = handle.get();
  Packets packets;
  Traffic traffic;
  std::size_t wrong = 0;
  bool out_of_order = false;
  std::int64_t last = -1;
  std::vector<bool> came;
  const auto judge = [&](int round) {
    for (const Packet& packet : packets) {
      const std::uint32_t number = number_of(packet.bytes);
      if (!accepts(round, number)) ++wrong;
      out_of_order = out_of_order || number <= last;
      last = number;
      if (came.size() <= number) came.resize(number + 1);
      came[number] = true;
      check_frame(packet, {.number = number});
    }
    packets.clear();
  };
  for (int round = 0; round < kRounds; ++round) {
    const auto next = Clock::now() + std::chrono::milliseconds(100);
    set(p, round);
    do {
      CHECK(pcap_dispatch(p, -1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
    } while (Clock::now() < next);
    judge(round);
  }
  std::uint32_t end = traffic.end();
  while (end % 4 != 1) ++end;
  peer().send(end, 1);
  packets = take_until(p, end);
  judge(kRounds - 1);
  std::size_t lost = 0;
  for (std::uint32_t number = 1; number <= end; number += 4) lost += came[number] ? 0 : 1;
  CHECK(stats_of(p).ps_drop == 0, "%u dropped", stats_of(p).ps_drop);
  note("rejected and delivered", "%s", wrong == 0 || is_stock() ? "none" : "some");
  note("accepted and lost", "%s", lost == 0 || is_stock() ? "none" : "some");
  note("order", "%s", out_of_order ? "wrong" : "right");
  if (!is_stock()) CHECK(wrong == 0 && lost == 0, "%zu wrong, %zu lost of %u", wrong, lost, end);
}

void replaced_under_traffic() {
  static constexpr const char* kFilters[] = {"ether[21] & 1 = 1", "ether[21] & 3 = 1", "",
                                             "ether[21] & 3 != 2"};
  replace_filters([](pcap_t* p, int round) { set_filter(p, kFilters[round % 4]); },
                  [](int round, std::uint32_t number) {
                    switch (round % 4) {
                      case 0:
                        return number % 2 == 1;
                      case 1:
                        return number % 4 == 1;
                      case 2:
                        return true;
                      default:
                        return number % 4 != 2;
                    }
                  });
}

void replaced_by_long_ones() {
  std::vector<bpf_insn> code = long_filter(5000);  // odd ones
  replace_filters(
      [&](pcap_t* p, int round) {
        if (round % 2 == 0) {
          CHECK(set_code(p, code) == 0, "%s", pcap_geterr(p));
        } else {
          set_filter(p, "ether[21] & 3 != 2");
        }
      },
      [](int round, std::uint32_t number) {
        return round % 2 == 0 ? number % 2 == 1 : number % 4 != 2;
      });
}

constexpr Scenario kTable[] = {
    {"filters-before-traffic", on_one_cpu<before_traffic>},
    {"filters-cooked", on_one_cpu<before_traffic_cooked>, 60},
    {"filters-on-loopback", on_one_cpu<on_loopback>},
    {"filters-in-kernel-alone", on_one_cpu<in_kernel_alone>},
    {"filters-after-arrival", on_one_cpu<after_arrival>, 60},
    {"filters-after-arrival-and-more", on_one_cpu<after_arrival_and_more>},
    {"filters-too-long", on_one_cpu<too_long>},
    {"filters-too-long-after-kernels", on_one_cpu<too_long_after_kernels>},
    {"filters-past-snapshot", on_one_cpu<past_the_snapshot>},
    {"filters-bad-expressions", on_one_cpu<bad_expressions>},
    {"filters-bad-programs", on_one_cpu<bad_programs>},
    {"filters-under-traffic", replaced_under_traffic},
    {"filters-too-long-under-traffic", replaced_by_long_ones},
};

}  // namespace

extern const std::span<const Scenario> kFiltersScenarios(kTable);

}  // namespace pcapv3::fidelity
