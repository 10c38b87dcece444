// SPDX-License-Identifier: BSD-3-Clause
// Scenarios: reading packets: each function that does and its counts, what callbacks may do,
// breaks, and when packets come: blocking or not, asked for with select, poll and epoll, with each
// kind of time-out. Leaves what becomes of the interface, the process and its threads to
// lifecycle.cc.
#include <signal.h>
#include <sys/syscall.h>

#include <atomic>

#include "record.h"

namespace pcapv3::fidelity {
namespace {

constexpr int kSnaplen = 2000;  // in immediate mode stock code has a slot of this for each packet

/// For traffic that is read later, however late. Stock code's ring has a block of 256 KiB for each
/// of these time-outs; of its own choice it has 8.
constexpr int kLongTimeoutMs = 100;
constexpr int kLargeBuffer = 16 << 20;

void pause_ms(long ms) {
  const timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1'000'000};
  nanosleep(&time, nullptr);
}

/// What calls returned, one after the other.
using Statuses = std::vector<int>;

void note_statuses(const char* name, const Statuses& statuses) {
  std::string text;
  for (const int status : statuses) text += " " + std::to_string(status);
  note(name, "returned%s", text.c_str());
}

/// Sends `count` frames and waits until the ring has them.
void send_and_wait(pcap_t* p, const Sender& sender, std::uint32_t first, std::uint32_t count) {
  const unsigned before = stats_of(p).ps_recv;
  sender.send(first, count);
  wait_until_received(p, before + count);
}

bool readable(pcap_t* p, int limit_ms) {
  pollfd ready = {.fd = pcap_get_selectable_fd(p), .events = POLLIN, .revents = 0};
  return poll(&ready, 1, limit_ms) == 1;
}

void wait_until_readable(pcap_t* p) { CHECK(readable(p, 10000), "nothing to read"); }

/// One pcap_dispatch that must not wait: its status, and the packets.
void note_dispatch(const char* name, pcap_t* p, int count = -1) {
  Packets packets;
  note_status(name, pcap_dispatch(p, count, keep, user(packets)), p);
  if (!packets.empty()) note_numbers(name, packets);
}

// The functions that read.

/// Reads 20 frames with this count. The kernel closes a block when its timer wants it, so that
/// frames can come to lie in two; what is returned then is no fault of any library, and it is tried
/// again.
void note_twenty(const char* name, pcap_t* p, int count, const Statuses& in_one_block) {
  const Sender sender = peer();
  Statuses statuses;
  Packets packets;
  for (int attempt = 0; attempt < 100 && statuses != in_one_block; ++attempt) {
    statuses.clear();
    packets.clear();
    send_and_wait(p, sender, 0, 20);
    while (packets.size() < 20) {
      if (pcap_getnonblock(p, nullptr) == 1) wait_until_readable(p);
      statuses.push_back(pcap_dispatch(p, count, keep, user(packets)));
      CHECK(statuses.back() >= 0, "%d", statuses.back());
    }
  }
  note_statuses(name, statuses);
  note_numbers(name, packets);
}

void dispatch_counts() {
  for (const bool immediate : {false, true}) {
    note("immediate mode", "%d", immediate);
    const Handle handle = open_capture({.snaplen = kSnaplen, .immediate = immediate});
    pcap_t* p = handle.get();
    for (const bool nonblocking : {false, true}) {
      if (nonblocking) set_nonblock(p);
      note("not blocking", "%d", nonblocking);
      note_twenty("count 1", p, 1, Statuses(20, 1));
      note_twenty("count 7", p, 7, {7, 7, 6});
      note_twenty("count 0", p, 0, {20});
      note_twenty("count -1", p, -1, {20});
      note_twenty("count -7", p, -7, {20});
      note_twenty("count 20", p, 20, {20});
    }
    note_dispatch("nothing left", p);
  }
}

void loop_counts() {
  for (const bool nonblocking : {false, true}) {
    const Handle handle = open_capture({.snaplen = kSnaplen});
    pcap_t* p = handle.get();
    if (nonblocking) set_nonblock(p);
    note("not blocking", "%d", nonblocking);
    peer().send(0, 100);
    for (const int count : {1, 7, 32, 60}) {
      Packets packets;
      note_status("loop", pcap_loop(p, count, keep, user(packets)), p);
      note_numbers("loop", packets);
    }
  }
}

void note_next(const char* name, pcap_t* p) {
  pcap_pkthdr header = {};
  const u_char* data = pcap_next(p, &header);
  if (data == nullptr) {
    note(name, "NULL");
  } else {
    note_packet(name, Packet(header, data));
  }
}

void note_next_ex(const char* name, pcap_t* p) {
  pcap_pkthdr* header = nullptr;
  const u_char* data = nullptr;
  const int status = pcap_next_ex(p, &header, &data);
  note_status(name, status, status == 1 ? "" : pcap_geterr(p));
  if (status == 1) note_packet(name, Packet(*header, data));
}

void next_functions() {
  for (const bool immediate : {false, true}) {
    note("immediate mode", "%d", immediate);
    const Handle handle = open_capture({.snaplen = kSnaplen, .immediate = immediate});
    pcap_t* p = handle.get();
    peer().send(0, 6);
    for (int i = 0; i < 3; ++i) note_next("next", p);
    for (int i = 0; i < 3; ++i) note_next_ex("next_ex", p);
    set_nonblock(p);
    note_next("next, nothing there", p);
    note_next_ex("next_ex, nothing there", p);
    pcap_breakloop(p);
    note_next("next, broken", p);
    pcap_breakloop(p);
    note_next_ex("next_ex, broken", p);
    note_next_ex("next_ex, after that", p);
  }
}

void mixed() {
  const Handle handle = open_capture({.snaplen = kSnaplen});
  pcap_t* p = handle.get();
  peer().send(0, 40);
  for (int round = 0; round < 4; ++round) {
    Packets packets;
    note_next_ex("next_ex", p);
    note_status("dispatch", pcap_dispatch(p, 1, keep, user(packets)), p);
    note_numbers("dispatch", packets);
    note_next("next", p);
    packets.clear();
    note_status("loop", pcap_loop(p, 7, keep, user(packets)), p);
    note_numbers("loop", packets);
  }
}

/// Data are valid until the next call, whatever the ring goes through: it overflows here.
void next_stays_valid() {
  for (const bool immediate : {false, true}) {
    const Handle handle =
        open_capture({.snaplen = kSnaplen, .immediate = immediate, .buffer_bytes = 1 << 19});
    pcap_t* p = handle.get();
    const Sender sender = peer();
    sender.send(0, 1);
    for (const bool ex : {true, false}) {
      pcap_pkthdr copy = {};
      pcap_pkthdr* header = &copy;
      const u_char* data = nullptr;
      if (ex) {
        note("next_ex", "%d", pcap_next_ex(p, &header, &data));
      } else {
        data = pcap_next(p, &copy);
      }
      CHECK(data != nullptr, "no packet");
      const unsigned dropped = stats_of(p).ps_drop;
      for (std::uint32_t number = 1; stats_of(p).ps_drop == dropped; number += 500) {
        sender.send(number, 500, 1400);
      }
      note_packet("after an overrun", Packet(*header, data));
    }
  }
}

void not_activated() {
  char error[PCAP_ERRBUF_SIZE] = "";
  const Handle handle(pcap_create("see0", error));
  pcap_t* p = handle.get();
  note_dispatch("dispatch", p);
  note_status("loop", pcap_loop(p, 1, keep, nullptr), p);
  note_next("next", p);
  note_next_ex("next_ex", p);
  pcap_breakloop(p);
  note("selectable descriptor", "%d", pcap_get_selectable_fd(p) >= 0);
  note("required time-out", "%d", pcap_get_required_select_timeout(p) != nullptr);
}

// Callbacks.

/// What a callback does when the frame `number` has come.
struct At {
  pcap_t* handle;
  std::uint32_t number;
  void (*act)(At&);
  Packets packets = {};
  std::uint32_t injected = 0;
};

void act_at(u_char* pointer, const pcap_pkthdr* header, const u_char* data) {
  At& at = *reinterpret_cast<At*>(pointer);
  at.packets.emplace_back(*header, data);
  if (number_of(at.packets.back().bytes) == at.number) at.act(at);
}

u_char* user(At& at) { return reinterpret_cast<u_char*>(&at); }

void break_in_callback() {
  for (const bool immediate : {false, true}) {
    note("immediate mode", "%d", immediate);
    const Handle handle = open_capture({.snaplen = kSnaplen, .immediate = immediate});
    pcap_t* p = handle.get();
    const auto loop = [p](const char* name, int count, std::uint32_t number) {
      At at = {p, number, [](At& a) { pcap_breakloop(a.handle); }};
      note_status(name, pcap_loop(p, count, act_at, user(at)), p);
      note_numbers(name, at.packets);
    };
    send_and_wait(p, peer(), 0, 20);
    loop("break at 3", -1, 3);
    loop("no break, count 2", 2, 99);
    loop("break at the last of the count", 4, 9);
    loop("no break after that", 1, 99);
    loop("break at the first", 5, 11);
    At at = {p, 15, [](At& a) { pcap_breakloop(a.handle); }};
    int status = 0;
    while (status >= 0) status = pcap_dispatch(p, -1, act_at, user(at));
    note_status("dispatch, break at 15", status, p);
    note_numbers("dispatch, break at 15", at.packets);
    note_status("dispatch, break with count 1",
                pcap_dispatch(p, 1, act_at, user(at = {p, 16, at.act})), p);
    loop("break at the last that there is", -1, 19);
    set_nonblock(p);
    note_dispatch("nothing left", p);
  }
}

void inject_in_callback() {
  const Handle handle = open_capture({.snaplen = kSnaplen});
  pcap_t* p = handle.get();
  Handle other_end;
  in_namespace(run_arguments().peer, [&] {
    other_end = open_capture(
        {.device = "play0", .timeout_ms = kLongTimeoutMs, .buffer_bytes = kLargeBuffer});
  });
  CHECK(pcap_setdirection(other_end.get(), PCAP_D_IN) == 0, "%s", pcap_geterr(other_end.get()));
  peer().send(0, 20);
  At at = {p, 0, [](At& a) {
             const Bytes bytes = bytes_of({.number = 1000 + a.number});
             note_status("inject", pcap_inject(a.handle, bytes.data(), bytes.size()), a.handle);
             const auto size = static_cast<int>(bytes.size());
             note_status("sendpacket", pcap_sendpacket(a.handle, bytes.data(), size), a.handle);
             ++a.number;
           }};
  note_status("loop", pcap_loop(p, 20, act_at, user(at)), p);
  note_numbers("frames", at.packets);
  Packets sent;
  while (sent.size() < 40)
    CHECK(pcap_dispatch(other_end.get(), -1, keep, user(sent)) >= 0, "error");
  note_numbers("injected", sent);
}

/// A filter set in the callback holds for the very next packet.
void filter_in_callback() {
  const Handle handle = open_capture({.snaplen = kSnaplen});
  pcap_t* p = handle.get();
  send_and_wait(p, peer(), 0, 100);
  At at = {p, 10, [](At& a) {
             set_filter(a.handle, "ether[21] & 1 = 1");
             note("filter", "set after %zu packets", a.packets.size());
           }};
  while (at.packets.empty() || number_of(at.packets.back().bytes) != 99) {
    CHECK(pcap_dispatch(p, -1, act_at, user(at)) >= 0, "%s", pcap_geterr(p));
  }
  note_numbers("frames", at.packets);
  at = {p, 201, [](At& a) { set_filter(a.handle, "ether[21] & 1 = 0"); }};
  peer().send(200, 1);  // not wanted
  send_and_wait(p, peer(), 201, 1);
  note_status("loop", pcap_loop(p, 1, act_at, user(at)), p);
  peer().send(202, 10);
  note_status("loop", pcap_loop(p, 5, act_at, user(at)), p);
  note_numbers("frames", at.packets);
}

/// A callback that takes longer than the time-out, with traffic all the while. Not many times that:
/// stock code's ring has few blocks, and each time-out uses one up, so that packets would be
/// dropped.
void slow_callback() {
  for (const bool immediate : {false, true}) {
    const Handle handle = open_capture({.snaplen = kSnaplen,
                                        .timeout_ms = kLongTimeoutMs,
                                        .immediate = immediate,
                                        .buffer_bytes = kLargeBuffer});
    pcap_t* p = handle.get();
    const Sender sender = peer();
    sender.send(0, 20);
    std::atomic<bool> slow = false;
    std::thread traffic([&] {
      while (!slow) std::this_thread::yield();
      for (std::uint32_t number = 20; number < 60; ++number) {
        sender.send(number, 1);
        pause_ms(5);
      }
    });
    static std::atomic<bool>* is_slow;
    is_slow = &slow;
    At at = {p, 5, [](At&) {
               *is_slow = true;
               pause_ms(300);
             }};
    note_status("loop", pcap_loop(p, 60, act_at, user(at)), p);
    note_numbers("frames", at.packets);
    note_stats("counts", p);
    traffic.join();
  }
}

/// What else may be asked of a handle while it delivers.
void ask_in_callback() {
  const Handle handle = open_capture({.snaplen = kSnaplen});
  pcap_t* p = handle.get();
  send_and_wait(p, peer(), 0, 10);
  At at = {p, 4, [](At& a) {
             note_stats("counts", a.handle);
             note("link type", "%d", pcap_datalink(a.handle));
             note("descriptor", "%d", pcap_get_selectable_fd(a.handle) >= 0);
             set_nonblock(a.handle);
             note("not blocking", "%d", pcap_getnonblock(a.handle, nullptr));
             note_status("direction", pcap_setdirection(a.handle, PCAP_D_IN), a.handle);
           }};
  note_status("loop", pcap_loop(p, 10, act_at, user(at)), p);
  note_numbers("frames", at.packets);
  note_dispatch("nothing left", p);
}

// Breaks.

void break_before_read() {
  for (const bool nonblocking : {false, true}) {
    note("not blocking", "%d", nonblocking);
    const Handle handle = open_capture({.snaplen = kSnaplen});
    pcap_t* p = handle.get();
    if (nonblocking) set_nonblock(p);
    Packets packets;
    for (const bool traffic : {false, true}) {
      const bool idle = nonblocking && !traffic;
      note("packets there", "%d", traffic);
      if (traffic) {
        send_and_wait(p, peer(), 0, 10);
        wait_until_readable(p);
      }
      pcap_breakloop(p);
      note_dispatch(idle ? "idle: dispatch" : "dispatch", p);
      pcap_breakloop(p);
      note_next_ex(idle ? "idle: next_ex" : "next_ex", p);
      pcap_breakloop(p);
      note_next("next", p);
      pcap_breakloop(p);
      pcap_breakloop(p);
      // Stock libpcap does not notice a break then, and loops forever.
      if (!idle) {
        note_status("loop, broken twice", pcap_loop(p, -1, keep, user(packets)), p);
      }
    }
    note_numbers("frames", take_until(p, 9));
  }
}

pcap_t* g_to_break = nullptr;

void break_on_signal(int) { pcap_breakloop(g_to_break); }

void handle_signal(int signal, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  sigaction(signal, &action, nullptr);
}

/// A signal that breaks, and one that does not, while the read waits for packets.
void break_on_signal_waiting() {
  for (const bool immediate : {false, true}) {
    const Handle handle = open_capture({.snaplen = kSnaplen, .immediate = immediate});
    pcap_t* p = handle.get();
    g_to_break = p;
    handle_signal(SIGUSR1, break_on_signal);
    handle_signal(SIGUSR2, [](int) {});
    const pid_t reader = getpid();
    const Sender sender = peer();
    std::thread other([&] {
      wait_until_asleep(reader);
      syscall(SYS_tgkill, reader, reader, SIGUSR2);
      sender.send(0, 1);
    });
    Packets packets;
    note_status("other signal", pcap_loop(p, 1, keep, user(packets)), p);
    note_numbers("other signal", packets);
    other.join();
    std::thread again([&] {
      wait_until_asleep(reader);
      syscall(SYS_tgkill, reader, reader, SIGUSR1);
    });
    note_status("loop", pcap_loop(p, -1, keep, user(packets)), p);
    again.join();
  }
}

/// A signal that breaks while the callback runs, with packets left to read.
void break_on_signal_in_callback() {
  const Handle handle = open_capture({.snaplen = kSnaplen});
  pcap_t* p = handle.get();
  g_to_break = p;
  handle_signal(SIGUSR1, break_on_signal);
  send_and_wait(p, peer(), 0, 10);
  At at = {p, 3, [](At&) { raise(SIGUSR1); }};
  note_status("loop", pcap_loop(p, -1, act_at, user(at)), p);
  note_numbers("delivered before it ends", at.packets);
  peer().send(10, 10);
  while (number_of(at.packets.back().bytes) != 19) {
    CHECK(pcap_dispatch(p, -1, act_at, user(at)) >= 0, "%s", pcap_geterr(p));
  }
  note_numbers("frames", at.packets);
}

/// Another thread breaks, with packets left to read.
void break_from_thread_with_packets() {
  const Handle handle = open_capture({.snaplen = kSnaplen});
  pcap_t* p = handle.get();
  peer().send(0, 1);
  Packets packets = take_until(p, 0);
  send_and_wait(p, peer(), 1, 9);
  std::thread([p] { pcap_breakloop(p); }).join();
  note_status("loop", pcap_loop(p, -1, keep, user(packets)), p);
  note_numbers("delivered before it ends", packets);
  peer().send(10, 10);
  for (Packet& packet : take_until(p, 19)) packets.push_back(std::move(packet));
  note_numbers("frames", packets);
}

// When packets come.

constexpr int kTimeouts[] = {0, 1, 100, 10000};

void nonblocking() {
  for (const bool immediate : {false, true}) {
    for (const int timeout_ms : kTimeouts) {
      note("handle", "immediate mode %d, time-out %d", immediate, timeout_ms);
      const Handle handle =
          open_capture({.snaplen = kSnaplen, .timeout_ms = timeout_ms, .immediate = immediate});
      pcap_t* p = handle.get();
      set_nonblock(p);
      for (const int count : {1, 0, -1}) note_dispatch("idle", p, count);
      note_next("idle", p);
      note_next_ex("idle", p);
      note_ready("idle", pcap_get_selectable_fd(p));
      note("required time-out", "%d", pcap_get_required_select_timeout(p) != nullptr);
    }
  }
}

/// On an idle link, blocked reads wait for a packet or a break, whatever the time-out.
void idle_blocking() {
  for (const bool immediate : {false, true}) {
    for (const int timeout_ms : kTimeouts) {
      note("handle", "immediate mode %d, time-out %d", immediate, timeout_ms);
      const Handle handle =
          open_capture({.snaplen = kSnaplen, .timeout_ms = timeout_ms, .immediate = immediate});
      pcap_t* p = handle.get();
      const pid_t reader = getpid();
      std::atomic<bool> returned = false;
      std::thread other([&] {
        wait_until_asleep(reader);
        pause_ms(timeout_ms == 100 ? 400 : 50);
        note("idle", "returned %d", returned.load());
        pcap_breakloop(p);
      });
      Packets packets;
      const int status = pcap_dispatch(p, -1, keep, user(packets));
      returned = true;
      other.join();
      note_status("broken", status, p);
    }
  }
}

/// Whether a packet on a quiet link comes soon, without others after it.
void timeouts() {
  for (const bool immediate : {false, true}) {
    for (const int timeout_ms : kTimeouts) {
      const Handle handle = open_capture({.snaplen = kSnaplen,
                                          .timeout_ms = timeout_ms,
                                          .immediate = immediate,
                                          .buffer_bytes = 1 << 19});
      pcap_t* p = handle.get();
      const Sender sender = peer();
      send_and_wait(p, sender, 0, 3);
      // Where none comes soon, 1.5 s tell; where one does, a busy machine is waited for.
      const bool soon = readable(p, timeout_ms == 0 || timeout_ms == 10000 ? 1500 : 10000);
      note(immediate ? "immediate mode" : "time-out", "%d, a packet comes soon: %d", timeout_ms,
           soon);
      // A full block is handed over whatever the time-out.
      for (std::uint32_t number = 3; !readable(p, 0); number += 100) sender.send(number, 100, 1400);
      Packets packets;
      note_status("loop", pcap_loop(p, 3, keep, user(packets)), p);
      note_numbers("loop", packets);
    }
  }
}

/// A packet, 200 ms of silence, a packet: each wakes the reader.
void every_200_ms() {
  for (const bool immediate : {false, true}) {
    for (const bool nonblocking : {false, true}) {
      note("handle", "immediate mode %d, not blocking %d", immediate, nonblocking);
      const Handle handle = open_capture({.snaplen = kSnaplen, .immediate = immediate});
      pcap_t* p = handle.get();
      if (nonblocking) set_nonblock(p);
      const Sender sender = peer();
      std::atomic<std::uint32_t> taken = 0;
      std::thread traffic([&] {
        for (std::uint32_t number = 0; number < 5; ++number) {
          while (taken < number) pause_ms(1);
          pause_ms(200);
          sender.send(number, 1);
        }
      });
      Statuses statuses;
      Packets packets;
      while (packets.size() < 5) {
        if (nonblocking) wait_until_readable(p);
        statuses.push_back(pcap_dispatch(p, -1, keep, user(packets)));
        taken = static_cast<std::uint32_t>(packets.size());
      }
      note_statuses("dispatch", statuses);
      note_numbers("frames", packets);
      traffic.join();
    }
  }
}

void burst_then_silence() {
  for (const bool immediate : {false, true}) {
    const Handle handle = open_capture({.snaplen = 200,
                                        .timeout_ms = kLongTimeoutMs,
                                        .immediate = immediate,
                                        .buffer_bytes = kLargeBuffer});
    pcap_t* p = handle.get();
    peer().send(0, 5000);
    note_numbers("burst", take_until(p, 4999));
    note_stats("counts", p);
    const pid_t reader = getpid();
    std::thread other([&] {
      wait_until_asleep(reader);
      pcap_breakloop(p);
    });
    Packets packets;
    note_status("silence", pcap_loop(p, -1, keep, user(packets)), p);
    note("silence", "%zu packets", packets.size());
    other.join();
    set_nonblock(p);
    note_dispatch("silence, not blocking", p);
  }
}

// Waiting outside.

/// The program's own event loop, by each of the calls there are for it.
class Waiter {
 public:
  enum class Way { kSelect, kPoll, kEpoll, kEpollEdge };

