// SPDX-License-Identifier: BSD-3-Clause
// Breaking loops: signals whose handlers do, and callbacks that do something at one of the packets.
#pragma once

#include <signal.h>
#include <sys/syscall.h>

#include <atomic>
#include <functional>
#include <thread>

#include "capture.h"

namespace pcapv3::live {

inline void handle_signal(int signal, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  sigaction(signal, &action, nullptr);
}

/// The handle that break_on() is about.
inline pcap_t* g_to_break = nullptr;

/// From now on the signal breaks this handle's loop.
inline void break_on(int signal, pcap_t* p) {
  g_to_break = p;
  handle_signal(signal, [](int) { pcap_breakloop(g_to_break); });
}

/// Sends SIGUSR1 to one of this process's threads.
inline void signal_thread(pid_t thread) { syscall(SYS_tgkill, getpid(), thread, SIGUSR1); }

/// A callback that keeps packets, and does something after each: it is told how many there are.
struct Keeper {
  pcap_t* handle;
  std::function<void(std::size_t)> then = {};
  Packets packets = {};

  static void call(u_char* keeper, const pcap_pkthdr* header, const u_char* data) {
    auto* self = reinterpret_cast<Keeper*>(keeper);
    self->packets.emplace_back(*header, data);
    if (self->then) self->then(self->packets.size());
  }
  int loop() { return pcap_loop(handle, -1, call, reinterpret_cast<u_char*>(this)); }
  int dispatch() { return pcap_dispatch(handle, -1, call, reinterpret_cast<u_char*>(this)); }
  void loop_until_break() {
    const int status = loop();
    CHECK(status == PCAP_ERROR_BREAK, "status %d, %s", status, pcap_geterr(handle));
  }
};

/// Loops `rounds` times, each ended by another thread, wherever the reader is at that moment.
inline Packets break_repeatedly(pcap_t* p, int rounds) {
  Packets packets;
  std::atomic<int> round = 0;
  std::thread other([&] {
    for (int i = 1; i <= rounds; ++i) {
      while (round < i) std::this_thread::yield();
      pcap_breakloop(p);
    }
  });
  while (round < rounds) {
    ++round;
    const int status = pcap_loop(p, -1, keep, user(packets));
    CHECK(status == PCAP_ERROR_BREAK, "status %d in round %d", status, round.load());
  }
  other.join();
  return packets;
}

}  // namespace pcapv3::live
