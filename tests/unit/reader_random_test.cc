// SPDX-License-Identifier: BSD-3-Clause
// The reading loop on random schedules, compared with a model: every packet that the kernel stored
// comes out once, in order, or is counted as what became of it; and the statistics add up.
#include <algorithm>
#include <random>

#include "capture.h"
#include "catch.h"
#include "pcap-linux-v3/include/pcap/linux-v3.h"

namespace pcapv3::test {
namespace {

constexpr std::uint64_t kMs = Capture::kMs;

class Schedule {
 public:
  Schedule(FeedKind kind, unsigned seed)
      : kind_(kind), random_(seed), acquires_(seed % 4 == 3), spoils_(seed % 4 == 2) {
    Capture::Options options;
    options.ports = 1 + below(4);
    c_ = std::make_unique<Capture>(kind, options);
    c_->in_callback = [this](std::uint32_t) { do_in_callback(); };
    c_->kernel.in_grace_period = [this] { c_->send_many(below(4)); };
  }

  void run() {
    for (int step = 0; step < 300; ++step) take_step();
    finish();
    check();
  }

 private:
  unsigned below(unsigned bound) {
    return bound == 0 ? 0 : static_cast<unsigned>(random_() % bound);
  }
  bool one_in(unsigned n) { return below(n) == 0; }

