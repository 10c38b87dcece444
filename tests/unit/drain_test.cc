// Which break drains and which ends at once: by where pcap_breakloop() is called from.
#include "pcap-linux-v3/drain.h"

#include <signal.h>

#include <thread>

#include "catch.h"

namespace pcapv3 {
namespace {

Drain* in_handler = nullptr;

/// Raises SIGUSR1, whose handler calls on_break(), on this thread.
void break_in_handler(Drain& drain, int flags = 0) {
  in_handler = &drain;
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) { in_handler->on_break(); };
  action.sa_flags = flags;
  REQUIRE(sigaction(SIGUSR1, &action, &before) == 0);
  raise(SIGUSR1);
  sigaction(SIGUSR1, &before, nullptr);
}

}  // namespace

TEST_CASE("without a break there is nothing to start") {
  Drain drain;
  drain.begin_read(true);
  CHECK_FALSE(drain.start());
  CHECK_FALSE(drain.active());
}

TEST_CASE("a break from within the callback ends at once") {
  Drain drain;
  const bool several = GENERATE(true, false);
  drain.begin_read(several);
  drain.on_break();
  CHECK_FALSE(drain.start());
}

TEST_CASE("a break from a signal handler during the callback drains") {
  Drain drain;
  drain.begin_read(true);
  const std::uint64_t before = realtime_ns();
  break_in_handler(drain);
  CHECK(drain.start());
  CHECK(drain.active());
  CHECK(drain.break_ns() >= before);
  CHECK(drain.break_ns() <= realtime_ns());
}

TEST_CASE("a handler that does not block its signal looks like the callback") {
  Drain drain;
  drain.begin_read(true);
  break_in_handler(drain, SA_NODEFER);
  CHECK_FALSE(drain.start());
}

TEST_CASE("a signal that was blocked when the read began gives nothing away") {
  Drain drain;
  sigset_t blocked;
  sigset_t before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  drain.begin_read(true);
  drain.on_break();
  CHECK_FALSE(drain.start());
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST_CASE("a signal without a handler that the callback blocks gives nothing away") {
  Drain drain;
  drain.begin_read(true);
  sigset_t blocked;
  sigset_t before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  drain.on_break();
  CHECK_FALSE(drain.start());
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST_CASE("a break on the reader's own thread while it waits drains") {
  Drain drain;
  drain.begin_read(false);
  drain.set_waiting(true);
  drain.on_break();  // as in a handler: nothing else can run here
  drain.set_waiting(false);
  CHECK(drain.start());
}

TEST_CASE("a break from another thread drains") {
  Drain drain;
  drain.begin_read(true);
  std::thread([&drain] { drain.on_break(); }).join();
  CHECK(drain.start());
}

TEST_CASE("a break before the first read ends at once") {
  Drain drain;
  std::thread([&drain] { drain.on_break(); }).join();
  CHECK_FALSE(drain.start());
}

TEST_CASE("a second break ends at once, before and during the drain") {
  Drain drain;
  drain.begin_read(true);
  const bool started = GENERATE(false, true);
  std::thread([&drain] { drain.on_break(); }).join();
  if (started) CHECK(drain.start());
  std::thread([&drain] { drain.on_break(); }).join();
  CHECK_FALSE(drain.start());
  CHECK_FALSE(drain.active());
}

TEST_CASE("after a drain the next break drains again") {
  Drain drain;
  drain.begin_read(true);
  for (int i = 0; i < 2; ++i) {
    std::thread([&drain] { drain.on_break(); }).join();
    CHECK(drain.start());
    drain.stop();
  }
}

TEST_CASE("where it is not allowed no break drains") {
  Drain drain;
  drain.allow(false);
  drain.begin_read(true);
  std::thread([&drain] { drain.on_break(); }).join();
  break_in_handler(drain);
  CHECK_FALSE(drain.start());
}

}  // namespace pcapv3
