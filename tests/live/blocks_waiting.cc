// SPDX-License-Identifier: BSD-3-Clause
// Waiting for blocks: time-outs, breaks, and interfaces that go while blocks are outstanding.
#include <pcap/linux-v3.h>
#include <sys/syscall.h>

#include <atomic>
#include <string>
#include <string_view>
#include <thread>

#include "blocks.h"
#include "breaks.h"
#include "ports.h"
#include "traffic.h"

namespace pcapv3::live {
namespace {

double cpu_seconds() {
  timespec used = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) * 1e-9;
}

void timeouts() {
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  auto start = Clock::now();
  CHECK(take(p, 0) == nullptr, "a block on an idle link");
  CHECK(seconds_since(start) < 5, "it waited");
  start = Clock::now();
  CHECK(take(p, 200) == nullptr, "a block on an idle link");
  CHECK(seconds_since(start) >= 0.19, "%.3f s", seconds_since(start));
  const Sender sender = remote();
  sender.send(0, 1);
  const Block held = take(p, 20'000);
  CHECK(held != nullptr, "no block");
  // Now the socket is readable all the time.
  start = Clock::now();
  const double before = cpu_seconds();
  CHECK(take(p, 300) == nullptr, "the same block once more");
  CHECK(seconds_since(start) >= 0.29, "%.3f s", seconds_since(start));
  Packets packets;
  std::thread later([&, reader = static_cast<pid_t>(syscall(SYS_gettid))] {
    wait_until_asleep(reader);
    sender.send(1, 1);
  });
  while (packets.empty()) {
    CHECK(pcap_dispatch(p, -1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
  }
  later.join();
  check_sequence(packets, 1, 1);
  CHECK(cpu_seconds() - before < 0.15, "it was spinning, for %.3f s", cpu_seconds() - before);
  set_nonblock(p);
  start = Clock::now();
  CHECK(take(p, -1) == nullptr, "a block on an idle link");
}

/// Takes blocks until there is an end to it; returns that, what was in them, and when the last
/// began.
int take_to_end(pcap_t* p, Packets& packets, timespec* began = nullptr) {
  pcap_v3_block_t* block = nullptr;
  int status = 0;
  while ((status = pcap_v3_next_block(p, -1, &block)) == 1) {
    walk(block, packets);
    if (began != nullptr) *began = pcap_v3_block_info(block)->first;
    pcap_v3_release_block(block);
  }
  CHECK(block == nullptr, "a block and status %d", status);
  return status;
}

void breaks(const char* device) {
  for (const bool signal : {false, true}) {
    Witness witness;
    const Handle handle = open_capture({.device = device, .timeout_ms = 20});
    pcap_t* p = handle.get();
    break_on(SIGUSR1, p);
    const auto reader = static_cast<pid_t>(syscall(SYS_gettid));
    std::thread breaker([&] {
      wait_until_asleep(reader);
      // In the block that the kernel is filling when the break comes.
      witness.send(remote(), 0, 50);
      if (signal) {
        signal_thread(reader);
      } else {
        pcap_breakloop(p);
      }
    });
    Packets packets;
    int status = take_to_end(p, packets);
    breaker.join();
    CHECK(status == PCAP_ERROR_BREAK, "status %d, %s", status, pcap_geterr(p));
    // A thread's break ends it at once.
    while (!signal && packets.size() < 50) walk(take(p).get(), packets);
    check_sequence(packets, 0, 49);
    CHECK(stats_of(p).ps_recv == 50, "ps_recv %u", stats_of(p).ps_recv);
    // By this thread itself: at once. And then it goes on.
    remote().send(50, 10);
    pcap_breakloop(p);
    status = take_to_end(p, packets);
    CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
    const std::size_t before = packets.size();
    CHECK(before == 50, "%zu packets", before);
    while (packets.size() < 60) walk(take(p).get(), packets);
    check_sequence(packets, 0, 59);
  }
}

void breaks_one() { breaks("see0"); }

void breaks_several_ports() { breaks("see0,see1"); }

void break_under_traffic() {
  for (const char* device : {"see0", "see0,see1"}) {
    const Handle handle = open_capture({.device = device, .buffer_bytes = 16 << 20});
    pcap_t* p = handle.get();
    timespec broken = {};
    Traffic traffic({});
    std::thread breaker([&] {
      while (traffic.next() < 2000) std::this_thread::yield();
      pcap_breakloop(p);
      clock_gettime(CLOCK_REALTIME, &broken);
    });
    Packets packets;
    timespec last = {};
    const int status = take_to_end(p, packets, &last);
    CHECK(status == PCAP_ERROR_BREAK, "status %d, %s", status, pcap_geterr(p));
    breaker.join();
    CHECK(last.tv_sec < broken.tv_sec ||
              (last.tv_sec == broken.tv_sec && last.tv_nsec <= broken.tv_nsec),
          "a block that began after the break");
    const std::uint32_t sent = traffic.stop();
    // What came after that is there for who goes on.
    while (packets.size() < sent) walk(take(p).get(), packets);
    check_sequence(packets, 0, sent - 1);
  }
}

void break_with_blocks_out() {
  Record stats("PCAPV3_STATS");
  Handle handle = open_capture();
  pcap_t* p = handle.get();
  const Sender sender = remote();
  sender.send(0, 10);
  Block first = take(p);
  Block second;
  std::thread breaker([&, reader = static_cast<pid_t>(syscall(SYS_gettid))] {
    wait_until_asleep(reader);
    pcap_breakloop(p);
  });
  pcap_v3_block_t* block = nullptr;
  const int status = pcap_v3_next_block(p, -1, &block);
  breaker.join();
  if (status == 1) {  // the ten came in two blocks
    second.reset(block);
  } else {
    CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
    CHECK(stats_of(p).ps_recv == info(first).packets, "ps_recv %u", stats_of(p).ps_recv);
  }
  Packets packets;
  CHECK(pcap_v3_dispatch_block(first.get(), 1, keep, user(packets)) == 1, "no packet");
  const unsigned left = info(first).packets - 1;
  first.reset();
  handle.reset();
  CHECK(figure(stats.text(), "see0", "unwalked") == left, "%s", stats.text().c_str());
  CHECK(figure(stats.text(), "see0", "delivered") == 1, "%s", stats.text().c_str());
  CHECK(figure(stats.text(), "see0", "blocks outstanding") == (second ? 1 : 0), "%s",
        stats.text().c_str());
  CHECK(figure(stats.text(), "see0", "most outstanding") == (second ? 2 : 1), "%s",
        stats.text().c_str());
}

void interface_goes() {
  make_port(2);
  {
    const Handle handle = open_capture({.device = "see2"});
    pcap_t* p = handle.get();
    const Sender sender("play2", peer());
    sender.send(0, 1);
    const Block held = take(p);
    std::thread remover([&, reader = static_cast<pid_t>(syscall(SYS_gettid))] {
      wait_until_asleep(reader);
      // Of which an event tells, and of what comes then none.
      ip("link set see2 down");
      wait_until_asleep(reader);
      ip("link delete see2");
    });
    pcap_v3_block_t* block = nullptr;
    const int status = pcap_v3_next_block(p, -1, &block);
    remover.join();
    CHECK(status == PCAP_ERROR, "status %d", status);
    CHECK(std::string_view(pcap_geterr(p)).find("disappeared") != std::string::npos, "%s",
          pcap_geterr(p));
    Packets packets;
    walk(held.get(), packets);
    check_sequence(packets, 0, 0);
  }
  CHECK(!has_ring(), "the memory stays");
}

/// A port of a fan-out group that comes back gets another ring, while blocks are being waited for.
void port_comes_back_in_group() {
  make_port(2);
  setenv("PCAPV3_FANOUT", "7:lb", 1);
  const Record debug("PCAPV3_DEBUG");
  const Handle handle = open_capture({.device = "see0,see2"});
  pcap_t* p = handle.get();
  const auto wait_for_text = [&](const char* text) {
    while (debug.text().find(text) == std::string::npos) usleep(1000);
  };
  const Sender sender = remote();
  std::thread other([&, reader = static_cast<pid_t>(syscall(SYS_gettid))] {
    wait_until_asleep(reader);
    ip("link delete see2");
    wait_for_text("see2: the interface is gone");
    sender.send(0, 10);
  });
  // The other port's blocks come, each packet once, whatever is looked after meanwhile.
  Packets packets = take_packets(p, 10);
  other.join();
  sender.send(10, 10);
  while (packets.size() < 20) walk(take(p).get(), packets);
  check_sequence(packets, 0, 19);
  std::thread back([&, reader = static_cast<pid_t>(syscall(SYS_gettid))] {
    wait_until_asleep(reader);
    make_port(2);
    wait_for_text("see2: the interface is back");
    Sender("play2", peer()).send(20, 1);
  });
  walk(take(p).get(), packets);
  back.join();
  check_sequence(packets, 0, 20);
  ip("link delete see2");
}

const Test kTests[] = {
    {"timeouts", timeouts},
    {"breaks", breaks_one},
    {"breaks on several ports", breaks_several_ports},
    {"breaks under traffic", break_under_traffic},
    {"a break with blocks outstanding", break_with_blocks_out},
    {"the interface goes while a block is outstanding", interface_goes},
    {"a port of a fan-out group comes back meanwhile", port_comes_back_in_group},
};
const Registration kRegistration(
    {.name = "blocks_waiting", .tests = kTests, .links = 2, .instruments = "thread valgrind"});

}  // namespace
}  // namespace pcapv3::live
