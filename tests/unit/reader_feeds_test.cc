// SPDX-License-Identifier: BSD-3-Clause
// The parts of the reader that only some feeds have: blocks that are acquired, immediate mode's two
// rings, and a descriptor of their own.
#include "capture.h"
#include "catch.h"
#include "pcap-linux-v3/include/pcap/linux-v3.h"
#include "pcap-linux-v3/port.h"

namespace pcapv3::test {
namespace {

constexpr std::uint64_t kMs = Capture::kMs;

Capture::Options nonblocking() {
  Capture::Options options;
  options.nonblocking = true;
  return options;
}

}  // namespace

// ---- Blocks ----

TEST_CASE("reader: packets are read and blocks acquired in turn, each packet once") {
  Capture c(GENERATE(FeedKind::kSingle, FeedKind::kMerged), nonblocking());
  std::vector<pcap_v3_block*> blocks;
  for (int round = 0; round < 12; ++round) {
    c.send_many(6);
    c.kernel.pass(40 * kMs);
    if (round % 3 == 0) {
      c.read_all();
    } else {
      pcap_v3_block* block = nullptr;
      int status;
      while ((status = c.acquire(0, &block)) == 1) {
        c.walk(block);
        blocks.push_back(block);
      }
      CHECK(status == 0);
    }
    // Outstanding blocks are not read again, however often the reader comes round the ring.
    if (round % 4 == 3) {
      for (pcap_v3_block* block : blocks) c.release(block);
      blocks.clear();
    }
  }
  c.read_all();
  CHECK(std::set<std::uint32_t>(c.got.begin(), c.got.end()) == c.stored());
  CHECK(c.got.size() == c.stored().size());
  CHECK(c.got.size() == 72);
}

TEST_CASE("reader: a block's rest can be acquired, and released unread it is counted") {
  Capture c(FeedKind::kSingle);
  c.send_many(5);
  c.retire();
  REQUIRE(c.read(2) == 2);
  pcap_v3_block* block = nullptr;
  REQUIRE(c.acquire(-1, &block) == 1);
  CHECK(pcap_v3_block_info(block)->packets == 3);
  c.release(block);
  c.send();
  REQUIRE(c.read() == 1);
  CHECK(c.got == Numbers{0, 1, 5});
  const Counters counters = c.counters();
  CHECK(counters.unwalked == 3);
  CHECK(counters.seen() == 6);
}

TEST_CASE("reader: an acquisition waits for its time") {
  Capture c(GENERATE(FeedKind::kSingle, FeedKind::kMerged));
  pcap_v3_block* block = nullptr;
  const std::uint64_t start = c.kernel.now_ns();
  CHECK(c.acquire(70, &block) == 0);
  CHECK(c.kernel.now_ns() - start >= 70 * kMs);
  CHECK(c.kernel.now_ns() - start < 75 * kMs);
  c.kernel.at(20 * kMs, [&] { c.send(); });
  REQUIRE(c.acquire(-1, &block) == 1);
  c.walk(block);
  CHECK(c.got == Numbers{0});
  c.release(block);
}

// ---- Immediate mode ----

TEST_CASE("reader: immediate mode changes over to blocks for dense packets, and back") {
  Capture c(FeedKind::kTwoRings);
  c.send(0);
  c.read_until(1);
  const Counters& counters = c.port(0)->counters();
  const auto send_for = [&](unsigned ms, unsigned each_ms) {
    for (unsigned i = 0; i < ms; ++i) c.kernel.at(i * kMs, [&c, each_ms] { c.send_many(each_ms); });
    while (c.got.size() < c.stored().size() || c.kernel.has_events()) REQUIRE(c.read() >= 0);
  };
  send_for(20, 1);
  CHECK(counters.switches == 0);
  CHECK(counters.frames >= 20);
  send_for(200, 200);
  CHECK(counters.switches % 2 == 1);
  CHECK(counters.frames < 5'000);
  send_for(100, 1);
  CHECK(counters.switches % 2 == 0);
  const std::uint64_t frames = counters.frames;
  send_for(20, 1);
  CHECK(counters.frames == frames + 20);
  CHECK(c.got == from_to(0, static_cast<std::uint32_t>(c.sent()) - 1));
}

TEST_CASE("reader: when a port has been busy for long, slots hold what finds no room in blocks") {
  Capture c(FeedKind::kTwoRings);
  c.send(0);
  c.read_until(1);
  for (unsigned ms = 0; ms < 1500; ++ms) c.kernel.at(ms * kMs, [&] { c.send_many(30); });
  while (c.kernel.has_events()) REQUIRE(c.read() >= 0);
  const Counters& counters = c.port(0)->counters();
  const std::uint64_t frames = counters.frames;
  // While nobody reads, each of these uses up one of eight blocks.
  constexpr unsigned kStalled = 30;
  for (unsigned i = 0; i < kStalled; ++i) {
    c.send();
    c.retire();
  }
  c.read_all();
  c.send_many(3);
  c.read_all();
  CHECK(counters.frames >= frames + kStalled - 8);
  CHECK(c.stored().size() == c.sent());
  const bool in_order = c.got == from_to(0, static_cast<std::uint32_t>(c.sent()) - 1);
  CHECK(in_order);
}

TEST_CASE("reader: what comes to both rings while they are looked at is delivered in order") {
  Capture c(FeedKind::kTwoRings);
  c.send(0);
  c.read_until(1);
  c.take();
  unsigned looks = 0;
  for (bool within = true; within; ++looks) {
    within = false;
    c.kernel.in_look_at_clock(looks, [&] {
      within = true;
      c.send_many(100);  // more than there are slots
      c.retire();
    });
    c.send();
    c.read_all();
    c.kernel.in_look_at_clock(0, nullptr);
    c.kernel.pass(100 * kMs);  // enough for the way back to slots
    c.read_all();
    const Numbers got = c.take();
    REQUIRE(got == from_to(got.front(), c.sent() - 1));
  }
  CHECK(looks > 4);
  CHECK(c.port(0)->counters().frames > 100);
}

TEST_CASE("reader: what comes while two rings are joined is delivered once") {
  Capture c(FeedKind::kTwoRings);
  // While the second socket joins, both sockets get each packet.
  c.kernel.in_grace_period = c.kernel.before_join = [&] { c.send_many(3); };
  c.send_many(4);
  c.read_until(4);
  c.kernel.in_grace_period = c.kernel.before_join = nullptr;
  c.read_all();
  CHECK(c.kernel.grace_periods() > 1);
  CHECK(c.got == from_to(0, static_cast<std::uint32_t>(c.sent()) - 1));
  CHECK(c.counters().received == c.sent());
}

TEST_CASE("reader: two rings are one once the program has the socket, and blocks can be acquired") {
  Capture c(FeedKind::kTwoRings);
  c.send_many(3);
  if (GENERATE(false, true)) c.read_until(3);
  pcapv3_reader_use_blocks_only(c.reader);
  c.send_many(3);
  c.read_until(6);
  pcap_v3_block* block = nullptr;
  c.send_many(2);
  for (int i = 0; i < 20; ++i) {  // around the ring
    c.send();
    REQUIRE(c.acquire(100, &block) == 1);
    c.walk(block);
    c.release(block);
  }
  CHECK(c.got == from_to(0, 27));
  CHECK(c.counters().seen() == 28);
}

// ---- The descriptor ----

TEST_CASE("reader: the descriptor is readable whenever a packet can be delivered") {
  Capture c(GENERATE(FeedKind::kMerged, FeedKind::kTwoRings), nonblocking());
  REQUIRE(pcapv3_reader_watch_descriptor(c.reader) == 1);
  CHECK(c.read() == 0);
  for (int round = 0; round < 40; ++round) {
    c.kernel.pass(static_cast<unsigned>(round) * kMs * 3 / 10);
    c.send(static_cast<unsigned>(round) % c.ports());
    int waits = 0;
    while (!c.is_readable() && ++waits < 60) c.kernel.pass(1 * kMs);
    REQUIRE(waits < 60);
    // A program reads until the descriptor is no longer readable.
    for (int i = 0; c.is_readable() && i < 60; ++i) {
      CHECK(c.read(round % 3 == 0 ? 1 : -1) >= 0);
      c.kernel.pass(1 * kMs);
    }
    CHECK(c.got.size() == static_cast<std::size_t>(round) + 1);
    CHECK_FALSE(c.is_readable());
  }
  CHECK(c.got == from_to(0, 39));
}

}  // namespace pcapv3::test
