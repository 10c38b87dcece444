// SPDX-License-Identifier: BSD-3-Clause
// The reading loop, for each of its feeds: counts, time-outs, errors, and callbacks that read on,
// leave or change the filter. reader_break_test.cc tests breaks, and reader_feeds_test.cc what only
// some feeds have.
#include <setjmp.h>

#include "capture.h"
#include "catch.h"

namespace pcapv3::test {
namespace {

constexpr std::uint64_t kMs = Capture::kMs;
/// Four packets of this size fill a block.
constexpr std::size_t kLarge = 32'000;

FeedKind any_feed() { return GENERATE(FeedKind::kSingle, FeedKind::kMerged, FeedKind::kTwoRings); }

Capture::Options nonblocking() {
  Capture::Options options;
  options.nonblocking = true;
  return options;
}

}  // namespace

TEST_CASE("reader: what comes is delivered once and in order") {
  Capture c(any_feed());
  for (int round = 0; round < 20; ++round) {
    c.send_many(5);
    c.kernel.pass(static_cast<std::uint64_t>(round) * kMs);
    CHECK(c.read_some() > 0);
  }
  c.read_all();
  CHECK(c.got == from_to(0, 99));
  const Counters counters = c.counters();
  CHECK(counters.received == 100);
  CHECK(counters.seen() == 100);
}

TEST_CASE("reader: a count is not exceeded, and nothing is lost for it") {
  Capture c(any_feed());
  const int count = GENERATE(1, 2, 3, 7);
  c.send_many(20);
  for (std::size_t before = 0; c.got.size() < 20; before = c.got.size()) {
    const int status = c.read_some(count);
    CHECK(status > 0);
    CHECK(status <= count);
    CHECK(c.got.size() == before + static_cast<std::size_t>(status));
  }
  CHECK(c.got == from_to(0, 19));
}

TEST_CASE("reader: the packet of a read of one is there until the next read, or is to be copied") {
  Capture c(any_feed());
  c.send_many(6, 100);
  unsigned kept = 0;
  for (std::uint32_t i = 0; i < 6; ++i) {
    REQUIRE(c.read_some(1) == 1);
    if (!c.is_kept) continue;
    ++kept;
    c.send_many(60, kLarge);  // overwrites everything that is not held
    CHECK(number_of(c.last_bytes, 100) == i);
  }
  CHECK(kept >= 5);
}

TEST_CASE("reader: one port's block is released as soon as it is read to its end") {
  Capture c(FeedKind::kSingle);
  c.send_many(3);
  c.retire();
  REQUIRE(c.read(2) == 2);
  CHECK(c.kernel.is_readable(c.socket(0)));
  REQUIRE(c.read(1) == 1);
  CHECK_FALSE(c.kernel.is_readable(c.socket(0)));
}

TEST_CASE("reader: of several ports the last block is kept until the next read") {
  Capture c(FeedKind::kMerged, nonblocking());
  c.send(0);
  c.retire();
  c.kernel.pass(2 * kMs);
  REQUIRE(c.read(1) == 1);
  CHECK(c.kernel.is_readable(c.socket(0)));
  CHECK(c.read() == 0);
  CHECK_FALSE(c.kernel.is_readable(c.socket(0)));
}

TEST_CASE("reader: a ring that is full loses packets, which are counted, and goes on") {
  Capture c(any_feed());
  c.read_until(0);
  c.send_many(200, kLarge);
  CHECK(c.stored().size() < 200);
  c.read_all();
  c.send_many(5);
  c.read_all();
  CHECK(Numbers(c.stored().begin(), c.stored().end()) == c.got);
  const Counters counters = c.counters();
  CHECK(counters.dropped == 205 - c.stored().size());
  CHECK(counters.seen() == 205);
  CHECK(counters.received == 205);
}

// ---- Time ----

TEST_CASE("reader: a read of one port without a packet ends by the host's time-out") {
  Capture c(FeedKind::kSingle);
  const std::uint64_t start = c.kernel.now_ns();
  CHECK(c.read() == 0);
  CHECK(c.kernel.now_ns() - start >= 1000 * kMs);
  CHECK(c.kernel.now_ns() - start < 1010 * kMs);
}

TEST_CASE("reader: without a time-out a read waits until it has a packet") {
  Capture::Options options;
  options.no_timeout = true;
  Capture c(any_feed(), options);
  c.kernel.at(5000 * kMs, [&] { c.send(); });
  CHECK(c.read() == 1);
  CHECK(c.got == Numbers{0});
}

TEST_CASE("reader: without a time-out a filter that rejects all does not end a read") {
  Capture::Options options;
  options.no_timeout = true;
  Capture c(any_feed(), options);
  c.set_filter([](std::uint32_t number) { return number == 3; });
  for (unsigned i = 0; i < 4; ++i) {
    c.kernel.at((1 + i) * 100 * kMs, [&] { c.send(); });
  }
  CHECK(c.read() == 1);
  CHECK(c.got == Numbers{3});
}

TEST_CASE("reader: a nonblocking read without a time-out returns at once") {
  Capture::Options options;
  options.no_timeout = options.nonblocking = true;
  Capture c(any_feed(), options);
  CHECK(c.read() == 0);
  c.set_filter([](std::uint32_t number) { return number == 1; });
  c.send();
  c.kernel.pass(40 * kMs);
  CHECK(c.read_some(1) == 0);
  c.send();
  c.kernel.pass(40 * kMs);
  CHECK(c.read_some() == 1);
  CHECK(c.got == Numbers{1});
}

TEST_CASE("reader: with a time-out a read ends with packets that the filter rejects") {
  Capture c(any_feed());
  c.set_filter([](std::uint32_t) { return false; });
  c.kernel.at(100 * kMs, [&] { c.send(); });
  CHECK(c.read() == 0);
  CHECK(c.rejected == std::set<std::uint32_t>{0});
}

TEST_CASE("reader: of several ports, a read waits until a packet comes") {
  Capture c(GENERATE(FeedKind::kMerged, FeedKind::kTwoRings));
  const std::uint64_t start = c.kernel.now_ns();
  c.kernel.at(7000 * kMs, [&] { c.send(); });
  CHECK(c.read_some() == 1);
  CHECK(c.kernel.now_ns() - start >= 7000 * kMs);
}

TEST_CASE("reader: where the descriptor is hidden, reads end by time") {
  Capture::Options options;
  options.hides_descriptor = true;
  options.timeout_ms = 50;
  Capture c(GENERATE(FeedKind::kMerged, FeedKind::kTwoRings), options);
  const std::uint64_t start = c.kernel.now_ns();
  CHECK(c.read() == 0);
  CHECK(c.kernel.now_ns() - start >= 50 * kMs);
  CHECK(c.kernel.now_ns() - start < 60 * kMs);
  c.kernel.at(30 * kMs, [&] { c.send(); });
  CHECK(c.read_some() == 1);
}

TEST_CASE("reader: a handle that does not block returns at once, and brings what there is") {
  Capture c(any_feed(), nonblocking());
  const std::uint64_t start = c.kernel.now_ns();
  CHECK(c.read() == 0);
  CHECK(c.kernel.now_ns() - start < 2 * kMs);  // the first read of immediate mode takes one
                                               // millisecond
  c.send_many(4);
  c.kernel.pass(30 * kMs);
  for (int i = 0; i < 4 && c.got.size() < 4; ++i) CHECK(c.read() >= 0);
  CHECK(c.got == from_to(0, 3));
}

TEST_CASE("reader: a busy reader sleeps in place of waiting, and a break ends that") {
  Capture::Options options;
  options.buffer = "64M";  // the reader would not sleep with a smaller ring
  Capture c(GENERATE(FeedKind::kSingle, FeedKind::kMerged), options);
  for (unsigned i = 0; i < 100; ++i) c.kernel.at(i * kMs, [&] { c.send_many(1500); });
  const unsigned waits = c.kernel.waits();
  while (c.got.size() < 100'000) REQUIRE(c.read() >= 0);
  // Without coalescing, it would wait for each of some 200 blocks.
  CHECK(c.kernel.waits() - waits < 60);
  c.kernel.at(2 * kMs, [&] { c.break_in_thread(); });
  const std::uint64_t start = c.kernel.now_ns();
  int status = 0;
  while (status >= 0) status = c.read();
  CHECK(status == PCAP_ERROR_BREAK);
  CHECK(c.kernel.now_ns() - start < 3 * kMs);
  c.read_all();
  CHECK(c.got == from_to(0, static_cast<std::uint32_t>(c.stored().size()) - 1));
}

TEST_CASE("reader: a clock that is set back stops nothing, loses nothing") {
  Capture c(any_feed());
  c.send_many(4);
  c.read_until(4);
  c.send_many(2);
  c.kernel.set_clock_back(3600'000 * kMs);
  c.send_many(4);
  const std::uint64_t start = c.kernel.now_ns();
  c.read_until(10);
  CHECK(c.kernel.now_ns() - start < 100 * kMs);
  CHECK(std::set<std::uint32_t>(c.got.begin(), c.got.end()) == c.stored());
  CHECK(c.got.size() == 10);
  c.send_many(10);
  c.read_until(20);
  CHECK(c.got.size() == 20);
}

// ---- Errors ----

TEST_CASE("reader: a corrupt block is reported after the packets before it, and passed over") {
  Capture c(any_feed());
  if (GENERATE(false, true)) c.read_until(0);
  c.send(0);
  c.send(0);
  c.send(0);
  c.spoil_last();
  c.retire();
  c.send(0);
  SECTION("in mid-read") {
    CHECK(c.read() == PCAP_ERROR);
    CHECK(c.got == from_to(0, 1));
  }
  SECTION("by the next read") {
    CHECK(c.read(2) == 2);
    CHECK(c.read(2) == PCAP_ERROR);
  }
  CHECK(c.error.find("corrupt block 0 in the ring") == 0);
  c.read_all();
  CHECK(c.got == Numbers{0, 1, 3});
  const Counters counters = c.counters();
  CHECK(counters.corrupt == 1);
  CHECK(counters.seen() == counters.received);
}

TEST_CASE("reader: a wait that fails is the read's error, and reading can go on") {
  Capture c(FeedKind::kSingle);
  c.in_wait = [&] {
    c.error = "poll failed";
    return PCAP_ERROR;
  };
  CHECK(c.read() == PCAP_ERROR);
  CHECK(c.error == "poll failed");
  c.in_wait = nullptr;
  c.send();
  CHECK(c.read() == 1);
}

TEST_CASE("reader: an interface that is gone is an error once its packets were read") {
  Capture c(any_feed());
  c.send_many(2);
  c.read_until(2);
  c.send_many(3);
  c.kernel.at(1 * kMs, [&] {
    for (unsigned i = 0; i < c.ports(); ++i) {
      c.gone[i] = true;
      c.kernel.trouble(c.socket(i));
    }
    c.kernel.change_links();
  });
  int status = 0;
  for (int i = 0; i < 10 && status >= 0; ++i) status = c.read();
  CHECK(status == PCAP_ERROR);
  CHECK(c.error == PCAPV3_INTERFACE_GONE);
  if (c.ports() > 1) CHECK(c.got == from_to(0, 4));
}

TEST_CASE("reader: of several ports one may go, and come back") {
  Capture c(FeedKind::kMerged);
  if (GENERATE(false, true)) c.kernel.remove_netlink();
  c.send_many(2);
  c.read_until(2);
  c.gone[1] = true;
  c.kernel.trouble(c.socket(1));
  c.kernel.change_links();
  for (unsigned i = 0; i < 3; ++i) {
    c.send(0);
    c.read_until(3 + i);
  }
  c.returning[1] = true;
  c.kernel.change_links();
  for (unsigned i = 0; i < 3; ++i) {
    c.send(0);
    c.read_until(6 + i);
  }
  CHECK_FALSE(c.gone[1]);
  c.send(1);
  c.read_until(9);
  CHECK(c.got == from_to(0, 8));
}

// ---- Callbacks ----

TEST_CASE("reader: a callback may read on, to the end of what there is") {
  Capture c(any_feed());
  const int count = GENERATE(-1, 1, 3);
  c.read_until(0);
  c.send_many(8);
  c.retire();
  c.kernel.pass(2 * kMs);
  int nested = 0;
  bool inside = false;
  c.in_callback = [&](std::uint32_t number) {
    if (number != 2 || inside) return;
    inside = true;
    nested = c.read(count);
    inside = false;
  };
  const int status = c.read();
  CHECK(status > 0);
  CHECK(nested > 0);
  if (count > 0) CHECK(nested <= count);
  c.read_all();
  CHECK(c.got == from_to(0, 7));
  CHECK(c.counters().delivered == 8);
}

TEST_CASE("reader: a callback may leave by a jump, and the next read goes on behind its packet") {
  static sigjmp_buf out;
  const FeedKind kind = any_feed();
  Capture c(kind);
  c.send_many(6);
  c.in_callback = [](std::uint32_t number) {
    if (number % 2 == 1) siglongjmp(out, 1);
  };
  volatile int jumps = 0;
  if (sigsetjmp(out, 1) != 0) jumps = jumps + 1;
  while (jumps < 3) REQUIRE(c.read() >= 0);
  c.in_callback = nullptr;
  c.send_many(3);
  c.read_all();
  CHECK(c.got == from_to(0, 8));
  CHECK(c.counters().delivered == 9);
}

TEST_CASE("reader: a drain that was left by a jump goes on, and ends") {
  static sigjmp_buf out;
  Capture c(any_feed());
  c.send_many(1);
  c.read_until(1);
  c.send_many(5);
  c.break_in_handler();
  c.in_callback = [](std::uint32_t number) {
    if (number == 2) siglongjmp(out, 1);
  };
  if (sigsetjmp(out, 1) == 0) (void)c.read();
  CHECK(c.got == from_to(0, 2));
  CHECK(c.read() == PCAP_ERROR_BREAK);
  CHECK(c.got == from_to(0, 5));
}

TEST_CASE("reader: a filter for old blocks only is left off behind them") {
  Capture c(GENERATE(FeedKind::kSingle, FeedKind::kMerged));
  c.old_blocks = 1;
  c.set_filter([](std::uint32_t) { return false; });
  c.send(0);
  c.retire();
  c.send(0);
  c.read_all();
  CHECK(c.rejected == std::set<std::uint32_t>{0});
  CHECK(c.got == Numbers{1});
  CHECK(c.counters().filtered == 1);
}

TEST_CASE("reader: a filter that the callback sets applies to the packets after its own") {
  Capture c(any_feed());
  c.read_until(0);
  c.send_many(10);
  c.in_callback = [&](std::uint32_t number) {
    if (number == 3) c.set_filter([](std::uint32_t n) { return n % 2 == 0; });
    if (number == 8) c.set_filter(nullptr);
  };
  c.read_all();
  CHECK(c.got == Numbers{0, 1, 2, 3, 4, 6, 8, 9});
  const Counters counters = c.counters();
  CHECK(counters.filtered == 2);
  CHECK(counters.seen() == 10);
}

}  // namespace pcapv3::test
