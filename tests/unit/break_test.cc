// SPDX-License-Identifier: BSD-3-Clause
// Which break drains and which ends at once, depending on where pcap_breakloop() is called from.
#include "pcap-linux-v3/break.h"

#include <setjmp.h>
#include <signal.h>

#include <atomic>
#include <memory>
#include <thread>

#include "catch.h"
#include "pcap-linux-v3/clock.h"
#include "pcap-linux-v3/confinement.h"

namespace pcapv3 {
namespace {

/// A Break as a handle has it: in memory that is all zero, on a thread that is not confined.
class Handle {
 public:
  explicit Handle(bool may_drain = true) {
    note_confinement();
    (*this)->allow_drain(may_drain);
  }
  ~Handle() { release_confinement(); }
  Break* operator->() { return &Break::of(memory_); }

 private:
  pcapv3_break memory_{};
};

Handle* in_handler = nullptr;

/// Raises SIGUSR1, whose handler breaks, on this thread.
void break_in_handler(Handle& handle, int flags = 0) {
  in_handler = &handle;
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) { (*in_handler)->request(); };
  action.sa_flags = flags;
  REQUIRE(sigaction(SIGUSR1, &action, &before) == 0);
  raise(SIGUSR1);
  sigaction(SIGUSR1, &before, nullptr);
}

void break_in_thread(Handle& handle) {
  std::thread([&handle] { handle->request(); }).join();
}

void block(int signal, int how) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  pthread_sigmask(how, &set, nullptr);
}

}  // namespace

TEST_CASE("without a break there is nothing to start") {
  Handle handle;
  handle->begin_read();
  CHECK_FALSE(handle->start_drain());
  CHECK_FALSE(handle->draining());
}

TEST_CASE("a break from within the callback ends at once, and is the callback's") {
  Handle handle;
  handle->begin_read();
  handle->request();
  CHECK(handle->is_callbacks());
  CHECK_FALSE(handle->start_drain());
}

TEST_CASE("a break from a signal handler during the callback drains, and is not the callback's") {
  Handle handle;
  handle->begin_read();
  break_in_handler(handle);
  CHECK_FALSE(handle->is_callbacks());
  CHECK(handle->start_drain());
  CHECK(handle->draining());
  CHECK_FALSE(handle->is_overdue());
  CHECK(handle->left_ns() <= Break::kLongestDrainNs);
}

TEST_CASE("a break from a signal handler between two reads drains") {
  Handle handle;
  handle->begin_read();
  handle->end_read(false);
  break_in_handler(handle);
  handle->begin_read();
  CHECK(handle->start_drain());
}

TEST_CASE("a break by the program between two reads ends at once") {
  Handle handle;
  handle->begin_read();
  handle->end_read(false);
  handle->request();
  handle->begin_read();
  CHECK_FALSE(handle->start_drain());
}

TEST_CASE("a handler that does not block its signal looks like the callback") {
  Handle handle;
  handle->begin_read();
  break_in_handler(handle, SA_NODEFER);
  CHECK(handle->is_callbacks());
  CHECK_FALSE(handle->start_drain());
}

TEST_CASE("a signal that stays blocked gives nothing away") {
  Handle handle;
  block(SIGUSR2, SIG_BLOCK);
  handle->begin_read();
  handle->request();
  CHECK_FALSE(handle->start_drain());
  block(SIGUSR2, SIG_UNBLOCK);
}

TEST_CASE("a handler that is there for one signal only is known") {
  Handle handle;
  handle->begin_read();
  break_in_handler(handle, static_cast<int>(SA_RESETHAND));
  CHECK(handle->start_drain());
}

TEST_CASE("a signal that the callback blocks around its break looks like a handler's") {
  Handle handle;
  handle->begin_read();
  block(SIGUSR2, SIG_BLOCK);
  handle->request();
  block(SIGUSR2, SIG_UNBLOCK);
  CHECK(handle->start_drain());
}

TEST_CASE("a break on the reader's own thread while it waits drains, known by nothing else") {
  Handle handle;
  release_confinement();  // is_unconfined() now returns false
  handle->begin_read();
  handle->set_waiting(true);
  handle->request();  // as in a handler: nothing else can run here
  handle->set_waiting(false);
  CHECK_FALSE(handle->is_callbacks());
  CHECK(handle->start_drain());
  note_confinement();
}

