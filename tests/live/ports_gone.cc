// SPDX-License-Identifier: BSD-3-Clause
// Ports of a handle on several that go down or away, and come back; and the end, when none is left.
#include <linux/capability.h>
#include <net/if.h>
#include <sys/syscall.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "capture.h"
#include "ports.h"

namespace pcapv3::live {
namespace {

constexpr char kPorts[] = "see0,see1";

constexpr unsigned kStays = 0;

constexpr unsigned kGoes = 1;

void down_and_up() {
  Record stats("PCAPV3_STATS");
  {
    const Handle handle = open_capture({.device = kPorts});
    pcap_t* p = handle.get();
    set_nonblock(p);
    Packets packets;
    const Players players(2, kStays);
    players.send(0, 100);
    read_until(p, 200, packets);
    ip("link set " + see(kGoes) + " down");
    players[kStays].send(marked(kStays, 100), 100);
    read_until(p, 300, packets);
    ip("link set " + see(kGoes) + " up");
    wait_for_carrier(see(kGoes));
    const Players again(2, kStays);
    again[kStays].send(marked(kStays, 200), 100);
    again[kGoes].send(marked(kGoes, 100), 100);
    read_until(p, 500, packets);
    CHECK(check_port(packets, kStays, 0) == 300, "port %u", kStays);
    CHECK(check_port(packets, kGoes, 0) == 200, "port %u", kGoes);
    CHECK(stats_of(p).ps_recv == 500, "%u received", stats_of(p).ps_recv);
  }
  CHECK(figure(stats.text(), see(kGoes), "delivered") == 200, "%s", stats.text().c_str());
}

void gone_and_back(int link_type) {
  Record debug("PCAPV3_DEBUG");
  const Handle handle = open_capture({.device = kPorts});
  pcap_t* p = handle.get();
  set_nonblock(p);
  set_datalink(p, link_type);
  set_direction(p, PCAP_D_IN);
  // In an Ethernet frame and after a cooked header, the lowest byte of a frame's number.
  set_filter(p, link_type == DLT_LINUX_SLL2 ? "link[27] & 1 = 1" : kOdd);
  Packets packets;
  {
    const Players players(2, kStays);
    players.send(0, 100);
    // Unread, and the last of them in a block that the kernel still has.
    ip("link delete " + see(kGoes));
    players[kStays].send(marked(kStays, 100), 100);
  }
  read_until_told(p, debug, see(kGoes) + ": the interface is gone", packets);
  read_until(p, 150, packets);
  CHECK(check_port(packets, kStays, 1, 2) == 100, "port %u", kStays);
  CHECK(check_port(packets, kGoes, 1, 2) == 50, "port %u", kGoes);
  CHECK(stats_of(p).ps_recv == 150, "%u received", stats_of(p).ps_recv);

  make_port(kGoes);
  packets.clear();
  read_until_told(p, debug, see(kGoes) + ": the interface is back", packets);
  const Players players(2, kStays);
  const Sender out(see(kGoes).c_str());
  out.send(marked(kGoes, 1), 99);  // the other way
  players.send(200, 100);
  read_until(p, 100, packets);
  CHECK(check_port(packets, kStays, 201, 2) == 50, "port %u", kStays);
  CHECK(check_port(packets, kGoes, 201, 2) == 50, "port %u", kGoes);
  CHECK(pcap_datalink(p) == link_type, "link type %d", pcap_datalink(p));
  const unsigned index = if_nametoindex(see(kGoes).c_str());
  for (const Packet& packet : packets) {
    if (link_type != DLT_LINUX_SLL2 || sender_of(number_of(packet.bytes)) != kGoes) continue;
    CHECK(read32(&packet.bytes[4]) == index, "index %u, not %u", read32(&packet.bytes[4]), index);
  }
  // The counts of the port that went are still in.
  CHECK(stats_of(p).ps_recv >= 250, "%u received", stats_of(p).ps_recv);
  CHECK(stats_of(p).ps_drop == 0, "%u dropped", stats_of(p).ps_drop);
}

void gone_and_back_under_traffic() {
  // The other port's packets all come, in order, through three rounds.
  constexpr std::uint32_t kFrames = 30000;
  Record debug("PCAPV3_DEBUG");
  const Handle handle = open_capture({.device = kPorts, .buffer_bytes = 32 << 20});
  pcap_t* p = handle.get();
  std::atomic<bool> stop = false;
  std::thread traffic([&] {
    const Sender sender(play(kStays).c_str(), peer());
    for (std::uint32_t i = 0; i < kFrames; ++i) {
      sender.send({.number = marked(kStays, i)});
      if (i % 20 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  std::thread changes([&] {
    for (int round = 0; round < 3; ++round) {
      ip("link delete " + see(kGoes));
      make_port(kGoes);
    }
    stop = true;
  });
  Packets packets;
  while (!stop || packets.size() < kFrames) {
    const int taken = pcap_dispatch(p, -1, keep, user(packets));
    CHECK(taken >= 0, "status %d, %s", taken, pcap_geterr(p));
    if (packets.size() >= kFrames) break;
  }
  traffic.join();
  changes.join();
  CHECK(check_port(packets, kStays, 0) == kFrames, "%zu packets", packets.size());
  CHECK(stats_of(p).ps_drop == 0, "%u dropped", stats_of(p).ps_drop);
}

/// Both are gone: what had come is delivered, and then there is stock code's error.
void last_one_gone(bool blocking) {
  constexpr std::uint32_t kFrames = 500;
  const Handle handle = open_capture({.device = kPorts, .timeout_ms = 1000});
  pcap_t* p = handle.get();
  Packets packets;
  int status = 0;
  const auto remove = [] {
    {
      const Players players(2, kStays);
      players.send(0, kFrames);
    }
    ip("link delete " + see(kGoes));
    ip("link delete " + see(kStays));
  };
  if (blocking) {
    const pid_t reader = getpid();
    std::thread other([&] {
      wait_until_asleep(reader);
      remove();
    });
    status = pcap_loop(p, -1, keep, user(packets));
    other.join();
  } else {
    set_nonblock(p);
    remove();
    const Waiter waiter(Waiting::kSelect, pcap_get_selectable_fd(p));
    while (status >= 0) {
      CHECK(waiter.wait(5000), "not readable after %zu packets and no error", packets.size());
      status = pcap_dispatch(p, -1, keep, user(packets));
    }
  }
  const std::string text = pcap_geterr(p);
  CHECK(status == PCAP_ERROR && text == "The interface disappeared", "status %d, %s", status,
        text.c_str());
  CHECK(check_port(packets, kStays, 0) == kFrames, "of port %u", kStays);
  CHECK(check_port(packets, kGoes, 0) == kFrames, "of port %u", kGoes);
  CHECK(stats_of(p).ps_recv == 2 * kFrames, "%u received", stats_of(p).ps_recv);
  // It stays so.
  status = pcap_dispatch(p, -1, keep, user(packets));
  CHECK(status == PCAP_ERROR, "status %d", status);
  make_port(kStays);
  make_port(kGoes);
}

/// Takes this process's privileges away, or gives them back: programs such as tcpdump give them up
/// once they capture. What it runs, as root, has them anew.
void set_privileged(bool privileged) {
  static __user_cap_data_struct all[2];
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  if (!privileged) CHECK(syscall(SYS_capget, &header, all) == 0, "%s", std::strerror(errno));
  __user_cap_data_struct sets[2] = {all[0], all[1]};
  if (!privileged) sets[0].effective = sets[1].effective = 0;
  CHECK(syscall(SYS_capset, &header, sets) == 0, "%s", std::strerror(errno));
}

void gone_and_back_without_privileges() {
  Record debug("PCAPV3_DEBUG");
  const Handle handle = open_capture({.device = kPorts});
  pcap_t* p = handle.get();
  set_nonblock(p);
  Packets packets;
  set_privileged(false);
  ip("link delete " + see(kGoes));
  read_until_told(p, debug, see(kGoes) + ": the interface is gone", packets);
  make_port(kGoes);
  read_until_told(p, debug, see(kGoes) + ": the interface is back", packets);
  set_privileged(true);
  const Players players(2, kStays);
  players.send(0, 50);
  read_until(p, 100, packets);
  CHECK(check_port(packets, kGoes, 0, 1) == 50, "port %u", kGoes);
}

/// An interface of another kind takes the name for a while: its frames can't be read as Ethernet.
void back_as_another_kind() {
  Record debug("PCAPV3_DEBUG");
  const Handle handle = open_capture({.device = kPorts});
  pcap_t* p = handle.get();
  set_nonblock(p);
  Packets packets;
  ip("link delete " + see(kGoes));
  read_until_told(p, debug, see(kGoes) + ": the interface is gone", packets);
  ip("tuntap add dev " + see(kGoes) + " mode tun");
  ip("link set " + see(kGoes) + " up");
  while (pcap_dispatch(p, -1, keep, user(packets)) > 0) {
  }
  CHECK(debug.text().find("is back") == std::string::npos, "a tun device was taken");
  ip("link delete " + see(kGoes));
  make_port(kGoes);
  read_until_told(p, debug, see(kGoes) + ": the interface is back", packets);
  const Players players(2, kStays);
  players.send(0, 50);
  read_until(p, 100, packets);
  CHECK(check_port(packets, kGoes, 0, 1) == 50, "port %u", kGoes);
}

void closed_while_one_is_gone() {
  const std::size_t before = count_descriptors();
  {
    Record debug("PCAPV3_DEBUG");
    const Handle handle = open_capture({.device = kPorts});
    pcap_t* p = handle.get();
    set_nonblock(p);
    ip("link delete " + see(kGoes));
    Packets packets;
    read_until_told(p, debug, see(kGoes) + ": the interface is gone", packets);
    CHECK(packets.empty(), "%zu packets", packets.size());
  }
  CHECK(count_descriptors() == before, "%zu descriptors, not %zu", count_descriptors(), before);
  make_port(kGoes);
}

const Test kTests[] = {
    {"one port goes down and comes up", down_and_up},
    {"one port goes and comes back: filter, direction, counts", [] { gone_and_back(DLT_EN10MB); }},
    {"the same on LINUX_SLL2", [] { gone_and_back(DLT_LINUX_SLL2); }},
    {"the other port misses nothing meanwhile", gone_and_back_under_traffic},
    {"one comes back when the program has no privileges any more",
     gone_and_back_without_privileges},
    {"one comes back after an interface of another kind had its name", back_as_another_kind},
    {"a handle is closed while a port is gone", closed_while_one_is_gone},
    {"the last one goes, in a loop that blocks", [] { last_one_gone(true); }},
    {"the last one goes, with select", [] { last_one_gone(false); }},
};
const Registration kRegistration({.name = "ports_gone",
                                  .tests = kTests,
                                  .links = 2,
                                  .modes = "ours group",
                                  .settings = "PCAPV3_WINDOW=2000"});

}  // namespace
}  // namespace pcapv3::live
