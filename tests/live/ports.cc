// SPDX-License-Identifier: BSD-3-Clause
// Several ports as one handle (see0,see1,...): opening it, its options and its link types. Stock
// libpcap has nothing to compare with, so that the reference is pcap-linux-v3(7) and, for all else,
// a handle on one port.
#include "ports.h"

#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>

#include <fstream>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "capture.h"

namespace pcapv3::live {
namespace {

// ---- Opening

constexpr int kSmallRing = 8 << 20;

void check_opened(pcap_t* p) {
  CHECK(pcap_datalink(p) == DLT_EN10MB, "%d", pcap_datalink(p));
  CHECK(pcap_fileno(p) >= 0, "%d", pcap_fileno(p));
  CHECK(pcap_get_selectable_fd(p) >= 0, "%d", pcap_get_selectable_fd(p));
  CHECK(pcap_get_required_select_timeout(p) == nullptr, "a time-out is required");
  const Players players(2);
  players.send(0, 10);
  check_ports(take_count(p, 20), 2, 0, 10);
}

void open_live() {
  char error[PCAP_ERRBUF_SIZE] = "";
  const Handle handle(pcap_open_live("see0,see1", 1000, 1, 10, error));
  CHECK(handle != nullptr, "%s", error);
  CHECK(error[0] == '\0', "%s", error);
  CHECK(pcap_snapshot(handle.get()) == 1000, "%d", pcap_snapshot(handle.get()));
  check_opened(handle.get());
}

void create_and_activate() {
  const Handle handle = create({.device = "see0,see1", .snaplen = 2000});
  CHECK(pcap_activate(handle.get()) == 0, "%s", pcap_geterr(handle.get()));
  CHECK(pcap_activate(handle.get()) == PCAP_ERROR_ACTIVATED, "activated twice");
  CHECK(pcap_snapshot(handle.get()) == 2000, "%d", pcap_snapshot(handle.get()));
  check_opened(handle.get());
}

void sixty_four_ports() {
  setenv("PCAPV3_BUFFER", "1M", 1);
  const std::string list = list_of(64);
  const Handle handle = open_capture({.device = list.c_str()});
  const Players players(64);
  players.send(0, 20);
  check_ports(take_count(handle.get(), 64 * 20), 64, 0, 20);
  CHECK(stats_of(handle.get()).ps_recv == 64 * 20, "%u", stats_of(handle.get()).ps_recv);
}

/// Activating fails with a text that has all of `parts`.
void check_refused(const std::string& device, std::initializer_list<const char*> parts,
                   int wanted = PCAP_ERROR_NO_SUCH_DEVICE) {
  const Handle handle = create({.device = device.c_str()});
  const int status = pcap_activate(handle.get());
  const std::string text = pcap_geterr(handle.get());
  CHECK(status == wanted, "%s: status %d, %s", device.c_str(), status, text.c_str());
  for (const char* part : parts) {
    CHECK(text.find(part) != std::string::npos, "%s: %s", device.c_str(), text.c_str());
  }
}

void refused_lists() {
  check_refused("see0,nosuch0", {"nosuch0", "No such device"});
  check_refused("nosuch0,see0", {"nosuch0", "No such device"});
  check_refused("see0,see1,see0", {"see0", "twice"});
  check_refused("see0,,see1", {"empty name"});
  check_refused(",see0", {"empty name"});
  check_refused("see0,", {"empty name"});
  check_refused("see0,any", {"any", "can't be one of a list"});
  check_refused("see0,a-name-that-is-much-too-long", {"a-name-that-is-much-too-long"});
  check_refused(list_of(64) + ",see64", {"see64", "64 ports at most"});
}

void refused_settings() {
  for (const char* variable : {"PCAPV3_WINDOW", "PCAPV3_BLOCK", "PCAPV3_FANOUT"}) {
    setenv(variable, "12x", 1);
    check_refused("see0,see1", {variable, "12x"}, PCAP_ERROR);
    unsetenv(variable);
  }
}

void off_is_stock() {
  // As for any name that no interface has.
  setenv("PCAPV3", "off", 1);
  check_refused("nosuch0", {"No such device"});
  check_refused("see0,see1", {"No such device"});
}

void interface_with_a_comma() {
  constexpr char kName[] = "see0,see1";
  ip("link add " + std::string(kName) + " mtu 65535 type veth peer name comma1");
  ip("link set " + std::string(kName) + " arp off up");
  ip("link set comma1 arp off up");
  {
    const Handle handle = open_capture({.device = kName});
    const Sender sender("comma1");
    const Players players(2);
    players.send(0, 5);  // on see0 and see1, which it is not
    sender.send(100, 5);
    check_sequence(take_count(handle.get(), 5), 100, 104);
    const Bytes bytes = bytes_of({});
    CHECK(pcap_inject(handle.get(), bytes.data(), bytes.size()) > 0, "%s",
          pcap_geterr(handle.get()));
  }
  ip("link delete comma1");
}

void lookupnet() {
  bpf_u_int32 net = 1;
  bpf_u_int32 mask = 1;
  char error[PCAP_ERRBUF_SIZE] = "";
  CHECK(pcap_lookupnet("see0,see1", &net, &mask, error) == 0, "%s", error);
  CHECK(net == 0 && mask == 0, "%x %x", net, mask);
}

void device_list() {
  const char* const wanted[] = {"see0,see1", "see2,see3,see4"};
  setenv("PCAPV3_PORTS", "see0,see1;see2,see3,see4", 1);
  char error[PCAP_ERRBUF_SIZE] = "";
  pcap_if_t* devices = nullptr;
  CHECK(pcap_findalldevs(&devices, error) == 0, "%s", error);
  unsigned found = 0;
  for (const pcap_if_t* device = devices; device != nullptr; device = device->next) {
    for (const char* name : wanted) {
      if (std::string_view(device->name) != name) continue;
      ++found;
      const auto up = static_cast<bpf_u_int32>(PCAP_IF_UP | PCAP_IF_RUNNING);
      CHECK((device->flags & up) == up, "%s: flags %x", name, device->flags);
      const Handle handle = open_capture({.device = device->name});
    }
  }
  CHECK(found == 2, "%u of two are listed", found);
  pcap_freealldevs(devices);

  for (const char* bad : {"see0,see0", "see0", "see0,see1;;see2,see3", "see0,"}) {
    setenv("PCAPV3_PORTS", bad, 1);
    CHECK(pcap_findalldevs(&devices, error) == PCAP_ERROR, "PCAPV3_PORTS=%s is taken", bad);
    CHECK(std::string_view(error).find("PCAPV3_PORTS") != std::string_view::npos, "%s", error);
  }
}

void nothing_is_left() {
  const std::size_t before = count_descriptors();
  const struct {
    const char* device;
    bool opens;
    bool activated = true;
  } cases[] = {{"see0,see1,see2", true},
               {"see0,see1,see2", true, false},
               {"see0,see1,nosuch0", false},
               {"see0,see0", false}};
  for (int round = 0; round < 4; ++round) {
    for (const auto& test : cases) {
      const Handle handle = create({.device = test.device, .buffer_bytes = kSmallRing});
      if (!test.activated) continue;
      const int status = pcap_activate(handle.get());
      CHECK((status == 0) == test.opens, "%s: status %d", test.device, status);
      if (test.opens) {
        CHECK(count_rings() == 3, "%zu rings", count_rings());
        set_datalink(handle.get(), DLT_LINUX_SLL2);
      } else {
        CHECK(count_descriptors() == before && count_rings() == 0,
              "%s: %zu descriptors more, %zu rings", test.device, count_descriptors() - before,
              count_rings());
      }
    }
    setenv("PCAPV3_BLOCK", "4097", 1);
    check_refused("see0,see1", {"PCAPV3_BLOCK"}, PCAP_ERROR);
    unsetenv("PCAPV3_BLOCK");
    setenv("PCAPV3_BUFFER", "much", 1);  // found out before any port is opened
    check_refused("see0,see1", {"PCAPV3_BUFFER"}, PCAP_ERROR);
    unsetenv("PCAPV3_BUFFER");
    ip("link property add dev see1 altname other1");
    check_refused("see0,see1,other1", {"other1", "same interface"}, PCAP_ERROR);
    ip("link property del dev see1 altname other1");
    CHECK(count_descriptors() == before, "%zu descriptors, not %zu", count_descriptors(), before);
    CHECK(count_rings() == 0, "%zu rings", count_rings());
  }
}

// ---- Options

void snapshot_length() {
  for (const char* filter : {static_cast<const char*>(nullptr), "ether proto 0x88b5"}) {
    const Handle handle = open_capture({.device = "see0,see1", .snaplen = 60});
    if (filter != nullptr) set_filter(handle.get(), filter);
    const Players players(2);
    players.send(0, 50);
    const Packets packets = take_count(handle.get(), 100);
    for (const Packet& packet : packets)
      check_frame(packet, {.number = number_of(packet.bytes)}, 60);
  }
}

void promiscuous() {
  for (const bool wanted : {false, true}) {
    {
      const Handle handle = create({.device = "see0,see1"});
      CHECK(pcap_set_promisc(handle.get(), wanted) == 0, "%s", pcap_geterr(handle.get()));
      CHECK(pcap_activate(handle.get()) == 0, "%s", pcap_geterr(handle.get()));
      CHECK(is_promiscuous(see(0)) == wanted && is_promiscuous(see(1)) == wanted,
            "%d, but %d and %d", wanted, is_promiscuous(see(0)), is_promiscuous(see(1)));
    }
    CHECK(!is_promiscuous(see(0)) && !is_promiscuous(see(1)), "still promiscuous");
  }
}

void buffer_size() {
  for (const unsigned mib : {16, 32}) {
    Record debug("PCAPV3_DEBUG");
    {
      const Handle handle =
          open_capture({.device = "see0,see1", .buffer_bytes = static_cast<int>(mib << 20)});
    }
    for (const unsigned port : {0u, 1u}) {
      unsigned blocks = 0;
      unsigned kib = 0;
      const std::string line = line_of(debug.text(), see(port));
      const std::size_t at = line.find("ring, ");
      CHECK(at != line.npos &&
                std::sscanf(line.c_str() + at, "ring, %u blocks of %u KiB", &blocks, &kib) == 2,
            "%s", debug.text().c_str());
      CHECK(blocks * kib == mib * 1024, "%u blocks of %u KiB for %u MiB", blocks, kib, mib);
    }
  }
}

void nanoseconds() {
  const Handle handle =
      open_capture({.device = "see0,see1", .precision = PCAP_TSTAMP_PRECISION_NANO});
  CHECK(pcap_get_tstamp_precision(handle.get()) == PCAP_TSTAMP_PRECISION_NANO, "microseconds");
  const Players players(2);
  const std::uint64_t before = now_ns();
  players.send(0, 100);
  const Packets packets = take_count(handle.get(), 200);
  check_ports(packets, 2, 0, 100);
  bool fine = false;
  for (const Packet& packet : packets) {
    CHECK(stamp_ns(packet.header) >= before && stamp_ns(packet.header) <= now_ns(), "%llu",
          static_cast<unsigned long long>(stamp_ns(packet.header)));
    fine = fine || packet.header.ts.tv_usec % 1000 != 0;
  }
  CHECK(fine, "no stamp is finer than a microsecond");
}

void time_stamp_types() {
  const Handle handle = create({.device = "see0,see1"});
  int* types = nullptr;
  const int count = pcap_list_tstamp_types(handle.get(), &types);
  CHECK(count >= 0, "%s", pcap_geterr(handle.get()));
  bool host = count == 0;  // none to choose from: the host's
  for (int i = 0; i < count; ++i) host = host || types[i] == PCAP_TSTAMP_HOST;
  pcap_free_tstamp_types(types);
  CHECK(host, "no time stamps by the host's clock");
}

void immediate_mode() {
  Record stats("PCAPV3_STATS");
  {
    const Handle handle =
        open_capture({.device = "see0,see1", .timeout_ms = 5000, .immediate = true});
    const Players players(2);
    const auto start = Clock::now();
    for (std::uint32_t i = 0; i < 20; ++i) {
      players.send(i, 1);
      check_ports(take_count(handle.get(), 2), 2, i, 1);
    }
    CHECK(seconds_since(start) < 4, "%.3f s", seconds_since(start));
  }
  for (const unsigned port : {0u, 1u}) {
    CHECK(line_of(stats.text(), see(port)).find("retire timeout 1 ms") != std::string::npos, "%s",
          stats.text().c_str());
  }
}

void monitor_mode() {
  const Handle handle = create({.device = "see0,see1"});
  CHECK(pcap_set_rfmon(handle.get(), 1) == 0, "%s", pcap_geterr(handle.get()));
  const int status = pcap_activate(handle.get());
  CHECK(status == PCAP_ERROR_RFMON_NOTSUP, "status %d", status);
}

// ---- Link types

unsigned interface_of(const Packet& packet) { return read32(&packet.bytes[4]); }

void check_sll2(const Packets& packets, unsigned ports, std::uint32_t first, std::uint32_t count) {
  check_numbers(packets, ports, first, count);
  for (const Packet& packet : packets) {
    const unsigned port = sender_of(number_of(packet.bytes));
    CHECK(read16(packet.bytes.data()) == kEtherType, "protocol %x", read16(packet.bytes.data()));
    CHECK(read16(&packet.bytes[8]) == ARPHRD_ETHER, "hardware type %u", read16(&packet.bytes[8]));
    CHECK(packet.bytes[10] == PACKET_OTHERHOST, "packet type %u", packet.bytes[10]);
    CHECK(interface_of(packet) == if_nametoindex(see(port).c_str()), "%s: index %u",
          see(port).c_str(), interface_of(packet));
    CHECK(packet.header.len == 100 - ETH_HLEN + 20, "%u bytes", packet.header.len);
  }
}

void ethernet_datalinks() {
  const std::vector<int> types = {DLT_EN10MB, DLT_DOCSIS, DLT_LINUX_SLL2};
  const Players players(3);
  for (const int type : types) {
    const Handle handle = open_capture({.device = "see0,see1,see2"});
    pcap_t* p = handle.get();
    CHECK(datalinks_of(p) == types, "other types");
    // There and back again, as often as one likes, until packets are read.
    for (const int other : {DLT_LINUX_SLL2, DLT_DOCSIS, DLT_LINUX_SLL2, DLT_EN10MB}) {
      set_datalink(p, other);
      CHECK(datalinks_of(p) == types, "other types");
    }
    set_datalink(p, type);
    CHECK(pcap_set_datalink(p, DLT_LINUX_SLL) == PCAP_ERROR, "LINUX_SLL was not offered");
    players.send(0, 20);
    const Packets packets = take_count(p, 60);
    if (type == DLT_LINUX_SLL2) {
      check_sll2(packets, 3, 0, 20);
    } else {
      check_ports(packets, 3, 0, 20);
    }
    const int another = type == DLT_LINUX_SLL2 ? DLT_EN10MB : DLT_LINUX_SLL2;
    CHECK(pcap_set_datalink(p, another) == PCAP_ERROR, "changed after packets were read");
    CHECK(pcap_datalink(p) == type, "%d", pcap_datalink(p));
    players.send(20, 20);
    CHECK(take_count(p, 60).size() == 60, "no packets after that");
  }
}

/// A tun device, which has packets without a link-layer header; it goes away with its descriptor.
class Tun {
 public:
  explicit Tun(const char* name) {
    fd_ = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    ifreq request = {};
    std::snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    if (fd_ < 0 || ioctl(fd_, TUNSETIFF, &request) != 0) skip("there are no tun devices");
    ip("link set " + std::string(name) + " up");
  }
  ~Tun() { close(fd_); }
  Tun(const Tun&) = delete;
  Tun& operator=(const Tun&) = delete;