  Waiter(Way way, pcap_t* p) : way_(way), fd_(pcap_get_selectable_fd(p)) {
    if (way < Way::kEpoll) return;
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    epoll_event event = {
        .events = way == Way::kEpollEdge ? EPOLLIN | EPOLLET : std::uint32_t{EPOLLIN}, .data = {}};
    CHECK(epoll_ctl(epoll_, EPOLL_CTL_ADD, fd_, &event) == 0, "%s", std::strerror(errno));
  }
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;
  ~Waiter() {
    if (epoll_ >= 0) close(epoll_);
  }

  /// 0 when the time is over; else 1.
  int wait(int limit_ms) const {
    if (way_ == Way::kSelect) {
      fd_set set;
      FD_ZERO(&set);
      FD_SET(fd_, &set);
      timeval limit = {.tv_sec = limit_ms / 1000, .tv_usec = limit_ms % 1000 * 1000};
      return select(fd_ + 1, &set, nullptr, nullptr, &limit);
    }
    if (way_ == Way::kPoll) {
      pollfd asked = {.fd = fd_, .events = POLLIN, .revents = 0};
      return poll(&asked, 1, limit_ms);
    }
    epoll_event event = {};
    return epoll_wait(epoll_, &event, 1, limit_ms);
  }

 private:
  const Way way_;
  const int fd_;
  int epoll_ = -1;
};

void note_event_loop(Waiter::Way way, pcap_t* p) {
  constexpr int kLimitMs = 10000;
  const Sender sender = peer();
  const Waiter waiter(way, p);
  note("idle", "%d", waiter.wait(0));
  sender.send(0, 1);
  note("a packet", "%d", waiter.wait(kLimitMs));
  note("asked again, unread", "%d", waiter.wait(0));
  sender.send(1, 1);
  // One more block, so one more edge. The others have nothing new to wait for.
  if (way == Waiter::Way::kEpollEdge) note("another packet", "%d", waiter.wait(kLimitMs));
  Packets packets;
  while (packets.size() < 2) {
    wait_until_readable(p);
    CHECK(pcap_dispatch(p, -1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
  }
  note_numbers("read", packets);
  note_ready("all read", pcap_get_selectable_fd(p));
  note("all read", "%d", waiter.wait(0));
  // One of the packets in a block read, the others left there.
  send_and_wait(p, sender, 2, 5);
  note("five packets", "%d", waiter.wait(kLimitMs));
  for (std::uint32_t number = 2; number < 7; ++number) {
    if (way == Waiter::Way::kEpollEdge) {
      wait_until_readable(p);
    } else {
      note("some left", "%d", waiter.wait(kLimitMs));
    }
    note_dispatch("one", p, 1);
  }
  note("all read", "%d", waiter.wait(0));
  note("required time-out", "%d", pcap_get_required_select_timeout(p) != nullptr);
}

void event_loops() {
  constexpr const char* kNames[] = {"select", "poll", "epoll", "epoll, edges"};
  for (const bool immediate : {false, true}) {
    for (const bool nonblocking : {true, false}) {
      for (int way = 0; way < 4; ++way) {
        note("event loop", "%s, immediate mode %d, not blocking %d", kNames[way], immediate,
             nonblocking);
        const Handle handle = open_capture({.snaplen = kSnaplen, .immediate = immediate});
        if (nonblocking) set_nonblock(handle.get());
        note_event_loop(static_cast<Waiter::Way>(way), handle.get());
      }
    }
  }
}

/// Waits with a time-out of its own between the packets, and reads one a round, as dumpcap does.
void event_loop_under_traffic() {
  const Handle handle = open_capture(
      {.snaplen = kSnaplen, .timeout_ms = kLongTimeoutMs, .buffer_bytes = kLargeBuffer});
  pcap_t* p = handle.get();
  const Sender sender = peer();
  std::thread traffic([&] {
    for (std::uint32_t number = 0; number < 200; ++number) {
      sender.send(number, 1);
      if (number % 10 == 0) pause_ms(20);
    }
  });
  const Waiter waiter(Waiter::Way::kSelect, p);
  Packets packets;
  while (packets.size() < 200) {
    if (waiter.wait(25) == 0) continue;
    const int status = pcap_dispatch(p, 1, keep, user(packets));
    CHECK(status == 1, "%d after select() said that there is something to read", status);
  }
  note_numbers("frames", packets);
  traffic.join();
}

constexpr Scenario kTable[] = {
    {"dispatch-counts", on_one_cpu<dispatch_counts>},
    {"loop-counts", on_one_cpu<loop_counts>},
    {"next-functions", on_one_cpu<next_functions>},
    {"mixed-reading", on_one_cpu<mixed>},
    {"next-stays-valid", on_one_cpu<next_stays_valid>},
    {"reading-not-activated", not_activated},
    {"break-in-callback", on_one_cpu<break_in_callback>},
    {"inject-in-callback", on_one_cpu<inject_in_callback>},
    {"filter-in-callback", on_one_cpu<filter_in_callback>},
    {"slow-callback", on_one_cpu<slow_callback>},
    {"ask-in-callback", on_one_cpu<ask_in_callback>},
    {"break-before-read", on_one_cpu<break_before_read>},
    {"break-on-signal-waiting", on_one_cpu<break_on_signal_waiting>},
    {"break-on-signal-in-callback", on_one_cpu<break_on_signal_in_callback>},
    {"break-from-thread-with-packets", on_one_cpu<break_from_thread_with_packets>},
    {"not-blocking", on_one_cpu<nonblocking>},
    {"idle-blocking", on_one_cpu<idle_blocking>},
    {"time-outs", on_one_cpu<timeouts>},
    {"every-200-ms", on_one_cpu<every_200_ms>},
    {"burst-then-silence", on_one_cpu<burst_then_silence>},
    {"event-loops", on_one_cpu<event_loops>, 40},
    {"event-loop-under-traffic", on_one_cpu<event_loop_under_traffic>},
};

}  // namespace

extern const std::span<const Scenario> kReadingScenarios(kTable);

}  // namespace pcapv3::fidelity