TEST_CASE("a wait that was left by a jump is over") {
  Handle handle;
  static sigjmp_buf out;
  if (sigsetjmp(out, 1) == 0) {
    handle->begin_read();
    handle->set_waiting(true);
    siglongjmp(out, 1);
  }
  SECTION("for a break by the program before the next read") {
    handle->request();
    handle->begin_read();
    CHECK_FALSE(handle->start_drain());
  }
  SECTION("for a break in the next read's callback") {
    handle->begin_read();
    handle->request();
    CHECK(handle->is_callbacks());
    CHECK_FALSE(handle->start_drain());
  }
}

TEST_CASE("a break from another thread ends at once, and is not the callback's") {
  Handle handle;
  handle->begin_read();
  handle->set_waiting(GENERATE(false, true));
  break_in_thread(handle);
  CHECK_FALSE(handle->is_callbacks());
  CHECK_FALSE(handle->start_drain());
}

TEST_CASE("a break before the first read ends at once") {
  Handle handle;
  break_in_handler(handle);
  handle->begin_read();
  CHECK_FALSE(handle->start_drain());
}

TEST_CASE("a second break ends at once, before and during the drain") {
  Handle handle;
  handle->begin_read();
  const bool started = GENERATE(false, true);
  break_in_handler(handle);
  if (started) CHECK(handle->start_drain());
  if (GENERATE(false, true)) {
    break_in_handler(handle);
  } else {
    break_in_thread(handle);
  }
  CHECK_FALSE(handle->start_drain());
  CHECK_FALSE(handle->draining());
}

TEST_CASE("after a drain the next break drains again") {
  Handle handle;
  handle->begin_read();
  for (int i = 0; i < 2; ++i) {
    break_in_handler(handle);
    CHECK(handle->start_drain());
    handle->stop_drain();
  }
}

TEST_CASE("where it is not allowed no break drains") {
  Handle handle(false);
  handle->begin_read();
  break_in_handler(handle);
  CHECK_FALSE(handle->start_drain());
}

TEST_CASE("what a slow callback is given at once is little") {
  Handle handle;
  handle->begin_read();
  break_in_handler(handle);
  REQUIRE(handle->start_drain());
  int batch = 0;
  for (int i = 0; i < 4; ++i) batch = handle->batch();
  CHECK(batch > 1);
  const std::uint64_t start = monotonic_ns();
  while (monotonic_ns() - start < 2'000'000) {
  }
  CHECK(handle->batch() == 1);
}

TEST_CASE("a close waits for a read by another thread, and not for its own or for none") {
  Handle handle;
  handle->wait_for_reader();  // there has never been one
  handle->begin_read();
  handle->wait_for_reader();  // its own read: this is in the callback
  handle->end_read(false);
  std::atomic<int> step{0};
  std::thread reader([&] {
    handle->begin_read();
    step = 1;
    while (step != 2) std::this_thread::yield();
    step = 3;
    handle->end_read(false);
  });
  while (step != 1) std::this_thread::yield();
  step = 2;
  handle->wait_for_reader();
  CHECK(step == 3);
  reader.join();
}

TEST_CASE("a close waits a little for a break to be seen, between two reads of a loop") {
  Handle handle;
  std::atomic<int> step{0};
  std::thread reader([&] {
    handle->end_read(handle->begin_read());
    step = 1;
    while (step != 2) std::this_thread::yield();
    const bool nested = handle->begin_read();
    (void)handle->start_drain();
    step = 3;
    handle->end_read(nested);
  });
  while (step != 1) std::this_thread::yield();
  handle->request();
  const std::uint64_t asked = monotonic_ns();
  step = 2;
  handle->wait_for_reader();
  // (Unless the thread did not get to run.)
  CHECK((step == 3 || monotonic_ns() - asked >= 5'000'000));
  reader.join();
  handle->request();  // no reader exists to see it
  const std::uint64_t start = monotonic_ns();
  handle->wait_for_reader();
  CHECK(monotonic_ns() - start < 40'000'000);
}

TEST_CASE("a read within a callback does not end the one around it") {
  Handle handle;
  const auto close_takes_ns = [&] {
    const std::uint64_t start = monotonic_ns();
    handle->wait_for_reader();
    return monotonic_ns() - start;
  };
  bool outer = true;
  std::thread([&] {
    outer = handle->begin_read();
    const bool nested = handle->begin_read();
    handle->end_read(nested);
  }).join();
  CHECK_FALSE(outer);
  CHECK(close_takes_ns() >= 40'000'000);
  handle->end_read(outer);
  CHECK(close_takes_ns() < 40'000'000);
}

}  // namespace pcapv3