  /// An IPv4 packet of 100 bytes with a number that number_of() finds.
  void send(std::uint32_t number) const {
    Bytes bytes = {0x45, 0, 0, 100, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2};
    append32(bytes, kMagic);
    append32(bytes, number);
    bytes.resize(100);
    if (write(fd_, bytes.data(), bytes.size()) < 0) give_up("tun");
  }

 private:
  int fd_ = -1;
};

void mixed_link_types() {
  const Tun tun("tun0");
  const Handle handle = open_capture({.device = "see0,tun0"});
  pcap_t* p = handle.get();
  CHECK(pcap_datalink(p) == DLT_LINUX_SLL2, "%d", pcap_datalink(p));
  CHECK(datalinks_of(p) == std::vector<int>{DLT_LINUX_SLL2}, "other types");
  const Players players(1);
  for (std::uint32_t i = 0; i < 20; ++i) {
    players.send(i, 1);
    tun.send(marked(1, i));
  }
  const Packets packets = take_count(p, 40);
  check_numbers(packets, 2, 0, 20);
  for (const Packet& packet : packets) {
    const bool from_tun = sender_of(number_of(packet.bytes)) == 1;
    CHECK(interface_of(packet) == if_nametoindex(from_tun ? "tun0" : "see0"), "index %u",
          interface_of(packet));
    CHECK(read16(packet.bytes.data()) == (from_tun ? ETHERTYPE_IP : kEtherType), "protocol %x",
          read16(packet.bytes.data()));
    CHECK(read16(&packet.bytes[8]) == (from_tun ? ARPHRD_NONE : ARPHRD_ETHER), "hardware type %u",
          read16(&packet.bytes[8]));
  }
}

void filter_on_sll2() {
  const Handle handle = open_capture({.device = "see0,see1"});
  pcap_t* p = handle.get();
  set_datalink(p, DLT_LINUX_SLL2);
  const Players players(2);
  players.send(0, 10);
  wait_until_received(p, 20);
  const std::string second = "ifindex " + std::to_string(if_nametoindex("see1"));
  set_filter(p, second.c_str());
  players.send(10, 10);
  const Packets packets = take_count(p, 20);
  for (std::uint32_t i = 0; i < 20; ++i) {
    CHECK(number_of(packets[i].bytes) == marked(1, i), "frame %x", number_of(packets[i].bytes));
  }
  set_filter(p, "ether proto 0x88b5");
  players.send(20, 10);
  check_sll2(take_count(p, 20), 2, 20, 10);
  CHECK(pcap_set_datalink(p, DLT_EN10MB) == PCAP_ERROR, "changed under a filter");
  CHECK(pcap_datalink(p) == DLT_LINUX_SLL2, "%d", pcap_datalink(p));
}

const Test kTests[] = {
    {"pcap_open_live opens it", open_live},
    {"pcap_create and pcap_activate open it", create_and_activate},
    {"64 ports", sixty_four_ports},
    {"lists that can't be used are refused, with the reason", refused_lists},
    {"settings that can't be used are refused", refused_settings},
    {"PCAPV3=off: there is no such device", off_is_stock},
    {"an interface with such a name goes before the list", interface_with_a_comma},
    {"pcap_lookupnet has no network", lookupnet},
    {"PCAPV3_PORTS shows it in the device list", device_list},
    {"no descriptor or ring is left behind", nothing_is_left},
    {"snapshot length", snapshot_length},
    {"promiscuous mode is each port's", promiscuous},
    {"the buffer size is each port's", buffer_size},
    {"nanoseconds", nanoseconds},
    {"time-stamp types", time_stamp_types},
    {"immediate mode", immediate_mode},
    {"there is no monitor mode", monitor_mode},
    {"link types of Ethernet ports", ethernet_datalinks},
    {"mixed link types become LINUX_SLL2", mixed_link_types},
    {"filters on LINUX_SLL2", filter_on_sll2},
};
const Registration kRegistration(
    {.name = "ports", .tests = kTests, .links = 64, .settings = "PCAPV3_WINDOW=2000"});

}  // namespace
}  // namespace pcapv3::live
