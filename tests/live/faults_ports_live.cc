// Ports of a handle on several, and the two sockets of immediate mode, when something fails, when a
// process forks, and when others do in the network namespace what is none of theirs. Run by
// faults_ports.test in the namespace that has see0 to see3. Leaves ports that only come and go to
// ports_gone_live.cc.
#include <dlfcn.h>
#include <linux/netlink.h>
#include <sys/epoll.h>
#include <sys/resource.h>

#include <atomic>
#include <functional>

#include "capture.h"
#include "frames.h"
#include "harness.h"
#include "interposed.h"
#include "ports.h"

namespace pcapv3::live {
namespace {

constexpr char kPorts[] = "see0,see1";

int family_of(int fd) {
  int family = AF_UNSPEC;
  socklen_t length = sizeof(family);
  return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) == 0 ? family : AF_UNSPEC;
}

std::vector<int> sockets_of(int family) {
  std::vector<int> found;
  for (int fd = 0; fd < 100; ++fd) {
    if (family_of(fd) == family) found.push_back(fd);
  }
  return found;
}

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

/// The links as a test finds them, whatever the one before has left.
void restore_links() {
  const std::string peer = link_arguments().peer;
  const std::string space = "ip -n " + peer.substr(peer.rfind('/') + 1);
  const std::string commands =
      "{ for i in see1 see2 see2b; do ip link delete $i; done; for i in play1 "
      "play2 see0 see1; do " +
      space + " link delete $i; done; } 2>/dev/null";
  (void)!std::system(commands.c_str());
  make_port(1);
  make_port(2);
}

template <auto kRun>
void afresh() {
  restore_links();
  kRun();
}

// ---- Setting something on all ports ----

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
    Sender(play(1).c_str(), link_arguments().peer).send(0, 10);
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

// ---- Ports that are not there or not up ----

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

// ---- Network namespaces ----

/// Reads in the other namespace until `is_over`.
void read_elsewhere(pcap_t* p, Packets& packets, const std::function<bool()>& is_over) {
  in_namespace(link_arguments().peer, [&] {
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
  const std::string peer = link_arguments().peer;
  const std::string space = peer.substr(peer.rfind('/') + 1);
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
  const Sender foreign("see1", peer.c_str());
  // So that it looks once more, at a time when all is there.
  ip("link set see1 alias here");
  std::uint32_t number = 0;
  read_elsewhere(p, packets, [&] {
    foreign.send({.number = marked(1, 1000 + number)});
    Sender(play(0).c_str(), peer.c_str()).send({.number = marked(0, number++)});
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
  Sender(play(1).c_str(), peer.c_str()).send(marked(1, 0), 10);
  read_until(p, 10, packets);
  CHECK(check_port(packets, 1, 0) == 10, "%zu packets", packets.size());
}

void link_type_in_another_namespace() {
  const std::string peer = link_arguments().peer;
  const std::string space = peer.substr(peer.rfind('/') + 1);
  ip("-n " + space + " link add see0 type veth peer name see1");
  for (const char* name : {"see0", "see1"}) ip("-n " + space + " link set " + name + " up");
  const Handle handle = open_capture({.device = kPorts});
  pcap_t* p = handle.get();
  set_nonblock(p);
  in_namespace(peer.c_str(), [&] {
    const int status = pcap_set_datalink(p, DLT_LINUX_SLL2);
    CHECK(status == PCAP_ERROR && names(pcap_geterr(p), "namespace"), "status %d, %s", status,
          pcap_geterr(p));
  });
  check_goes_on(p, "");
}

// ---- What the descriptor tells of ----

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
  Sender(play(1).c_str(), link_arguments().peer).send(0, 3);
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

// ---- A forked process ----

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
    {.name = "faults_ports", .tests = kTests, .links = 4, .settings = "PCAPV3_WINDOW=2000"});

}  // namespace
}  // namespace pcapv3::live
