// SPDX-License-Identifier: BSD-3-Clause
// Ports of a handle on several, when something can't be set on all of them, when one is not there
// or not up, and when the reader is in another network namespace.
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/epoll.h>
#include <sys/resource.h>

#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "capture.h"
#include "faults.h"
#include "interposed.h"
#include "ports.h"

namespace pcapv3::live {
namespace {

// ---- Setting something on all ports

constexpr char kPorts[] = "see0,see1";

/// The library's packet socket on an interface; -1: there is none.
int socket_on(const std::string& interface) {
  const unsigned index = if_nametoindex(interface.c_str());
  for (const int fd : sockets_of(AF_PACKET)) {
    sockaddr_ll address = {};
    socklen_t length = sizeof(address);
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0 &&
        address.sll_ifindex == static_cast<int>(index) && address.sll_protocol != 0) {
      return fd;
    }
  }
  return -1;
}

int try_filter(pcap_t* p, const char* expression) {
  bpf_program program;
  CHECK(pcap_compile(p, &program, expression, 1, PCAP_NETMASK_UNKNOWN) == 0, "%s", pcap_geterr(p));
  const int status = pcap_setfilter(p, &program);
  pcap_freecode(&program);
  return status;
}

bool names(const std::string& text, const std::string& word) {
  return text.find(word) != text.npos;
}

void filter_after_down_and_up() {
  const Handle handle = open_capture({.device = kPorts});
  pcap_t* p = handle.get();
  set_nonblock(p);
  set_filter(p, kOdd);
  Packets packets;
  const Players players(2);
  players.send(0, 10);
  read_until(p, 10, packets);
  ip("link set see1 down");
  set_filter(p, kEven);  // while it is down
  set_filter(p, kOdd);
  ip("link set see1 up");
  wait_for_carrier("see1");
  set_filter(p, kEven);
  packets.clear();
  Players(2).send(10, 10);
  read_until(p, 10, packets);
  CHECK(check_port(packets, 0, 10, 2) == 5 && check_port(packets, 1, 10, 2) == 5, "%zu packets",
        packets.size());
}

/// The same on a handle on one interface, with one ring and with two.
void filter_after_down_and_up_alone() {
  for (const bool immediate : {false, true}) {
    const Handle handle = open_capture({.device = "see1", .immediate = immediate});
    pcap_t* p = handle.get();
    set_nonblock(p);
    ip("link set see1 down");
    ip("link set see1 up");
    wait_for_carrier("see1");
    set_filter(p, kEven);
    Sender(play(1).c_str(), peer()).send(0, 10);
    Packets packets;
    read_until(p, 5, packets);
    check_sequence(packets, 0, 8, 2);
  }
}

/// A filter that one port does not take is none for all, whether there was one before or not.
void filter_refused_by_one(bool filtered) {
  const Handle handle = open_capture({.device = kPorts});
  pcap_t* p = handle.get();
  set_nonblock(p);
  if (filtered) set_filter(p, kOdd);
  const int lock = 1;
  const int fd = socket_on("see1");
  CHECK(setsockopt(fd, SOL_SOCKET, SO_LOCK_FILTER, &lock, sizeof(lock)) == 0, "%s",
        std::strerror(errno));
  const int status = try_filter(p, kEven);
  const std::string text = pcap_geterr(p);
  CHECK(status == PCAP_ERROR && names(text, "see1"), "status %d, %s", status, text.c_str());
  Players(2).send(0, 10);
  Packets packets;
  const unsigned each = filtered ? 5 : 10;
  read_until(p, 2 * each, packets);
  const std::uint32_t first = filtered ? 1 : 0;
  const std::uint32_t step = filtered ? 2 : 1;
  CHECK(check_port(packets, 0, first, step) == each && check_port(packets, 1, first, step) == each,
        "%zu packets", packets.size());
}

/// After a change of the link type that failed it goes on as before, and can be changed later.
void check_goes_on(pcap_t* p, const std::string& text) {
  CHECK(pcap_datalink(p) == DLT_EN10MB, "link type %d; %s", pcap_datalink(p), text.c_str());
  Players(2).send(0, 10);
  Packets packets;
  read_until(p, 20, packets);
  check_ports(packets, 2, 0, 10);
}

void link_type_refused_by_epoll() {
  for (const int adds : {0, 1}) {
    const Handle handle = open_capture({.device = kPorts});
    pcap_t* p = handle.get();
    set_nonblock(p);
    const std::size_t before = count_descriptors();
    interposed::epoll_adds_until_full = adds;
    const int status = pcap_set_datalink(p, DLT_LINUX_SLL2);
    const std::string text = pcap_geterr(p);
    CHECK(status == PCAP_ERROR && names(text, see(static_cast<unsigned>(adds))), "status %d, %s",
          status, text.c_str());
    CHECK(count_descriptors() == before, "%zu descriptors, not %zu", count_descriptors(), before);
    check_goes_on(p, text);  // events or not: its sockets were never away from the set
    interposed::epoll_adds_until_full = -1;
  }
}

void link_type_refused_by_one_port() {
  const Handle handle = open_capture({.device = kPorts});
  pcap_t* p = handle.get();
  set_nonblock(p);
  ip("link set see1 down");
  const int status = pcap_set_datalink(p, DLT_LINUX_SLL2);
  const std::string text = pcap_geterr(p);
  CHECK(status == PCAP_ERROR && names(text, "see1"), "status %d, %s", status, text.c_str());
  ip("link set see1 up");
  wait_for_carrier("see1");
  set_datalink(p, DLT_LINUX_SLL2);
  set_datalink(p, DLT_EN10MB);
  check_goes_on(p, text);
}

// ---- Ports that are not there or not up

void not_up() {
  const auto check = [](const std::string& text) {
    CHECK(names(text, "see1") && names(text, "not up"), "%s", text.c_str());
  };
  ip("link set see1 down");
  {
    const Handle handle = create({.device = kPorts});
    const int status = pcap_activate(handle.get());
    CHECK(status == PCAP_ERROR_IFACE_NOT_UP, "status %d", status);
    check(pcap_geterr(handle.get()));
    check(pcap_statustostr(status));
    check(std::string("see0,see1: ") + pcap_statustostr(status));
  }
  char error[PCAP_ERRBUF_SIZE] = "";
  CHECK(pcap_open_live(kPorts, kWhole, 0, 10, error) == nullptr, "it was opened");
  check(error);
  CHECK(names(error, kPorts), "%s", error);
  // Of one interface it is stock code's again.
  const Handle alone = create({.device = "see1"});
  const int status = pcap_activate(alone.get());
  const std::string text = pcap_statustostr(status);
  CHECK(status == PCAP_ERROR_IFACE_NOT_UP && !names(text, "see1"), "status %d, %s", status,
        text.c_str());
}

/// A port that comes back while memory is short has a ring of fewer blocks.
void smaller_ring() {
  setenv("PCAPV3_FANOUT", "7:lb", 1);
  const Record debug("PCAPV3_DEBUG");
  const Handle handle = open_capture({.device = kPorts, .buffer_bytes = 16 << 20});
  pcap_t* p = handle.get();
  set_nonblock(p);
  Packets packets;
  ip("link delete see1");
  read_until_told(p, debug, "see1: the interface is gone", packets);
  make_port(1);
  const Players players(2);  // whose threads' stacks would else lie where the first ring was
  unsigned long pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  rlimit limit = {};
  CHECK(getrlimit(RLIMIT_AS, &limit) == 0, "%s", std::strerror(errno));
  const rlim_t room = limit.rlim_cur;
  limit.rlim_cur = pages * 4096 + (10 << 20);
  CHECK(setrlimit(RLIMIT_AS, &limit) == 0, "%s", std::strerror(errno));
  read_until_told(p, debug, "see1: the interface is back", packets);
  limit.rlim_cur = room;
  CHECK(setrlimit(RLIMIT_AS, &limit) == 0, "%s", std::strerror(errno));
  for (std::uint32_t first = 0; first < 4000; first += 200) {
    packets.clear();
    players.send(first, 200);
    read_until(p, first == 0 ? 400 : 200, packets);
    if (first != 0) {
      CHECK(check_port(packets, 0, first + 1, 2) == 100 &&
                check_port(packets, 1, first + 1, 2) == 100,
            "%zu packets", packets.size());
    }
    set_filter(p, kOdd);
  }
}

// ---- Network namespaces

/// Reads in the other namespace until `is_over`.
void read_elsewhere(pcap_t* p, Packets& packets, const std::function<bool()>& is_over) {
  in_namespace(peer(), [&] {
    while (!is_over()) {
      readable(pcap_get_selectable_fd(p), 20);
      CHECK(pcap_dispatch(p, -1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
    }
  });
}

/// A port comes back, with another socket each time, while the reading thread is in a namespace
/// that has an interface of that name and number too.
void read_in_another_namespace() {
  setenv("PCAPV3_FANOUT", "8:lb", 1);
  const std::string space = peer_name();
  const std::string back = "see1: the interface is back";
  const Record debug("PCAPV3_DEBUG");
  const Handle handle = open_capture({.device = kPorts});
  pcap_t* p = handle.get();
  set_nonblock(p);
  Packets packets;
  const auto told = [&](const std::string& line, std::size_t times) {
    const std::string text = debug.text();
    std::size_t count = 0;
    for (std::size_t at = 0; (at = text.find(line, at)) != text.npos; ++at) ++count;
    return count >= times;
  };
  ip("link delete see1");
  read_elsewhere(p, packets, [&] { return told("see1: the interface is gone", 1); });
  make_port(1);
  // The socket that it had from the start.
  read_elsewhere(p, packets, [&] { return told(back, 1); });
  Players(2).send(0, 10);
  read_elsewhere(p, packets, [&] { return packets.size() >= 20; });
  check_ports(packets, 2, 0, 10);

  ip("link delete see1");
  read_elsewhere(p, packets, [&] { return told("see1: the interface is gone", 2); });
  // There and here, with a number that none has.
  ip("link add see1 index 500 mtu 65535 type veth peer name play1 netns " + space + " mtu 65535");
  ip("-n " + space + " link add see1 index 500 type veth peer name stranger1");
  for (const std::string end : {"see1", "stranger1", "play1"}) {
    ip("-n " + space + " link set " + end + " arp off up");
  }
  ip("link set see1 arp off up");
  wait_for_carrier("see1");
  packets.clear();
  const Sender foreign("see1", peer());
  // So that it looks once more, at a time when all is there.
  ip("link set see1 alias here");
  std::uint32_t number = 0;
  read_elsewhere(p, packets, [&] {
    foreign.send({.number = marked(1, 1000 + number)});
    Sender(play(0).c_str(), peer()).send({.number = marked(0, number++)});
    return number == 30;
  });
  for (const Packet& packet : packets) {
    CHECK(unmarked(number_of(packet.bytes)) < 1000, "a frame of a foreign interface");
  }
  // In its own namespace there is another socket to be had.
  ip("link set see1 alias again");
  while (!told(back, 2)) {
    readable(pcap_get_selectable_fd(p), 20);
    CHECK(pcap_dispatch(p, -1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
  }
  packets.clear();
  Sender(play(1).c_str(), peer()).send(marked(1, 0), 10);
  read_until(p, 10, packets);
  CHECK(check_port(packets, 1, 0) == 10, "%zu packets", packets.size());
}

void link_type_in_another_namespace() {
  const std::string space = peer_name();
  ip("-n " + space + " link add see0 type veth peer name see1");
  for (const char* name : {"see0", "see1"}) ip("-n " + space + " link set " + name + " up");
  const Handle handle = open_capture({.device = kPorts});
  pcap_t* p = handle.get();
  set_nonblock(p);
  in_namespace(peer(), [&] {
    const int status = pcap_set_datalink(p, DLT_LINUX_SLL2);
    CHECK(status == PCAP_ERROR && names(pcap_geterr(p), "namespace"), "status %d, %s", status,
          pcap_geterr(p));
  });
  check_goes_on(p, "");
}

const Test kTests[] = {
    {"a filter after a port was down", afresh<filter_after_down_and_up>},
    {"a filter after the interface was down", afresh<filter_after_down_and_up_alone>},
    {"a filter that one port does not take: the old one stays",
     afresh<[] { filter_refused_by_one(true); }>},
    {"a filter that one port does not take: none stays",
     afresh<[] { filter_refused_by_one(false); }>},
    {"a link type that can't be waited for: all stays", afresh<link_type_refused_by_epoll>},
    {"a link type while a port is down: all stays", afresh<link_type_refused_by_one_port>},
    {"a port that is not up has its own status, and a text with its name", afresh<not_up>},
    {"a port comes back while memory is short", afresh<smaller_ring>},
    {"a port comes back while the reader is in another namespace",
     afresh<read_in_another_namespace>},
    {"the link type is not changed from another namespace", afresh<link_type_in_another_namespace>},
};
const Registration kRegistration(
    {.name = "ports_faults", .tests = kTests, .links = 4, .settings = "PCAPV3_WINDOW=2000"});

}  // namespace
}  // namespace pcapv3::live
