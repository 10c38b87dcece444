// SPDX-License-Identifier: BSD-3-Clause
// What the descriptor of several ports, and of immediate mode's two sockets, tells of: interfaces
// of others, ports that come by another name, an end of which no event tells; and processes that
// share it.
#include <fcntl.h>
#include <linux/netlink.h>
#include <sys/wait.h>

#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "capture.h"
#include "faults.h"
#include "interposed.h"
#include "ports.h"

namespace pcapv3::live {
namespace {

// ---- What the descriptor tells of

constexpr char kPorts[] = "see0,see1";

void make_foreign_interfaces() {
  for (int i = 0; i < 5; ++i) {
    ip("link add foreign" + std::to_string(i) + " type veth peer name stranger" +
       std::to_string(i));
    ip("link set foreign" + std::to_string(i) + " up");
  }
  ip("link set foreign0 down");
  ip("link set foreign0 name see0123");
  for (int i = 0; i < 5; ++i) ip("link delete stranger" + std::to_string(i));
}

void foreign_interfaces(bool immediate) {
  const Handle handle =
      open_capture({.device = immediate ? "see0" : kPorts, .immediate = immediate});
  pcap_t* p = handle.get();
  set_nonblock(p);
  if (immediate) CHECK(sockets_of(AF_NETLINK).empty(), "there is a netlink socket");
  Packets packets;
  const Players players(1);
  players.send(0, 1);
  read_until(p, 1, packets);
  while (readable(pcap_get_selectable_fd(p), 50)) {
    CHECK(pcap_dispatch(p, -1, keep, user(packets)) == 0, "%s", pcap_geterr(p));
  }
  make_foreign_interfaces();
  CHECK(!readable(pcap_get_selectable_fd(p), 0), "it woke for another interface");
  players.send(1, 1);
  read_until(p, 2, packets);
}

/// By each of the ways in which an interface of the name comes.
void comes_by(const std::string& port, const std::string& made_by) {
  const Record debug("PCAPV3_DEBUG");
  const std::string device = "see0," + port;
  const Handle handle = open_capture({.device = device.c_str()});
  pcap_t* p = handle.get();
  set_nonblock(p);
  Packets packets;
  ip("link delete see1");
  read_until_told(p, debug, port + ": the interface is gone", packets);
  make_port(2);
  while (readable(pcap_get_selectable_fd(p), 50)) {
    CHECK(pcap_dispatch(p, -1, keep, user(packets)) == 0, "%s", pcap_geterr(p));
  }
  ip(made_by);
  read_until_told(p, debug, port + ": the interface is back", packets);
  // Its number is known from now on.
  ip("link set see2 name see2b 2>/dev/null || ip link set see1 name see2b");
  ip("link delete see2b");
  while (debug.text().find(port + ": the interface is gone") ==
         debug.text().rfind(port + ": the interface is gone")) {
    readable(pcap_get_selectable_fd(p), 20);
    CHECK(pcap_dispatch(p, -1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
  }
}

void comes_by_name() {
  ip("link delete see2");
  comes_by("see1", "link set see2 name see1");
}

void comes_by_other_name() {
  ip("link property add dev see1 altname other1");
  ip("link delete see2");
  comes_by("other1", "link property add dev see2 altname other1");
}

/// Without netlink it takes longer to see.
void netlink_refused() {
  interposed::netlink_is_refused = true;
  const Record debug("PCAPV3_DEBUG");
  const Handle handle = open_capture({.device = kPorts});
  pcap_t* p = handle.get();
  set_nonblock(p);
  Packets packets;
  const auto read_until_readable_and_told = [&](const std::string& text) {
    while (debug.text().find(text) == std::string::npos) {
      CHECK(readable(pcap_get_selectable_fd(p), 5000), "nothing tells of it");
      CHECK(pcap_dispatch(p, -1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
    }
  };
  Players(2).send(0, 10);
  read_until(p, 20, packets);
  ip("link delete see1");
  read_until_readable_and_told("see1: the interface is gone");
  make_port(1);
  read_until_readable_and_told("see1: the interface is back");
  Players(2).send(10, 10);
  read_until(p, 40, packets);
  check_ports(packets, 2, 0, 20);
}

/// The lone port's end, of which no event tells: a program that selects without a time-out, and one
/// that waits in the read.
void deleted_while_down(bool blocking) {
  const Handle handle = open_capture({.device = "see1", .immediate = true});
  pcap_t* p = handle.get();
  Packets packets;
  Sender(play(1).c_str(), peer()).send(0, 3);
  if (!blocking) set_nonblock(p);
  int status = 0;
  std::thread changes;
  const pid_t reader = getpid();
  const auto remove = [&] {
    changes = std::thread([&] {
      if (blocking) wait_until_asleep(reader);
      ip("link set see1 down");
      std::this_thread::sleep_for(std::chrono::milliseconds(300));  // it looks, and it is there
      ip("link delete see1");
    });
  };
  if (blocking) {
    remove();
    status = pcap_loop(p, -1, keep, user(packets));
  } else {
    read_until(p, 3, packets);
    remove();
    const auto start = Clock::now();
    unsigned wakes = 0;
    while (status >= 0) {
      CHECK(readable(pcap_get_selectable_fd(p), 5000), "not readable, and no error");
      status = pcap_dispatch(p, -1, keep, user(packets));
      ++wakes;
    }
    CHECK(wakes < 10 + 20 * seconds_since(start), "%u wake-ups", wakes);
  }
  changes.join();
  CHECK(status == PCAP_ERROR && std::string(pcap_geterr(p)) == "The interface disappeared",
        "status %d, %s", status, pcap_geterr(p));
  CHECK(packets.size() == 3, "%zu packets", packets.size());
}

void descriptor_flags() {
  const auto flags = [](const Options& options) {
    const Handle handle = open_capture(options);
    const int by_select = fcntl(pcap_get_selectable_fd(handle.get()), F_GETFD);
    return std::pair(by_select, fcntl(pcap_fileno(handle.get()), F_GETFD));
  };
  setenv("PCAPV3", "off", 1);
  const auto stock = flags({});
  unsetenv("PCAPV3");
  CHECK(flags({}) == stock, "one interface");
  CHECK(flags({.immediate = true}) == stock, "immediate mode");
  CHECK(flags({.device = kPorts}) == stock, "several");
}

// ---- A forked process

/// One of two processes closes the handle, and the other reads on.
void closed_by_one(const Options& options, unsigned ports, bool child_reads) {
  const Handle handle = open_capture(options);
  pcap_t* p = handle.get();
  const Players players(ports);
  players.send(0, 10);
  Packets packets = take_count(p, 10 * ports);
  int pipes[2];
  CHECK(pipe(pipes) == 0, "%s", std::strerror(errno));
  const pid_t child = fork();
  CHECK(child >= 0, "%s", std::strerror(errno));
  if (child == 0) prctl(PR_SET_PDEATHSIG, SIGKILL);
  const bool reads = (child == 0) == child_reads;
  char byte = 0;
  if (!reads) {
    pcap_close(const_cast<Handle&>(handle).release());
    CHECK(write(pipes[1], &byte, 1) == 1, "%s", std::strerror(errno));
  } else {
    CHECK(read(pipes[0], &byte, 1) == 1, "%s", std::strerror(errno));
    const auto start = Clock::now();
    players.send(10, 10);
    for (const Packet& packet : take_count(p, 10 * ports)) packets.push_back(packet);
    check_ports(packets, ports, 0, 20);
    // By events, and not by the end of the window.
    CHECK(seconds_since(start) < 1, "%.3f s", seconds_since(start));
  }
  if (child == 0) _exit(EXIT_SUCCESS);
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "the child: status %d", status);
}

void closed_by_the_child() { closed_by_one({.device = kPorts}, 2, false); }

void closed_by_the_parent() { closed_by_one({.device = kPorts}, 2, true); }

void closed_by_the_child_in_a_group() {
  setenv("PCAPV3_FANOUT", "9:lb", 1);
  closed_by_one({.device = kPorts}, 2, false);
}

void closed_by_the_child_immediate() {
  closed_by_one({.device = "see0", .immediate = true}, 1, false);
}

void closed_by_the_parent_immediate() {
  closed_by_one({.device = "see0", .immediate = true}, 1, true);
}

const Test kTests[] = {
    {"several ports do not wake for other interfaces", afresh<[] { foreign_interfaces(false); }>},
    {"immediate mode does not wake for other interfaces", afresh<[] { foreign_interfaces(true); }>},
    {"a port comes back by being renamed", afresh<comes_by_name>},
    {"a port comes back by getting another name", afresh<comes_by_other_name>},
    {"ports go and come where netlink is refused", afresh<netlink_refused>},
    {"immediate mode: deleted while down, with select", afresh<[] { deleted_while_down(false); }>},
    {"immediate mode: deleted while down, in a loop", afresh<[] { deleted_while_down(true); }>},
    {"the descriptor is as stock code's for programs that are executed", afresh<descriptor_flags>},
    {"a child closes several ports", afresh<closed_by_the_child>},
    {"a parent closes several ports", afresh<closed_by_the_parent>},
    {"a child closes several ports, in a group", afresh<closed_by_the_child_in_a_group>},
    {"a child closes, immediate mode", afresh<closed_by_the_child_immediate>},
    {"a parent closes, immediate mode", afresh<closed_by_the_parent_immediate>},
};
const Registration kRegistration(
    {.name = "ports_events", .tests = kTests, .links = 4, .settings = "PCAPV3_WINDOW=2000"});

}  // namespace
}  // namespace pcapv3::live
