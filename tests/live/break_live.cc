// How a capture ends: breaks by signals, threads and callbacks, closes by other threads, jumps out
// of reads and callbacks, handlers that run while a handle is closed, forks. Each of these with one
// interface, in immediate mode, and with several. Run by break.test, in the namespace that has see0
// and see1; frames come from play0 and play1 in the other one.
//
// PCAPV3=off runs all that is no different with stock libpcap.
#include <pcap/linux-v3.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif
#include <setjmp.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <atomic>
#include <random>
#include <string_view>

#include "capture.h"
#include "frames.h"
#include "harness.h"
#include "interposed.h"
#include "ports.h"

namespace pcapv3::live {
namespace {

const char* peer() { return link_arguments().peer; }

bool is_off() {
  const char* setting = getenv("PCAPV3");
  return setting != nullptr && std::string_view(setting) == "off";
}

enum class Mode { kPlain, kImmediate, kList };

Handle open_in(Mode mode, int timeout_ms = 10) {
  return open_capture({.device = mode == Mode::kList ? "see0,see1" : "see0",
                       .snaplen = mode == Mode::kImmediate ? 2000 : kWhole,
                       .timeout_ms = timeout_ms,
                       .immediate = mode == Mode::kImmediate,
                       .buffer_bytes = 32 << 20});
}

const char* name_of(Mode mode) {
  return mode == Mode::kPlain ? "plain" : mode == Mode::kImmediate ? "immediate" : "list";
}

/// The modes that this library has.
std::vector<Mode> modes() {
  if (is_off()) return {Mode::kPlain, Mode::kImmediate};
  return {Mode::kPlain, Mode::kImmediate, Mode::kList};
}

pcap_t* g_handle = nullptr;

void handle_signal(int signal, void (*handler)(int), int flags = 0) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  sigaction(signal, &action, nullptr);
}

void break_on_signal(int) { pcap_breakloop(g_handle); }

/// Frames all the time, about so many a second, until it goes.
class Traffic {
 public:
  explicit Traffic(unsigned a_second) : thread_([this, a_second] { send(a_second); }) {}
  ~Traffic() { stop(); }
  /// Returns how many were sent.
  std::uint32_t stop() {
    over_ = true;
    if (thread_.joinable()) thread_.join();
    return sent_;
  }

