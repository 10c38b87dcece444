// SPDX-License-Identifier: BSD-3-Clause
// Breaks, seen over a whole read: what each of them ends, what a drain still delivers, and that no
// packet is lost or comes twice because of it.
#include <algorithm>

#include "capture.h"
#include "catch.h"
#include "pcap-linux-v3/break.h"
#include "pcap-linux-v3/include/pcap/linux-v3.h"

namespace pcapv3::test {
namespace {

constexpr std::uint64_t kMs = Capture::kMs;

FeedKind any_feed() { return GENERATE(FeedKind::kSingle, FeedKind::kMerged, FeedKind::kTwoRings); }

/// A capture that has already read packet 0, and so is past what the first read does.
struct Started : Capture {
  explicit Started(FeedKind feed, const Options& options = Options()) : Capture(feed, options) {
    send();
    read_until(1);
    REQUIRE(take() == Numbers{0});
  }
};

Numbers sorted(Numbers numbers) {
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

}  // namespace

TEST_CASE("reader: a break from a signal handler while the read waits drains") {
  Started c(any_feed());
  // Blocks come 8 ms after their first packet could, and the signal comes before that.
  c.kernel.signal_at(2 * kMs, [&] {
    c.send_many(5);
    c.break_in_handler();
  });
  CHECK(c.read_some() == PCAP_ERROR_BREAK);
  CHECK(c.take() == from_to(1, 5));
  CHECK_FALSE(c.break_flag_is_set());
  pcap_stat stats{};
  CHECK(c.frozen(stats));
  c.read_all();
  CHECK(c.got.empty());
  CHECK_FALSE(c.frozen(stats));
}

TEST_CASE("reader: a drain brings what came before it, once, and nothing that comes later") {
  Started c(any_feed());
  // Packets that come while the drain begins may be part of it; those that come in its callbacks
  // are not.
  c.kernel.in_grace_period = [&] { c.send_many(2); };
  c.in_callback = [&](std::uint32_t) { c.send_many(2); };
  c.kernel.signal_at(2 * kMs, [&] {
    c.send_many(6);
    c.break_in_handler();
  });
  CHECK(c.read_some() == PCAP_ERROR_BREAK);
  CHECK(c.got.size() >= 6);
  CHECK(c.got.size() <= 6 + 2 * c.kernel.grace_periods());
  CHECK(c.got == from_to(1, static_cast<std::uint32_t>(c.got.size())));
  c.in_callback = nullptr;
  c.read_all();
  CHECK(sorted(c.got) == from_to(1, static_cast<std::uint32_t>(c.stored().size()) - 1));
  const Counters counters = c.counters();
  CHECK(counters.received == c.stored().size());
  CHECK(counters.delivered == c.stored().size());
}

TEST_CASE("reader: a drain reads what the kernel is filling only when it is final") {
  Started c(FeedKind::kSingle);
  c.kernel.signal_at(2 * kMs, [&] {
    c.send_many(2);
    c.send_slowly();
    c.send_slowly();
    c.break_in_handler();
  });
  CHECK(c.read_some() == PCAP_ERROR_BREAK);
  CHECK(c.got == from_to(1, 4));
}

TEST_CASE("reader: without a grace period a drain leaves the kernel's block to the next read") {
  Started c(GENERATE(FeedKind::kSingle, FeedKind::kMerged));
  c.kernel.has_grace_periods = false;
  c.kernel.signal_at(2 * kMs, [&] {
    c.send_many(5);
    c.break_in_handler();
  });
  CHECK(c.read_some() == PCAP_ERROR_BREAK);
  CHECK(c.got.empty());
  c.read_all();
  CHECK(c.got == from_to(1, 5));
}

TEST_CASE("reader: a break from a signal handler in the callback drains") {
  Started c(any_feed());
  c.in_callback = [&](std::uint32_t number) {
    if (number != 3) return;
    c.send_many(3);
    c.break_in_handler();
  };
  c.send_many(5);
  CHECK(c.read_some() == PCAP_ERROR_BREAK);
  CHECK(c.take() == from_to(1, 8));
  c.read_all();
  CHECK(c.got.empty());
}

TEST_CASE("reader: a break from a signal handler between two reads drains in the next") {
  Started c(any_feed());
  c.send_many(5);
  c.break_in_handler();
  CHECK(c.read_some() == PCAP_ERROR_BREAK);
  CHECK(c.take() == from_to(1, 5));
  c.send_many(2);
  c.read_until(2);
  CHECK(c.got == from_to(6, 7));
}

TEST_CASE("reader: a drain goes on over reads with a count") {
  Started c(any_feed());
  c.send_many(7);
  c.break_in_handler();
  CHECK(c.read_some(3) == 3);
  CHECK(c.got == from_to(1, 3));
  c.send_many(2);
  CHECK(c.read_some(3) == 3);
  CHECK(c.read_some(3) == PCAP_ERROR_BREAK);
  CHECK(c.take() == from_to(1, 7));
  c.read_until(2);
  CHECK(c.got == from_to(8, 9));
}

TEST_CASE("reader: a break in the callback ends the read at once, and costs nothing else") {
  Started c(any_feed());
  c.send_many(6);
  c.in_callback = [&](std::uint32_t number) {
    if (number == 2) c.break_loop();
  };
  CHECK(c.read_some() == PCAP_ERROR_BREAK);
  CHECK(c.got == from_to(1, 2));
  CHECK_FALSE(c.break_flag_is_set());
  c.read_all();
  CHECK(c.got == from_to(1, 6));
}

TEST_CASE("reader: a break with the last packet that was asked for") {
  Started c(any_feed());
  c.send_many(6);
  SECTION("is this read's, by the callback") {
    c.in_callback = [&](std::uint32_t number) {
      if (number == 3) c.break_loop();
    };
    CHECK(c.read_some(3) == PCAP_ERROR_BREAK);
    CHECK(c.got == from_to(1, 3));
    CHECK(c.read(1) == 1);
  }
  SECTION("is the next one's, by a signal handler") {
    c.in_callback = [&](std::uint32_t number) {
      if (number == 3) c.break_in_handler();
    };
    CHECK(c.read_some(3) == 3);
    CHECK(c.got == from_to(1, 3));
    CHECK(c.read_some() == PCAP_ERROR_BREAK);
    CHECK(c.got == from_to(1, 6));
  }
  SECTION("is the next one's, by another thread") {
    c.in_callback = [&](std::uint32_t number) {
      if (number == 3) c.break_in_thread();
    };
    CHECK(c.read_some(3) == 3);
    CHECK(c.read_some() == PCAP_ERROR_BREAK);
    CHECK(c.got == from_to(1, 3));
    CHECK(c.read(1) == 1);
  }
}

TEST_CASE("reader: a break by another thread ends the read at once") {
  Started c(any_feed());
  SECTION("while it waits") {
    c.kernel.at(3 * kMs, [&] { c.break_in_thread(); });
    CHECK(c.read_some() == PCAP_ERROR_BREAK);
    CHECK(c.got.empty());
  }
  SECTION("in the callback") {
    c.send_many(4);
    c.in_callback = [&](std::uint32_t number) {
      if (number == 2) c.break_in_thread();
    };
    CHECK(c.read_some() == PCAP_ERROR_BREAK);
    CHECK(c.take() == from_to(1, 2));
    c.read_all();
    CHECK(c.got == from_to(3, 4));
  }
}

TEST_CASE("reader: a break by the program between two reads ends the next at once") {
  Started c(any_feed());
  c.send_many(4);
  c.break_loop();
  CHECK(c.read_some() == PCAP_ERROR_BREAK);
  CHECK(c.got.empty());
  c.read_all();
  CHECK(c.got == from_to(1, 4));
}

TEST_CASE("reader: a second break ends a drain at once, and what is left comes later, once") {
  Started c(any_feed());
  c.send_many(9);
  c.break_in_handler();
  c.in_callback = [&](std::uint32_t number) {
    if (number != 4) return;
    if (GENERATE(0, 1, 2) == 0) {
      c.break_loop();
    } else {
      c.break_in_handler();
    }
  };
  CHECK(c.read_some() == PCAP_ERROR_BREAK);
  CHECK(c.got == from_to(1, 4));
  pcap_stat stats{};
  CHECK_FALSE(c.frozen(stats));
  c.send_many(2);
  c.read_all();
  CHECK(c.got == from_to(1, 11));
}

TEST_CASE("reader: a drain into a slow callback ends in time, and what is left comes later") {
  Started c(any_feed());
  c.send_many(40);
  c.break_in_handler();
  const std::uint64_t start = c.kernel.now_ns();
  c.in_callback = [&](std::uint32_t) { c.kernel.pass(60 * kMs); };
  CHECK(c.read_some() == PCAP_ERROR_BREAK);
  CHECK(c.kernel.now_ns() - start < Break::kLongestDrainNs + 200 * kMs);
  CHECK(c.got.size() >= 7);
  CHECK(c.got.size() < 15);
  pcap_stat stats{};
  CHECK_FALSE(c.frozen(stats));
  c.in_callback = nullptr;
  c.read_all();
  CHECK(c.got == from_to(1, 40));
}

TEST_CASE("reader: where drains are off, a signal's break ends the read at once") {
  Capture::Options options;
  options.drain = false;
  Started c(any_feed(), options);
  c.send_many(3);
  c.break_in_handler();
  CHECK(c.read_some() == PCAP_ERROR_BREAK);
  CHECK(c.got.empty());
  c.read_all();
  CHECK(c.got == from_to(1, 3));
}

TEST_CASE("reader: a break before the first read ends that at once") {
  Capture c(any_feed());
  c.send_many(3);
  c.break_in_handler();
  CHECK(c.read_some() == PCAP_ERROR_BREAK);
  c.read_all();
  CHECK(c.got == from_to(0, 2));
}

TEST_CASE("reader: a corrupt packet that a drain meets is counted once") {
  Started c(GENERATE(FeedKind::kSingle, FeedKind::kMerged));
  c.send(0);
  c.send(0);
  c.spoil_last();
  c.send(0);
  c.break_in_handler();
  CHECK(c.read_some() == PCAP_ERROR);
  CHECK(c.read_some() == PCAP_ERROR_BREAK);
  CHECK(c.counters().corrupt == 2);
  c.send(0);
  c.retire();
  int status = 0;
  for (int i = 0; i < 10; ++i) {
    c.set_nonblocking(true);
    status = std::min(status, c.read());
    c.kernel.pass(10 * kMs);
  }
  CHECK(c.got == Numbers{1});
  const Counters counters = c.counters();
  CHECK(counters.corrupt == 3);
  CHECK(counters.seen() == counters.received);
}

TEST_CASE("reader: a drain of blocks waits for the kernel's, and brings no later one") {
  Started c(GENERATE(FeedKind::kSingle, FeedKind::kMerged));
  pcap_v3_block* block = nullptr;
  CHECK(c.acquire(0, &block) == 0);
  c.send_many(4);
  c.break_in_handler();
  int status;
  while ((status = c.acquire(-1, &block)) == 1) {
    c.walk(block);
    c.send(pcap_v3_block_info(block)->port);
    c.release(block);
  }
  CHECK(status == PCAP_ERROR_BREAK);
  CHECK(sorted(c.take()) == from_to(1, 4));
  pcap_stat stats{};
  CHECK(c.frozen(stats));
  c.read_all();
  CHECK(sorted(c.got) == from_to(5, 4 + c.ports()));
}

}  // namespace pcapv3::test
