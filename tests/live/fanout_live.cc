// Several handles that share an interface's packets: who gets which, that each comes once, and what
// becomes of the share of one that goes. In one process, where every function can be watched; whole
// programs and real traffic are fanout.test's.
#include <netinet/in.h>

#include <atomic>
#include <map>
#include <set>

#include "capture.h"
#include "frames.h"
#include "harness.h"
#include "ports.h"

namespace pcapv3::live {
namespace {

const char* peer() { return link_arguments().peer; }

/// Handles opened from here on are in this group.
void join(const char* setting) { setenv("PCAPV3_FANOUT", setting, 1); }

using Handles = std::vector<Handle>;

Handles open_members(std::size_t count, const Options& options = {}) {
  Handles handles;
  for (std::size_t i = 0; i < count; ++i) {
    handles.push_back(open_capture(options));
    set_nonblock(handles.back().get());
  }
  return handles;
}

/// What each handle took.
using Shares = std::vector<Packets>;

std::size_t total(const Shares& shares) {
  std::size_t sum = 0;
  for (const Packets& share : shares) sum += share.size();
  return sum;
}

/// Takes packets from all handles until there are `count`.
void take(const Handles& handles, std::size_t count, Shares& shares) {
  shares.resize(handles.size());
  while (total(shares) < count) {
    for (std::size_t i = 0; i < handles.size(); ++i) {
      if (handles[i] == nullptr) continue;
      const int taken = pcap_dispatch(handles[i].get(), -1, keep, user(shares[i]));
      CHECK(taken >= 0, "status %d, %s", taken, pcap_geterr(handles[i].get()));
    }
    std::this_thread::yield();
  }
}

/// Which handle got the frame of each number.
std::map<std::uint32_t, std::size_t> owners_of(const Shares& shares) {
  std::map<std::uint32_t, std::size_t> owners;
  for (std::size_t i = 0; i < shares.size(); ++i) {
    for (const Packet& packet : shares[i]) {
      const std::uint32_t number = number_of(packet.bytes);
      const auto [at, is_new] = owners.try_emplace(number, i);
      CHECK(is_new, "frame %u came to handle %zu and to handle %zu", number, at->second, i);
    }
  }
  return owners;
}

/// Frames 0 to `count` have come, each to one of the handles; the last is sent now. By the kernel's
/// counts there is nothing else for them, but for `rejected` packets.
void take_all_once(const Handles& handles, const Sender& sender, std::uint32_t count,
                   Shares& shares, unsigned rejected = 0) {
  sender.send({.number = count});
  take(handles, count + 1, shares);
  const auto owners = owners_of(shares);
  CHECK(owners.size() == count + 1 && owners.rbegin()->first == count, "%zu frames up to %u",
        owners.size(), owners.rbegin()->first);
  unsigned received = 0;
  for (const Handle& handle : handles) received += stats_of(handle.get()).ps_recv;
  CHECK(received == count + 1 + rejected, "%u packets in the rings for %u frames", received,
        count + 1);
}

/// Whether the kernel keeps outgoing packets from a group: by a group of another socket's.
bool knows_flag() {
  const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
  sockaddr_ll address = {};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(if_nametoindex("lo"));
  constexpr int kIgnoreOutgoing = 0x4000;  // PACKET_FANOUT_FLAG_IGNORE_OUTGOING
  const int group = (PACKET_FANOUT_HASH | kIgnoreOutgoing) << 16 | 99;
  CHECK(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
            setsockopt(fd, SOL_PACKET, PACKET_FANOUT, &group, sizeof(group)) == 0,
        "%s", std::strerror(errno));
  Sender("lo").send({});
  int copies = 0;
  for (char byte; copies < 2 && recv(fd, &byte, 1, 0) > 0;) ++copies;
  close(fd);
  return copies == 1;
}

// ---- Frames that belong to flows

struct Flow {
  bool six = false;  // IP version
  std::uint8_t protocol = IPPROTO_UDP;
  std::uint16_t number = 0;
};

void append_address(Bytes& bytes, const Flow& flow, bool far) {
  if (flow.six) {
    append32(bytes, 0xfd000000);
    append32(bytes, 0);
    append32(bytes, 0);
  }
  append32(bytes, 0x0a000000u + (far ? 0x10000u : 0) + flow.number);
}

/// A packet of the flow, from one end of it or `back` from the other.
Bytes packet_of(const Flow& flow, bool back, std::uint32_t number) {
  constexpr std::uint16_t kLength = 28;  // of what follows the IP header
  Bytes bytes(kNobody.begin(), kNobody.end());
  bytes.insert(bytes.end(), kSomebody.begin(), kSomebody.end());
  append16(bytes, flow.six ? 0x86dd : 0x0800);
  if (flow.six) {
    append32(bytes, 0x60000000);
    append16(bytes, kLength);
    append16(bytes, static_cast<std::uint16_t>(flow.protocol << 8 | 64));
  } else {
    append16(bytes, 0x4500);
    append16(bytes, 20 + kLength);
    append32(bytes, 0);
    append16(bytes, static_cast<std::uint16_t>(64 << 8 | flow.protocol));
    append16(bytes, 0);
  }
  append_address(bytes, flow, back);
  append_address(bytes, flow, !back);
  const bool is_icmp = flow.protocol == IPPROTO_ICMP || flow.protocol == IPPROTO_ICMPV6;
  if (is_icmp) {
    append32(bytes, flow.six ? (back ? 0x81000000 : 0x80000000) : (back ? 0 : 0x08000000));
  } else {
    append16(bytes, static_cast<std::uint16_t>(back ? 53 : 4000 + flow.number));
    append16(bytes, static_cast<std::uint16_t>(back ? 4000 + flow.number : 53));
  }
  if (flow.protocol != IPPROTO_TCP) append32(bytes, 0);
  append32(bytes, kMagic);  // TCP's sequence numbers
  append32(bytes, number);
  while (bytes.size() < 14u + (flow.six ? 40 : 20) + kLength) bytes.push_back(0x50);
  return bytes;
}

void test_hash_keeps_flows() {
  join("7");
  const Handles handles = open_members(3);
  const Sender sender("play0", peer());
  constexpr std::uint16_t kFlows = 60;  // of each kind
  std::vector<Flow> flows;
  for (std::uint16_t i = 0; i < kFlows; ++i) {
    for (const bool six : {false, true}) {
      flows.push_back({six, IPPROTO_TCP, i});
      flows.push_back({six, IPPROTO_UDP, i});
      const std::uint8_t icmp[] = {IPPROTO_ICMP, IPPROTO_ICMPV6};
      flows.push_back({six, icmp[six], i});
    }
  }
  const auto count = static_cast<std::uint32_t>(flows.size());
  for (std::uint32_t i = 0; i < 4 * count; ++i) {
    CHECK(sender.try_send(packet_of(flows[i % count], i / count % 2 == 1, i)), "%s",
          std::strerror(errno));
  }
  Shares shares;
  take_all_once(handles, sender, 4 * count, shares);
  const auto owners = owners_of(shares);
  std::set<std::size_t> used;
  for (std::uint32_t i = 0; i < 4 * count; ++i) {
    const Flow& flow = flows[i % count];
    CHECK(owners.at(i) == owners.at(i % count), "IPv%d protocol %u flow %u: packet %u is apart",
          flow.six ? 6 : 4, flow.protocol, flow.number, i / count);
    used.insert(owners.at(i));
  }
  CHECK(used.size() == handles.size(), "only %zu handles got something", used.size());
}

void test_fragments() {
  join("7:hash");
  const Handles handles = open_members(3);
  const Sender sender("play0", peer());
  constexpr std::uint16_t kFlows = 20;
  for (std::uint16_t i = 0; i < kFlows; ++i) {
    const Flow flow = {false, IPPROTO_UDP, i};
    const Bytes whole = packet_of(flow, false, i);
    CHECK(sender.try_send(whole), "%s", std::strerror(errno));
    // The same datagram in three parts of 8, 8 and 12 bytes; only the first has the ports.
    Bytes numbered = packet_of(flow, true, i + 1000u);
    for (std::uint16_t part = 0; part < 3; ++part) {
      Bytes bytes(numbered.begin(), numbered.begin() + 34);
      const auto from = numbered.begin() + 34 + 8 * part;
      bytes.insert(bytes.end(), from, part == 2 ? numbered.end() : from + 8);
      bytes[17] = static_cast<std::uint8_t>(bytes.size() - 14);
      bytes[19] = static_cast<std::uint8_t>(i);  // identification
      bytes[20] = part == 2 ? 0 : 0x20;          // more fragments
      bytes[21] = static_cast<std::uint8_t>(part);
      CHECK(sender.try_send(bytes), "%s", std::strerror(errno));
    }
  }
  Shares shares;
  take(handles, 2 * kFlows, shares);
  const auto owners = owners_of(shares);
  for (std::uint16_t i = 0; i < kFlows; ++i) {
    CHECK(owners.count(i) == 1 && owners.count(i + 1000u) == 1, "datagram %u did not come", i);
    CHECK(owners.at(i) == owners.at(i + 1000u), "the fragments of flow %u came to another", i);
  }
  for (const Packets& share : shares) {
    for (const Packet& packet : share) {
      CHECK(packet.header.len == 62, "a packet of %u bytes", packet.header.len);
    }
  }
}

void test_modes() {
  const Sender sender("play0", peer());
  for (const char* mode : {"7:lb", "7:cpu", "7:rollover", "7:random", "7:qm"}) {
    join(mode);
    const Handles handles = open_members(2);
    constexpr std::uint32_t kCount = 400;
    sender.send(0, kCount - 1);
    Shares shares;
    take_all_once(handles, sender, kCount - 1, shares);
    std::printf("# %s: %zu and %zu\n", mode, shares[0].size(), shares[1].size());
    const bool half = shares[0].size() == kCount / 2;
    if (std::strcmp(mode, "7:lb") == 0) CHECK(half, "lb: %zu frames", shares[0].size());
    if (std::strcmp(mode, "7:random") == 0) {
      CHECK(!shares[0].empty() && !shares[1].empty(), "random: one got nothing");
    }
    // Only one CPU sends, the ring of the first has room, and the interface has one queue.
    if (std::strcmp(mode, "7:rollover") == 0 || std::strcmp(mode, "7:qm") == 0) {
      CHECK(shares[0].empty() || shares[1].empty(), "%s: both got some", mode);
    }
  }
}

std::string why_not(const Options& options) {
  const Handle handle = create(options);
  const int status = pcap_activate(handle.get());
  CHECK(status == PCAP_ERROR, "status %d", status);
  return pcap_geterr(handle.get());
}

void test_errors() {
  join("7:hash");
  const Handle first = open_capture();
  const std::size_t descriptors = count_descriptors();
  join("7:lb");
  const std::string text = why_not({});
  for (const char* part : {"PCAPV3_FANOUT=7:lb", "group 7 on see0", "another mode"}) {
    CHECK(text.find(part) != text.npos, "%s", text.c_str());
  }
  const std::string of_port = why_not({.device = "see1,see0"});
  CHECK(of_port.starts_with("see0: PCAPV3_FANOUT=7:lb: "), "%s", of_port.c_str());
  join("7:heap");
  const std::string wanted = why_not({});
  CHECK(wanted.find("rollover") != wanted.npos, "%s", wanted.c_str());
  CHECK(count_descriptors() == descriptors, "%zu descriptors, not %zu", count_descriptors(),
        descriptors);
  // Another group, another interface, all interfaces.
  join("8:lb");
  const Handle other_group = open_capture();
  join("7:lb");
  const Handle other_device = open_capture({.device = "see1"});
  const Handle any = open_capture({.device = "any"});
  // The group goes with its last member.
  pcap_close(const_cast<Handle&>(first).release());
  const Handle again = open_capture();
}

void test_stranger() {
  join("7:hash");
  const Handle handle = open_capture();
  int group = 0;
  socklen_t length = sizeof(group);
  CHECK(getsockopt(pcap_fileno(handle.get()), SOL_PACKET, PACKET_FANOUT, &group, &length) == 0,
        "%s", std::strerror(errno));
  CHECK((group & 0xffff) >= 0x8000, "group %d", group & 0xffff);
  constexpr int kMode = PACKET_FANOUT_HASH | PACKET_FANOUT_FLAG_DEFRAG;
  CHECK((group >> 16 & 0xffff) == kMode, "mode %x", group >> 16 & 0xffff);
  // A group of the same number that another program has made is not joined.
  join("8:hash");
  Handle mine = open_capture();
  CHECK(getsockopt(pcap_fileno(mine.get()), SOL_PACKET, PACKET_FANOUT, &group, &length) == 0, "%s",
        std::strerror(errno));
  mine.reset();
  const int stranger = socket(AF_PACKET, SOCK_RAW, 0);
  sockaddr_ll address = {};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(if_nametoindex("see0"));
  CHECK(bind(stranger, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
            setsockopt(stranger, SOL_PACKET, PACKET_FANOUT, &group, sizeof(group)) == 0,
        "%s", std::strerror(errno));
  const std::string text = why_not({});
  CHECK(text.find("another program's group has the same number") != text.npos, "%s", text.c_str());
  close(stranger);
}

void test_loopback() {
  const bool flag = knows_flag();
  // The two copies of a packet come to one handle; by lb, each to another.
  for (const char* mode : {"7:hash", "7:lb"}) {
    join(mode);
    for (const char* device : {"lo", "any"}) {
      const Handles handles = open_members(2, {.device = device});
      const Sender sender("lo");
      Shares shares;
      sender.send(0, 300);
      // Of all interfaces, or by a kernel that does not know the flag, both are in the ring.
      const bool twice = std::strcmp(device, "any") == 0 || !flag;
      take_all_once(handles, sender, 300, shares, twice ? 301 : 0);
    }
  }
}

void test_wishes() {
  join("7:lb");
  const Sender sender("play0", peer());
  // A snapshot length, first with no filter, and on all interfaces.
  for (const char* device : {"see0", "any"}) {
    const Handles handles = open_members(2, {.device = device, .snaplen = 60});
    Shares shares;
    sender.send(0, 300);
    take_all_once(handles, sender, 300, shares);
    for (const Packets& share : shares) {
      for (const Packet& packet : share) {
        CHECK(packet.header.caplen == 60 && packet.header.len > 60, "%u of %u bytes",
              packet.header.caplen, packet.header.len);
      }
    }
  }
  // A filter, that the kernel runs, or that the library does.
  for (const bool in_kernel : {true, false}) {
    const Handles handles = open_members(2);
    for (const Handle& handle : handles) {
      if (in_kernel) set_filter(handle.get(), kOdd);
      if (!in_kernel) set_long_filter(handle.get());
    }
    Shares shares;
    sender.send(0, 300);
    take(handles, 150, shares);
    for (const auto& [number, owner] : owners_of(shares)) CHECK(number % 2 == 1, "%u", number);
  }
  // A direction, which is set when the handle is in its group.
  const Handles in = open_members(2);
  const Sender outward("see0");
  for (const Handle& handle : in) set_direction(handle.get(), PCAP_D_IN);
  for (std::uint32_t i = 0; i < 200; ++i) {
    outward.send({.number = 1000 + i});
    sender.send({.number = i});
  }
  Shares shares;
  take_all_once(in, sender, 200, shares, 200);
}

void test_immediate_v2() {
  setenv("PCAPV3_IMMEDIATE", "v2", 1);
  join("7:lb");
  const Record debug("PCAPV3_DEBUG");
  const Handles handles = open_members(2, {.snaplen = 200, .immediate = true});
  CHECK(debug.text().find("V2") != std::string::npos, "%s", debug.text().c_str());
  const Sender sender("play0", peer());
  Shares shares;
  sender.send(0, 300);
  take_all_once(handles, sender, 300, shares);
}

void test_aggregate() {
  join("7:lb");
  const Handles handles = open_members(2, {.device = "see0,see1"});
  const Players players(2);
  players.send(0, 300);
  Shares shares;
  take(handles, 600, shares);
  for (const Packets& share : shares) {
    unsigned of_port[2] = {};
    for (const Packet& packet : share) ++of_port[sender_of(number_of(packet.bytes))];
    CHECK(of_port[0] == 150 && of_port[1] == 150, "%u and %u frames", of_port[0], of_port[1]);
  }
  CHECK(owners_of(shares).size() == 600, "%zu frames", owners_of(shares).size());
}

/// Reads until the library says so of both handles.
void take_until_told(const Handles& handles, const Record& debug, const std::string& line,
                     Shares& shares) {
  for (std::size_t count = 0; count < handles.size();) {
    for (std::size_t i = 0; i < handles.size(); ++i) {
      CHECK(pcap_dispatch(handles[i].get(), -1, keep, user(shares[i])) >= 0, "%s",
            pcap_geterr(handles[i].get()));
    }
    const std::string text = debug.text();
    count = 0;
    for (std::size_t at = 0; (at = text.find(line, at)) != text.npos; ++at) ++count;
  }
}

void test_coming_back() {
  join("7:lb");
  const Record debug("PCAPV3_DEBUG");
  const Handles handles = open_members(2, {.device = "see0,see1"});
  for (const Handle& handle : handles) set_filter(handle.get(), kOdd);
  Shares shares(2);
  Players(2).send(0, 200);
  ip("link delete see1");
  take_until_told(handles, debug, "see1: the interface is gone", shares);
  make_port(1);
  take_until_told(handles, debug, "see1: the interface is back", shares);
  take(handles, 200, shares);
  CHECK(owners_of(shares).size() == 200, "%zu frames before", owners_of(shares).size());
  Players(2).send(200, 200);
  take(handles, 400, shares);
  for (const Packets& share : shares) {
    unsigned of_port[2] = {};
    for (const Packet& packet : share) ++of_port[sender_of(number_of(packet.bytes))];
    // In turn, of which the filter lets every other one through: one gets them all.
    CHECK(of_port[0] == 200 || of_port[0] == 0, "%u of port 0", of_port[0]);
    CHECK(of_port[1] % 100 == 0, "%u of port 1", of_port[1]);
  }
  const auto owners = owners_of(shares);
  CHECK(owners.size() == 400, "%zu frames", owners.size());
  for (const auto& [number, owner] : owners) CHECK(number % 2 == 1, "frame %u", number);
  unsigned received = 0;
  for (const Handle& handle : handles) received += stats_of(handle.get()).ps_recv;
  CHECK(received == 400, "%u received", received);
}

void test_off() {
  setenv("PCAPV3", "off", 1);
  join("7:lb");
  const Handles handles = open_members(2);
  const Sender sender("play0", peer());
  sender.send(0, 100);
  for (const Handle& handle : handles) check_sequence(take_until(handle.get(), 99), 0, 99);
}

/// Sends frames from 0 on, one by one, while it lasts.
class Traffic {
 public:
  explicit Traffic(const char* interface = "play0") : sender_(interface, peer()) {
    thread_ = std::thread([this] {
      while (!stop_) {
        sender_.send({.number = sent_});
        ++sent_;
        const timespec pause = {.tv_sec = 0, .tv_nsec = 20'000};
        nanosleep(&pause, nullptr);
      }
    });
  }
  /// How many there were.
  std::uint32_t stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
    return sent_;
  }
  void wait_for(std::uint32_t more) const {
    const std::uint32_t until = sent_ + more;
    while (sent_ < until) std::this_thread::yield();
  }

 private:
  Sender sender_;
  std::atomic<bool> stop_ = false;
  std::atomic<std::uint32_t> sent_ = 0;
  std::thread thread_;
};

/// While traffic comes, handles join one after the other. None of them gets what another one gets,
/// also in the moment between being bound and being in the group.
void test_joining() {
  join("7:lb");
  Handles handles = open_members(1);
  Traffic traffic;
  for (int i = 0; i < 5; ++i) {
    traffic.wait_for(300);
    handles.push_back(std::move(open_members(1)[0]));
  }
  traffic.wait_for(300);
  const std::uint32_t sent = traffic.stop();
  const Sender last("play0", peer());
  Shares shares(handles.size());
  std::uint32_t extra = 0;
  for (std::size_t i = 0; i < handles.size(); ++i) {
    while (shares[i].empty() || number_of(shares[i].back().bytes) < sent) {
      last.send({.number = sent + extra++});
      CHECK(pcap_dispatch(handles[i].get(), -1, keep, user(shares[i])) >= 0, "%s",
            pcap_geterr(handles[i].get()));
    }
  }
  const auto owners = owners_of(shares);
  const auto end = owners.lower_bound(sent);
  std::printf("# %td of %u frames came, over 5 joinings\n", std::distance(owners.begin(), end),
              sent);
}

/// While traffic comes, one handle is told to end, and closed. What nobody gets came between its
/// last packet and its closing; all that came later goes to the other.
void test_leaving(const char* device) {
  join("7:lb");
  Handles handles = open_members(1, {.device = device});
  const Record stats("PCAPV3_STATS");
  Handle leaving = open_capture({.device = device});
  Traffic traffic;
  Packets of_leaving;
  std::thread reader([&] {
    const int status = pcap_loop(leaving.get(), -1, keep, user(of_leaving));
    CHECK(status == PCAP_ERROR_BREAK, "%d", status);
    leaving.reset();
  });
  traffic.wait_for(1000);
  pcap_breakloop(leaving.get());
  reader.join();
  traffic.wait_for(100);  // the socket's hook may run once more after its closing
  const std::uint32_t from = traffic.stop();
  const Sender sender("play0", peer());
  sender.send(from, 1000);
  Shares shares;
  handles.push_back(nullptr);
  shares.resize(2);
  while (shares[0].empty() || number_of(shares[0].back().bytes) != from + 999) {
    CHECK(pcap_dispatch(handles[0].get(), -1, keep, user(shares[0])) >= 0, "%s",
          pcap_geterr(handles[0].get()));
  }
  shares[1] = std::move(of_leaving);
  const auto owners = owners_of(shares);
  const std::uint32_t last = number_of(shares[1].back().bytes);
  std::uint32_t lost = 0;
  for (std::uint32_t number = 0; number < from + 1000; ++number) {
    if (owners.count(number) == 1) continue;
    ++lost;
    CHECK(number > last && number < from, "frame %u did not come; the last of the other was %u",
          number, last);
  }
  const unsigned undelivered = figure(stats.text(), "see0", "undelivered");
  CHECK(undelivered <= lost, "%u frames came to nobody, but %u were undelivered", lost,
        undelivered);
  std::printf("# %u of %u frames came to nobody; told of %u\n", lost, from, undelivered);
}
void test_leaving_one() { test_leaving("see0"); }
void test_leaving_several() { test_leaving("see0,see1"); }

constexpr Test kTests[] = {
    {"hash keeps both directions of a flow together", test_hash_keeps_flows},
    {"fragments come whole, where their flow goes", test_fragments},
    {"every mode hands out each packet once", test_modes},
    {"what can't be joined is an error", test_errors},
    {"strangers' groups are left alone", test_stranger},
    {"each packet of loopback comes once", test_loopback},
    {"snapshot length, filter and direction", test_wishes},
    {"immediate mode on V2", test_immediate_v2},
    {"two aggregates share each port", test_aggregate},
    {"a port of two aggregates goes and comes back", test_coming_back},
    {"PCAPV3=off: no group", test_off},
    {"joining in full traffic", test_joining},
    {"leaving in full traffic", test_leaving_one},
    {"leaving in full traffic, of several ports", test_leaving_several},
};

const Registration kRegistration({.name = "fanout", .tests = kTests, .links = 2});

}  // namespace
}  // namespace pcapv3::live