 private:
  void send(unsigned a_second) {
    const Sender sender("play0", peer());
    const auto start = Clock::now();
    while (!over_) {
      sender.send({.number = sent_++});
      const auto due = start + std::chrono::nanoseconds(sent_ * (1'000'000'000ull / a_second));
      while (!over_ && Clock::now() < due) {
        if (due - Clock::now() > std::chrono::milliseconds(1)) {
          std::this_thread::sleep_for(std::chrono::microseconds(200));
        }
      }
    }
  }
  std::atomic<bool> over_ = false;
  std::uint32_t sent_ = 0;
  std::thread thread_;
};

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

// ---- By another thread ----

/// What a reading thread does until it is broken.
struct Reading {
  std::atomic<unsigned> callbacks = 0;
  std::atomic<bool> broken = false;
  std::atomic<unsigned> after = 0;  // callbacks that began after the break
  Clock::time_point end = {};
  std::atomic<int> status = 0;
};

void count_callback(u_char* user, const pcap_pkthdr*, const u_char*) {
  auto& reading = *reinterpret_cast<Reading*>(user);
  if (reading.broken) ++reading.after;
  ++reading.callbacks;
}

/// A thread's break ends the read at once, after the callback under way; the handle can be closed
/// soon after.
void break_and_close(Mode mode, unsigned a_second, unsigned close_after_us, int rounds,
                     std::vector<double>& delays_ms) {
  for (int round = 0; round < rounds; ++round) {
    Handle handle = open_in(mode);
    pcap_t* p = handle.get();
    Traffic traffic(a_second);
    Reading reading;
    std::thread reader([&] {
      reading.status = pcap_loop(p, -1, count_callback, reinterpret_cast<u_char*>(&reading));
      reading.end = Clock::now();
    });
    const unsigned wanted = std::min(a_second / 50, 3u);
    while (reading.callbacks < wanted) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::microseconds(rand() % 20'000));
    pcap_breakloop(p);
    reading.broken = true;
    const auto start = Clock::now();
    std::this_thread::sleep_for(std::chrono::microseconds(close_after_us));
    handle.reset();
    reader.join();
    CHECK(reading.status == PCAP_ERROR_BREAK, "status %d", reading.status.load());
    CHECK(reading.after <= 1, "%u callbacks after the break", reading.after.load());
    delays_ms.push_back(seconds_between(start, reading.end) * 1e3);
  }
}

/// BREAK_ROUNDS=N in the environment plays each of these so often.
void thread_breaks_and_closes() {
  const char* const setting = getenv("BREAK_ROUNDS");
  const int rounds = setting != nullptr ? std::max(std::atoi(setting), 1) : 5;
  for (const Mode mode : modes()) {
    for (const unsigned a_second : {50u, 2000u, 50000u}) {
      std::vector<double> delays_ms;
      for (const unsigned us : {100u, 5000u, 50000u}) {
        break_and_close(mode, a_second, us, rounds, delays_ms);
      }
      std::printf("# %s, %u packets/s: the read ends after %.3f ms in the median\n", name_of(mode),
                  a_second, median(delays_ms));
      CHECK(median(delays_ms) < 5, "%.3f ms", median(delays_ms));
    }
  }
}

/// pcap_close() waits for a read that is on its way out.
void thread_closes_at_once() {
  for (const Mode mode : modes()) {
    if (is_off()) continue;  // undefined, and a crash now and then
    for (int round = 0; round < 50; ++round) {
      Handle handle = open_in(mode);
      pcap_t* p = handle.get();
      Traffic traffic(5000);
      Reading reading;
      std::thread reader([&] {
        reading.status = pcap_loop(p, -1, count_callback, reinterpret_cast<u_char*>(&reading));
      });
      while (reading.callbacks < 3) std::this_thread::yield();
      pcap_breakloop(p);
      handle.reset();
      reader.join();
      CHECK(reading.status == PCAP_ERROR_BREAK, "status %d", reading.status.load());
    }
  }
}

/// What a thread's break leaves is there for who reads on.
void thread_breaks_and_reads_on() {
  for (const Mode mode : modes()) {
    const Handle handle = open_in(mode);
    pcap_t* p = handle.get();
    Packets packets;
    Traffic traffic(20000);
    std::atomic<int> round = 0;
    constexpr int kRounds = 100;
    std::thread breaker([&] {
      for (int i = 1; i <= kRounds; ++i) {
        while (round < i) std::this_thread::yield();
        pcap_breakloop(p);
      }
    });
    while (round < kRounds) {
      ++round;
      const int status = pcap_loop(p, -1, keep, user(packets));
      CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
    }
    breaker.join();
    const std::uint32_t sent = traffic.stop();
    while (packets.size() < sent) {
      CHECK(pcap_dispatch(p, -1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
    }
    check_sequence(packets, 0, sent - 1);
  }
}

/// A break that comes with the last packet of the count is the next read's: no packet is counted
/// and thrown away.
void next_ex_and_threads() {
  for (const Mode mode : modes()) {
    const Handle handle = open_in(mode);
    pcap_t* p = handle.get();
    const Sender sender("play0", peer());
    Packets packets;
    unsigned breaks = 0;
    constexpr std::uint32_t kRounds = 200;
    for (std::uint32_t round = 0; round < kRounds; ++round) {
      sender.send(round * 20, 10);
      std::atomic<bool> go = false;
      std::thread breaker([&] {
        while (!go) std::this_thread::yield();
        const auto moment = Clock::now() + std::chrono::nanoseconds(rand() % 5000);
        while (Clock::now() < moment) {
        }
        pcap_breakloop(p);
        sender.send(round * 20 + 10, 10);
      });
      go = true;
      bool broken = false;
      while (!broken || packets.size() < (round + 1) * 20) {
        pcap_pkthdr* header = nullptr;
        const u_char* bytes = nullptr;
        const int status = pcap_next_ex(p, &header, &bytes);
        if (status == 1) packets.emplace_back(*header, bytes);
        breaks += status == PCAP_ERROR_BREAK;
        broken = broken || status == PCAP_ERROR_BREAK;
        CHECK(status >= 0 || status == PCAP_ERROR_BREAK, "status %d", status);
      }
      breaker.join();
    }
    check_sequence(packets, 0, kRounds * 20 - 1);
    CHECK(breaks == kRounds, "%u of %u breaks were seen", breaks, kRounds);
  }
}

// ---- By a signal ----

/// A slow callback is not waited for: half a second at most goes by after the break.
void slow_callback() {
  for (const Mode mode : modes()) {
    const Handle handle = open_in(mode);
    pcap_t* p = g_handle = handle.get();
    handle_signal(SIGALRM, break_on_signal);
    Traffic traffic(500);
    itimerval once = {.it_interval = {}, .it_value = {.tv_sec = 1, .tv_usec = 0}};
    const auto start = Clock::now();
    setitimer(ITIMER_REAL, &once, nullptr);
    const int status = pcap_loop(
        p, -1,
        [](u_char*, const pcap_pkthdr*, const u_char*) {
          const auto end = Clock::now() + std::chrono::milliseconds(10);
          while (Clock::now() < end) {
          }
        },
        nullptr);
    const double seconds = seconds_since(start);
    std::printf("# %s: %.3f s after the break\n", name_of(mode), seconds - 1);
    CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
    CHECK(seconds < 1.9, "%.3f s after the break", seconds - 1);
  }
}

/// A signal between two reads of one packet each drains too.
void signal_between_reads() {
  if (is_off()) skip("stock libpcap does not drain");
  for (const Mode mode : modes()) {
    for (int round = 0; round < 10; ++round) {
      const Handle handle = open_in(mode, 1000);
      pcap_t* p = g_handle = handle.get();
      handle_signal(SIGUSR1, break_on_signal);
      const Sender sender("play0", peer());
      sender.send(0, 20);
      wait_until_received(p, 20);
      Packets packets;
      pcap_pkthdr* header = nullptr;
      const u_char* bytes = nullptr;
      for (int i = 0; i < 5;) {
        const int status = pcap_next_ex(p, &header, &bytes);
        CHECK(status >= 0, "status %d", status);
        if (status == 1) packets.emplace_back(*header, bytes), ++i;
      }
      sender.send(20, 5);
      wait_until_received(p, 25);
      raise(SIGUSR1);
      int status;
      while ((status = pcap_next_ex(p, &header, &bytes)) == 1) packets.emplace_back(*header, bytes);
      CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
      check_sequence(packets, 0, 24);
    }
  }
}

/// What is no signal's break: the program's own between two reads, also when it has learnt of the
/// signal by sigwait(3), and a handler of a signal that is let in by ppoll(2) only.
void program_between_reads() {
  for (const Mode mode : modes()) {
    const Handle handle = open_in(mode);
    pcap_t* p = g_handle = handle.get();
    handle_signal(SIGUSR1, break_on_signal);
    sigset_t blocked;
    sigset_t before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    const Sender sender("play0", peer());
    Packets packets;
    std::uint32_t sent = 0;
    for (const bool by_ppoll : {false, true}) {
      sender.send(sent, 10);
      sent += 10;
      while (packets.size() < sent) {
        CHECK(pcap_dispatch(p, -1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
      }
      sender.send(sent, 10);
      sent += 10;
      wait_until_received(p, sent);
      raise(SIGUSR1);
      if (by_ppoll) {
        CHECK(ppoll(nullptr, 0, nullptr, &before) == -1 && errno == EINTR, "no signal");
      } else {
        int signal = 0;
        sigwait(&blocked, &signal);
        pcap_breakloop(p);
      }
      const std::size_t size = packets.size();
      const int status = pcap_dispatch(p, -1, keep, user(packets));
      CHECK(status == PCAP_ERROR_BREAK && packets.size() == size, "status %d, %zu packets", status,
            packets.size() - size);
    }
    while (packets.size() < sent) {
      CHECK(pcap_dispatch(p, -1, keep, user(packets)) >= 0, "%s", pcap_geterr(p));
    }
    check_sequence(packets, 0, sent - 1);
    sigprocmask(SIG_SETMASK, &before, nullptr);
  }
}

std::atomic<bool> g_timer_on = false;

/// Breaks by a timer's signal, under traffic, of a program that has given up its privileges: the
/// open block is read in place again and again, and each packet comes once.
void timer_breaks(Mode mode) {
  const Handle handle = open_in(mode, 1000);
  pcap_t* p = g_handle = handle.get();
  Packets packets;
  Traffic traffic(20000);
  while (packets.empty()) CHECK(pcap_dispatch(p, 1, keep, user(packets)) >= 0, "a status");
  CHECK(syscall(SYS_setresuid, 65534, 65534, 65534) == 0, "%s", std::strerror(errno));
  // It wakes this thread only, and not while this runs.
  handle_signal(SIGALRM, [](int) {
    if (g_timer_on) pcap_breakloop(g_handle);
  });
  sigset_t alarm;
  sigemptyset(&alarm);
  sigaddset(&alarm, SIGALRM);
  constexpr int kRounds = 1000;
  int rounds = 0;
  const auto start = Clock::now();
  while (rounds < kRounds) {
    itimerval once = {.it_interval = {}, .it_value = {.tv_sec = 0, .tv_usec = 200 + rand() % 2000}};
    g_timer_on = true;
    setitimer(ITIMER_REAL, &once, nullptr);
    const int status = pcap_loop(p, -1, keep, user(packets));
    CHECK(status == PCAP_ERROR_BREAK, "status %d, %s", status, pcap_geterr(p));
    g_timer_on = false;
    ++rounds;
  }
  std::printf("# %s: %d breaks in %.2f s\n", name_of(mode), rounds, seconds_since(start));
  const std::uint32_t sent = traffic.stop();
  while (packets.size() < sent) {
    const int status = pcap_dispatch(p, -1, keep, user(packets));
    CHECK(status >= 0, "status %d, %s", status, pcap_geterr(p));
  }
  check_sequence(packets, 0, sent - 1);
}
void timer_breaks_plain() { timer_breaks(Mode::kPlain); }
void timer_breaks_immediate() { timer_breaks(Mode::kImmediate); }
void timer_breaks_list() { is_off() ? skip("stock has none") : timer_breaks(Mode::kList); }

/// A drain does not depend on the clock.
void drain_with_the_clock_set_back() {
  if (is_off()) skip("stock libpcap does not drain");
  for (const char* device : {"see0", "see0,see1"}) {
    for (const bool blocks : {false, true}) {
      interposed::clock_offset_s = 0;
      const Handle handle = open_capture({.device = device, .timeout_ms = 1000});
      pcap_t* p = g_handle = handle.get();
      handle_signal(SIGUSR1, break_on_signal);
      const Sender sender("play0", peer());
      sender.send(0, 10);
      Packets packets;
      const auto take = [&](int timeout_ms) {
        pcap_v3_block_t* block = nullptr;
        const int status = pcap_v3_next_block(p, timeout_ms, &block);
        if (status != 1) return status;
        pcap_v3_dispatch_block(block, -1, keep, user(packets));
        pcap_v3_release_block(block);
        return status;
      };
      while (packets.size() < 10) {
        CHECK((blocks ? take(-1) : pcap_dispatch(p, -1, keep, user(packets))) >= 0, "%s",
              pcap_geterr(p));
      }
      interposed::clock_offset_s = -60;
      sender.send(10, 10);
      wait_until_received(p, 20);
      raise(SIGUSR1);
      int status = 0;
      while (status >= 0) status = blocks ? take(-1) : pcap_loop(p, -1, keep, user(packets));
      CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
      check_sequence(packets, 0, 19);
    }
  }
}

/// A time-out does not either.
void time_out_with_the_clock_set_back() {
  setenv("PCAPV3_BLOCKING", program_invocation_short_name, 1);
  for (const char* device : {"see0", "see0,see1"}) {
    if (is_off()) continue;
    for (const bool immediate : {false, true}) {
      const Handle handle = open_capture(
          {.device = device, .snaplen = 2000, .timeout_ms = 200, .immediate = immediate});
      pcap_t* p = handle.get();
      handle_signal(SIGALRM, [](int) { interposed::clock_offset_s = -60; });
      itimerval once = {.it_interval = {}, .it_value = {.tv_sec = 0, .tv_usec = 50'000}};
      const auto start = Clock::now();
      interposed::clock_offset_s = 0;
      setitimer(ITIMER_REAL, &once, nullptr);
      Packets packets;
      const int status = pcap_dispatch(p, -1, keep, user(packets));
      CHECK(status == 0, "status %d", status);
      CHECK(seconds_since(start) < 1, "%.3f s", seconds_since(start));
    }
  }
}

/// Nor is it at its end for a signal that does nothing, or for a break that is over; and it does
/// not become endless by these.
void time_out_with_signals() {
  if (is_off()) skip("stock libpcap has no such setting");
  setenv("PCAPV3_BLOCKING", program_invocation_short_name, 1);
  for (const char* device : {"see0", "see0,see1"}) {
    const Handle handle = open_capture({.device = device, .timeout_ms = 300});
    pcap_t* p = handle.get();
    for (const bool broken : {false, true}) {
      if (broken) {
        const Sender sender("play0", peer());
        sender.send(0, 2);
        const int status = pcap_loop(
            p, -1, [](u_char* h, const pcap_pkthdr*, const u_char*) { pcap_breakloop((pcap_t*)h); },
            reinterpret_cast<u_char*>(p));
        CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
        Packets rest;
        while (rest.empty()) CHECK(pcap_dispatch(p, -1, keep, user(rest)) >= 0, "a status");
      }
      handle_signal(SIGALRM, [](int) {});
      itimerval often = {.it_interval = {.tv_sec = 0, .tv_usec = 50'000},
                         .it_value = {.tv_sec = 0, .tv_usec = 50'000}};
      setitimer(ITIMER_REAL, &often, nullptr);
      const auto start = Clock::now();
      Packets packets;
      const int status = pcap_dispatch(p, -1, keep, user(packets));
      const double seconds = seconds_since(start);
      often = {};
      setitimer(ITIMER_REAL, &often, nullptr);
      CHECK(status == 0 && seconds > 0.25 && seconds < 2, "%s: status %d after %.3f s", device,
            status, seconds);
    }
  }
}

// ---- Jumps and nested reads ----

sigjmp_buf g_out;

struct Callbacks {
  pcap_t* handle;
  int break_at;
  int count = 0;
};

void break_at(u_char* user, const pcap_pkthdr*, const u_char*) {
  auto& callbacks = *reinterpret_cast<Callbacks*>(user);
  if (++callbacks.count == callbacks.break_at) pcap_breakloop(callbacks.handle);
}

/// Waits for packets until a timer's handler jumps out of that.
void wait_and_jump(pcap_t* p, bool by_next_ex) {
  handle_signal(SIGALRM, [](int) { siglongjmp(g_out, 1); });
  itimerval once = {.it_interval = {}, .it_value = {.tv_sec = 0, .tv_usec = 30'000}};
  if (sigsetjmp(g_out, 1) != 0) return;
  setitimer(ITIMER_REAL, &once, nullptr);
  for (;;) {
    static pcap_pkthdr* header;
    static const u_char* bytes;
    if (by_next_ex) {
      pcap_next_ex(p, &header, &bytes);
    } else {
      pcap_dispatch(p, -1, keep, nullptr);
    }
  }
}

/// A wait that is left by siglongjmp() leaves nothing behind: a break in a callback ends the read.
void jump_out_of_a_wait() {
  for (const Mode mode : modes()) {
    for (const bool next_ex : {false, true}) {
      const Handle handle = open_in(mode);
      pcap_t* p = handle.get();
      wait_and_jump(p, next_ex);
      const Sender sender("play0", peer());
      sender.send(0, 10);
      wait_until_received(p, 10);
      Callbacks callbacks = {.handle = p, .break_at = 4};
      const int status = pcap_loop(p, -1, break_at, reinterpret_cast<u_char*>(&callbacks));
      CHECK(status == PCAP_ERROR_BREAK && callbacks.count == 4, "status %d, %d callbacks", status,
            callbacks.count);
      // And one between two reads ends the next.
      pcap_breakloop(p);
      Packets packets;
      CHECK(pcap_dispatch(p, -1, keep, user(packets)) == PCAP_ERROR_BREAK && packets.empty(),
            "%zu packets", packets.size());
    }
  }
}

/// What callbacks do at random, with each packet noted before: read one or all that there are,
/// jump out, break, raise a signal that breaks.
struct Wild {
  pcap_t* handle;
  std::mt19937 random;
  Packets packets;
  int depth = 0;
  bool tagged = false;
};
Wild* g_wild = nullptr;
jmp_buf g_wild_out;

void wild_callback(u_char*, const pcap_pkthdr* header, const u_char* bytes) {
  Wild& wild = *g_wild;
  wild.packets.emplace_back(*header, bytes);
  const auto what = static_cast<unsigned>(wild.random() % 40);
  if (what == 0) longjmp(g_wild_out, 1);
  if (what == 1) raise(SIGUSR1);
  if (what == 2) pcap_breakloop(wild.handle);
  if (what <= 8 && what > 2 && wild.depth < 5) {
    ++wild.depth;
    pcap_dispatch(wild.handle, what == 8 ? -1 : 1 + static_cast<int>(wild.random() % 3),
                  wild_callback, nullptr);
    --wild.depth;
  }
}

/// Whatever callbacks do, each packet comes once, in order and undamaged.
void wild_callbacks(Mode mode, bool tagged) {
  for (unsigned seed = 0; seed < 8; ++seed) {
    const Handle handle = open_in(mode, 10);
    pcap_t* p = g_handle = handle.get();
    set_nonblock(p);
    handle_signal(SIGUSR1, break_on_signal);
    Wild wild = {.handle = p, .random = std::mt19937(seed), .packets = {}, .tagged = tagged};
    g_wild = &wild;
    const Sender sender("play0", peer());
    volatile std::uint32_t sent = 0;
    constexpr std::uint32_t kFrames = 2000;
    const auto limit = Clock::now() + std::chrono::seconds(15);
    while (wild.packets.size() < kFrames) {
      CHECK(Clock::now() < limit, "%zu of %u packets with seed %u", wild.packets.size(), kFrames,
            seed);
      for (auto more = wild.random() % 30; more > 0 && sent < kFrames; --more) {
        Frame frame = {.number = sent};
        if (tagged) frame.tags = {{.tci = 7}};
        sender.send(frame);
        sent = sent + 1;
      }
      if (setjmp(g_wild_out) == 0) {
        const int status =
            pcap_dispatch(p, wild.random() % 3 == 0 ? 1 : -1, wild_callback, nullptr);
        CHECK(status >= 0 || status == PCAP_ERROR_BREAK, "status %d, %s", status, pcap_geterr(p));
      } else {
        // The handler's signal is blocked no more than it was before: a plain longjmp() keeps it.
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, nullptr);
      }
      wild.depth = 0;
    }
    std::uint32_t due = 0;
    for (const Packet& packet : wild.packets) {
      const std::uint32_t number = number_of(packet.bytes);
      CHECK(number == due, "frame %u came where %u was due, seed %u", number, due, seed);
      Frame frame = {.number = number};
      if (tagged) frame.tags = {{.tci = 7}};
      check_frame(packet, frame);
      ++due;
    }
  }
}
void wild_plain() { wild_callbacks(Mode::kPlain, false); }
void wild_tagged() { wild_callbacks(Mode::kPlain, true); }
void wild_immediate() { wild_callbacks(Mode::kImmediate, true); }
void wild_list() { is_off() ? skip("stock has none") : wild_callbacks(Mode::kList, true); }

/// A callback that reads one packet itself, of each place in a block.
void nested_read_at_each_place() {
  if (is_off()) skip("of blocks");
  for (std::uint32_t place = 0; place < 9; ++place) {
    const Handle handle = open_in(Mode::kPlain);
    pcap_t* p = handle.get();
    const Sender sender("play0", peer());
    sender.send(0, 10);
    struct State {
      pcap_v3_block_t* block = nullptr;
      std::uint32_t place;
      Packets packets = {};
    } state = {.place = place};
    Packets& packets = state.packets;
    while (packets.size() < 10) {
      CHECK(pcap_v3_next_block(p, -1, &state.block) == 1, "%s", pcap_geterr(p));
      pcap_v3_dispatch_block(
          state.block, -1,
          [](u_char* u, const pcap_pkthdr* h, const u_char* b) {
            auto& s = *reinterpret_cast<State*>(u);
            s.packets.emplace_back(*h, b);
            if (s.packets.size() == s.place + 1) {
              pcap_v3_dispatch_block(s.block, 1, keep, user(s.packets));
            }
          },
          reinterpret_cast<u_char*>(&state));
      pcap_v3_release_block(state.block);
    }
    check_sequence(packets, 0, 9);
  }
}

// ---- While a handle is closed ----

pcap_t* volatile g_closing = nullptr;

void use_handle(int) {
  pcap_t* p = g_closing;
  if (p == nullptr) return;
#ifdef __SANITIZE_ADDRESS__
  if (__asan_address_is_poisoned(p)) return;  // freed, and not known to be
#endif
  pcap_stat stats;
  (void)pcap_stats(p, &stats);
  pcap_breakloop(p);
  (void)pcap_fileno(p);
  (void)pcap_datalink(p);
}

/// A program's signal handlers run as long as it lives: also while a handle is closed.
void handlers_while_closing() {
  for (const Mode mode : modes()) {
    for (int round = 0; round < 60; ++round) {
      Handle handle = open_in(mode);
      pcap_t* p = handle.get();
      g_closing = p;
      handle_signal(SIGALRM, use_handle);
      const long us = 100 + rand() % 300;
      itimerval often = {.it_interval = {.tv_sec = 0, .tv_usec = us},
                         .it_value = {.tv_sec = 0, .tv_usec = us}};
      setitimer(ITIMER_REAL, &often, nullptr);
      Packets packets;
      (void)pcap_dispatch(p, -1, keep, user(packets));
      // After the close there is no handle that a handler could use, but while it lasts there is.
      // (The memory is free for a moment before it is known: too short for the timer to be seen.)
      pcap_close(handle.release());
      g_closing = nullptr;
      itimerval never = {};
      setitimer(ITIMER_REAL, &never, nullptr);
    }
  }
}

// ---- Descriptors that change ----

/// Non-blocking mode switched on and off gives libpcap another eventfd(2): a thread's break ends a
/// wait all the same, with blocks outstanding or not.
void break_after_nonblocking_mode() {
  if (is_off()) skip("of blocks");
  for (const char* device : {"see0", "see0,see1"}) {
    for (const bool take : {true, false}) {
      const Handle handle = open_capture({.device = device});
      pcap_t* p = handle.get();
      const Sender sender("play0", peer());
      sender.send(0, 1);
      pcap_v3_block_t* out = nullptr;
      CHECK(pcap_v3_next_block(p, -1, &out) == 1, "%s", pcap_geterr(p));
      pcap_v3_block_t* none = nullptr;
      CHECK(pcap_v3_next_block(p, 10, &none) == 0, "another block");
      char error[PCAP_ERRBUF_SIZE];
      CHECK(pcap_setnonblock(p, 1, error) == 0 && pcap_setnonblock(p, 0, error) == 0, "%s", error);
      std::thread breaker([&, reader = static_cast<pid_t>(syscall(SYS_gettid))] {
        wait_until_asleep(reader);
        pcap_breakloop(p);
      });
      Packets packets;
      const int status =
          take ? pcap_v3_next_block(p, -1, &none) : pcap_loop(p, -1, keep, user(packets));
      breaker.join();
      CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
      pcap_v3_release_block(out);
    }
  }
}

/// A drain that packets are read in goes on with blocks, and the other way round: each packet comes
/// once, and the ring goes round.
void drain_of_packets_and_blocks() {
  if (is_off()) skip("of blocks");
  for (const char* device : {"see0", "see0,see1"}) {
    for (const bool blocks_first : {false, true}) {
      const Handle handle =
          open_capture({.device = device, .timeout_ms = 20, .buffer_bytes = 1 << 20});
      pcap_t* p = g_handle = handle.get();
      handle_signal(SIGUSR1, break_on_signal);
      const Sender sender("play0", peer());
      Packets packets;
      const auto take = [&](int timeout_ms) {
        pcap_v3_block_t* block = nullptr;
        const int status = pcap_v3_next_block(p, timeout_ms, &block);
        if (status != 1) return status;
        pcap_v3_dispatch_block(block, -1, keep, user(packets));
        pcap_v3_release_block(block);
        return status;
      };
      std::uint32_t sent = 0;
      for (int round = 0; round < 40; ++round) {
        sender.send(sent, 20);
        sent += 20;
        wait_until_received(p, sent);
        if (blocks_first) {
          raise(SIGUSR1);
          CHECK(take(-1) != PCAP_ERROR, "%s", pcap_geterr(p));
          const int status = pcap_dispatch(p, -1, keep, user(packets));
          CHECK(status != PCAP_ERROR, "%s", pcap_geterr(p));
        } else {
          raise(SIGUSR1);
          const int status = pcap_dispatch(p, 3, keep, user(packets));
          CHECK(status != PCAP_ERROR, "%s", pcap_geterr(p));
          (void)take(0);  // of several interfaces it may be refused
        }
        sender.send(sent, 5);
        sent += 5;
        while (packets.size() < sent) {
          const int status = pcap_dispatch(p, -1, keep, user(packets));
          CHECK(status >= 0 || status == PCAP_ERROR_BREAK, "%s", pcap_geterr(p));
        }
        // The counts stay as of a break until the next read, which is this one.
        char error[PCAP_ERRBUF_SIZE];
        CHECK(pcap_setnonblock(p, 1, error) == 0, "%s", error);
        while (pcap_dispatch(p, -1, keep, user(packets)) == PCAP_ERROR_BREAK) {
        }
        CHECK(pcap_setnonblock(p, 0, error) == 0, "%s", error);
      }
      check_sequence(packets, 0, sent - 1);
    }
  }
}

/// A forked child that closes its copy, while the parent has blocks, changes nothing for that.
void child_closes_with_blocks_out() {
  if (is_off()) skip("of blocks");
  for (const char* device : {"see0", "see0,see1"}) {
    Handle handle = open_capture({.device = device});
    pcap_t* p = handle.get();
    const Sender sender("play0", peer());
    sender.send(0, 1);
    pcap_v3_block_t* out = nullptr;
    CHECK(pcap_v3_next_block(p, -1, &out) == 1, "%s", pcap_geterr(p));
    const pid_t child = fork();
    if (child == 0) {
      pcap_close(handle.release());
      _exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0, "the child ended with %#x", static_cast<unsigned>(status));
    sender.send(1, 20);
    Packets packets;
    while (packets.size() < 20) {
      pcap_v3_block_t* block = nullptr;
      CHECK(pcap_v3_next_block(p, -1, &block) == 1, "%s", pcap_geterr(p));
      pcap_v3_dispatch_block(block, -1, keep, user(packets));
      pcap_v3_release_block(block);
    }
    check_sequence(packets, 1, 20);
    pcap_v3_release_block(out);
  }
}

/// A daemon's child reads on with what its parent has opened: signals drain, and what the kernel
/// counted is told at the end.
void child_reads_on() {
  if (is_off()) skip("stock libpcap does not drain");
  for (const Mode mode : modes()) {
    Record stats("PCAPV3_STATS");
    Handle handle = open_in(mode, 1000);
    pcap_t* p = g_handle = handle.get();
    const pid_t child = fork();
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      handle_signal(SIGUSR1, break_on_signal);
      const Sender sender("play0", peer());
      sender.send(0, 20);
      wait_until_received(p, 20);
      Packets packets;
      const int status = pcap_loop(
          p, -1,
          [](u_char* u, const pcap_pkthdr* h, const u_char* b) {
            auto& all = *reinterpret_cast<Packets*>(u);
            all.emplace_back(*h, b);
            if (all.size() == 3) raise(SIGUSR1);
          },
          user(packets));
      CHECK(status == PCAP_ERROR_BREAK, "status %d", status);
      check_sequence(packets, 0, 19);
      pcap_close(handle.release());
      _exit(EXIT_SUCCESS);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0, "%s: the child ended with %#x", name_of(mode),
          static_cast<unsigned>(status));
    CHECK(stats.text().find("delivered 20") != std::string::npos, "%s", stats.text().c_str());
  }
}

constexpr Test kTests[] = {
    {"a thread breaks, and closes soon after: one callback at most, and no crash",
     thread_breaks_and_closes, 120},
    {"a thread breaks and closes at once", thread_closes_at_once, 60},
    {"a thread breaks: what is left is there for the next read", thread_breaks_and_reads_on, 30},
    {"a thread breaks pcap_next_ex: no packet is counted and thrown away", next_ex_and_threads, 60},
    {"a signal ends a slow callback's loop within half a second", slow_callback, 30},
    {"a signal between two reads: what had come is delivered", signal_between_reads},
    {"a break by the program between two reads: nothing is", program_between_reads},
    {"1,000 breaks by a timer, privileges given up: each packet once", timer_breaks_plain, 60},
    {"the same in immediate mode", timer_breaks_immediate, 60},
    {"the same with several interfaces", timer_breaks_list, 60},
    {"a drain with the clock set back", drain_with_the_clock_set_back},
    {"a time-out with the clock set back", time_out_with_the_clock_set_back},
    {"a time-out with signals, and after a break", time_out_with_signals},
    {"a jump out of a wait", jump_out_of_a_wait},
    {"callbacks that read, jump and break: each packet once", wild_plain, 60},
    {"the same, of frames with VLAN tags", wild_tagged, 60},
    {"the same in immediate mode", wild_immediate, 60},
    {"the same with several interfaces", wild_list, 60},
    {"a callback that reads on in its block", nested_read_at_each_place},
    {"signal handlers that use a handle while it is closed", handlers_while_closing, 60},
    {"a break after non-blocking mode was on", break_after_nonblocking_mode},
    {"a drain of packets and blocks by turns", drain_of_packets_and_blocks, 30},
    {"a forked child closes while its parent has blocks", child_closes_with_blocks_out},
    {"a forked child reads on", child_reads_on},
};

const Registration kRegistration(
    {.name = "break", .tests = kTests, .links = 2, .instruments = "address"});

}  // namespace
}  // namespace pcapv3::live