  void send() {
    for (unsigned i = below(20); i > 0; --i) {
      c_->send(below(c_->ports()), one_in(8) ? 20'000 : 60 + below(1000));
    }
    if (spoils_ && one_in(20) && kind_ != FeedKind::kTwoRings && c_->send(0)) c_->spoil_last();
  }

  void do_in_callback() {
    if (one_in(15)) c_->send(below(c_->ports()));
    if (one_in(60)) set_filter();
    if (one_in(80)) c_->kernel.pass(below(20) * kMs);
    if (draining_ || depth_ != 0) return;
    if (one_in(40)) {
      ++depth_;
      read();
      --depth_;
    }
  }

  /// Reads once. Waits for what can come, and for nothing that can't.
  int read() {
    const bool nonblocking = one_in(2);
    c_->set_nonblocking(nonblocking);
    if (!nonblocking) {
      c_->kernel.at(below(30) * kMs, [this] { c_->send(below(c_->ports())); });
      // The kernel does not get past an outstanding block.
      c_->kernel.at(60 * kMs, [this] { release(); });
      c_->kernel.at(90 * kMs, [this] { c_->send_many(c_->ports()); });
    }
    const int status = c_->read(one_in(2) ? -1 : 1 + static_cast<int>(below(10)));
    if (status == PCAP_ERROR) {
      REQUIRE(spoils_);
      REQUIRE(c_->error.find("corrupt") == 0);
    }
    return status;
  }

  void set_filter() {
    if (one_in(2)) return c_->set_filter(nullptr);
    const unsigned divisor = 2 + below(3);
    c_->set_filter([divisor](std::uint32_t number) { return number % divisor != 0; });
  }

  void end_by_break() {
    const Numbers before(c_->stored().begin(), c_->stored().end());
    draining_ = true;
    switch (below(4)) {
      case 0:
        c_->break_loop();
        break;
      case 1:
        c_->break_in_thread();
        break;
      case 2:
        c_->break_in_handler();
        break;
      default:
        c_->kernel.signal_at(below(20) * kMs, [this] { c_->break_in_handler(); });
        break;
    }
    int status = 0;
    for (int i = 0; i < 500 && status != PCAP_ERROR_BREAK; ++i) status = read();
    draining_ = false;
    REQUIRE(status == PCAP_ERROR_BREAK);
    REQUIRE_FALSE(c_->break_flag_is_set());
    pcap_stat stats{};
    if (!c_->frozen(stats) || spoils_ || acquires_) return;
    for (const std::uint32_t number : before) REQUIRE(is_seen(number));
    const auto sent = static_cast<std::size_t>(c_->sent());
    REQUIRE(stats.ps_recv == c_->got.size() + c_->rejected.size() + (sent - c_->stored().size()));
  }

  bool is_seen(std::uint32_t number) {
    for (; looked_ < c_->got.size(); ++looked_) seen_.insert(c_->got[looked_]);
    return seen_.count(number) != 0 || c_->rejected.count(number) != 0;
  }

  void acquire() {
    pcap_v3_block* block = nullptr;
    c_->set_nonblocking(one_in(2));
    const int status = c_->acquire(static_cast<int>(below(10)), &block);
    if (status == PCAP_ERROR) {
      REQUIRE(c_->error.find("packets of several rings") == 0);
      read();
    }
    if (status != 1) return;
    if (one_in(10)) {
      unwalked_ += pcap_v3_block_info(block)->packets;
    } else {
      c_->walk(block);
    }
    blocks_.push_back(block);
    if (blocks_.size() > 3 || one_in(2)) release();
  }

  void release() {
    while (!blocks_.empty()) {
      const unsigned i = below(static_cast<unsigned>(blocks_.size()));
      c_->release(blocks_[i]);
      blocks_.erase(blocks_.begin() + i);
    }
  }

  void take_step() {
    send();
    if (one_in(2)) c_->kernel.pass(below(15) * kMs);
    if (one_in(25)) {
      end_by_break();
    } else if (one_in(20)) {
      set_filter();
    } else if (acquires_ && one_in(3)) {
      acquire();
    } else if (!one_in(4)) {
      read();
    }
  }

  void finish() {
    release();
    c_->in_callback = nullptr;
    c_->kernel.in_grace_period = nullptr;
    c_->kernel.pass(100 * kMs);
    c_->set_nonblocking(true);
    for (int empty = 0; empty < 5;) {
      const int status = c_->read();
      REQUIRE((status >= 0 || spoils_));
      empty = status == 0 ? empty + 1 : 0;
      if (status == 0) c_->kernel.pass(50 * kMs);
    }
  }

  void check() {
    const Counters counters = c_->counters();
    CHECK(counters.received == c_->sent());
    CHECK(counters.dropped == c_->sent() - c_->stored().size());
    CHECK(counters.filtered == c_->rejected.size());
    CHECK(counters.delivered == c_->got.size());
    CHECK(counters.unwalked == unwalked_);
    CHECK(counters.seen() == counters.received);
    if (!spoils_) CHECK(counters.corrupt == 0);

    std::set<std::uint32_t> seen(c_->got.begin(), c_->got.end());
    CHECK(seen.size() == c_->got.size());
    for (const std::uint32_t number : c_->rejected) CHECK(seen.insert(number).second);
    CHECK(seen.size() + counters.corrupt + unwalked_ == c_->stored().size());
    CHECK(std::includes(c_->stored().begin(), c_->stored().end(), seen.begin(), seen.end()));

    if (acquires_) return;
    std::uint64_t late = 0;
    std::uint32_t newest = 0;
    for (const std::uint32_t number : c_->got) {
      late += number < newest ? 1 : 0;
      newest = std::max(newest, number);
    }
    CHECK(late <= counters.late);
    if (kind_ != FeedKind::kMerged) CHECK(late == 0);
  }

  const FeedKind kind_;
  std::mt19937 random_;
  const bool acquires_;
  const bool spoils_;
  std::unique_ptr<Capture> c_;
  bool draining_ = false;
  int depth_ = 0;
  std::vector<pcap_v3_block*> blocks_;
  std::uint64_t unwalked_ = 0;
  std::set<std::uint32_t> seen_;
  std::size_t looked_ = 0;
};

}  // namespace

TEST_CASE("reader: each packet comes once, in order, or is counted, whatever happens") {
  const FeedKind kind = GENERATE(FeedKind::kSingle, FeedKind::kMerged, FeedKind::kTwoRings);
  const auto seed = static_cast<unsigned>(GENERATE(range(0, 40)));
  CAPTURE(static_cast<int>(kind), seed);
  Schedule(kind, seed).run();
}

}  // namespace pcapv3::test
