// SPDX-License-Identifier: BSD-3-Clause
// Jumps out of reads and callbacks, reads within callbacks, and handlers and children that use a
// handle while it is closed.
#include <pcap/linux-v3.h>
#include <setjmp.h>
#include <sys/time.h>
#include <sys/wait.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include <chrono>
#include <random>

#include "blocks.h"
#include "breaks.h"
#include "capture.h"
#include "modes.h"

namespace pcapv3::live {
namespace {

sigjmp_buf g_out;

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
      const Sender sender = remote();
      sender.send(0, 10);
      wait_until_received(p, 10);
      Keeper at = {.handle = p, .then = [p](std::size_t packets) {
                     if (packets == 4) pcap_breakloop(p);
                   }};
      at.loop_until_break();
      CHECK(at.packets.size() == 4, "%zu packets", at.packets.size());
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
    pcap_t* p = handle.get();
    set_nonblock(p);
    break_on(SIGUSR1, p);
    Wild wild = {.handle = p, .random = std::mt19937(seed), .packets = {}, .tagged = tagged};
    g_wild = &wild;
    const Sender sender = remote();
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
    const Sender sender = remote();
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

/// A forked child that closes its copy, while the parent has blocks, changes nothing for that.
void child_closes_with_blocks_out() {
  if (is_off()) skip("of blocks");
  for (const char* device : {"see0", "see0,see1"}) {
    Handle handle = open_capture({.device = device});
    pcap_t* p = handle.get();
    const Sender sender = remote();
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
      CHECK(take_and_walk(p, -1, packets) == 1, "%s", pcap_geterr(p));
    }
    check_sequence(packets, 1, 20);
    pcap_v3_release_block(out);
  }
}

const Test kTests[] = {
    {"a jump out of a wait", jump_out_of_a_wait},
    {"callbacks that read, jump and break: each packet once", wild_plain, 60},
    {"the same, of frames with VLAN tags", wild_tagged, 60},
    {"the same in immediate mode", wild_immediate, 60},
    {"the same with several interfaces", wild_list, 60},
    {"a callback that reads on in its block", nested_read_at_each_place},
    {"signal handlers that use a handle while it is closed", handlers_while_closing, 60},
    {"a forked child closes while its parent has blocks", child_closes_with_blocks_out},
};
const Registration kRegistration(
    {.name = "break_jumps", .tests = kTests, .links = 2, .instruments = "address"});

}  // namespace
}  // namespace pcapv3::live
