// SPDX-License-Identifier: BSD-3-Clause
// The gate of a ring of slots, as the kernel sees it: at no moment does it find room where there is
// none.
#include "pcap-linux-v3/adaptive/gate.h"

#include <functional>
#include <random>
#include <vector>

#include "catch.h"

namespace pcapv3::test {
namespace {

/// A ring of slots, its reader and the kernel, which has packets come between any two changes.
class Slots {
 public:
  explicit Slots(unsigned count) : slots_(count), gate_(count) {}

  Gate& gate() { return gate_; }
  unsigned received() const { return received_; }
  unsigned unread() const { return received_ - read_; }
  bool is_open() const { return is_free(count() / 4) || is_free(0); }

  /// `most` packets come, as far as the kernel finds room (af_packet.c: fanout_demux_rollover).
  /// Without a huge flow it finds some in one slot more.
  void receive(unsigned most, bool huge = false) {
    for (; most != 0 && (huge ? is_free(count() / 4) : is_open()); --most) {
      REQUIRE(is_free(0));
      slots_[head_] = Slot::kPacket;
      head_ = (head_ + 1) % count();
      ++received_;
    }
  }
  void read(unsigned most) {
    for (; most != 0 && slots_[next_] == Slot::kPacket; --most) {
      slots_[next_] = gate_.holds(next_) ? Slot::kMark : Slot::kFree;
      next_ = (next_ + 1) % count();
      ++read_;
    }
  }
  void close(unsigned ahead, const std::function<void()>& between) {
    gate_.set((next_ + unread() + ahead) % count(), mark(between));
  }
  void open(const std::function<void()>& between) {
    gate_.clear(next_, unmark(between));
    CHECK_FALSE(gate_.is_set());
  }
  /// Moves a gate that is closed, and nothing is unread.
  void move(unsigned ahead, const std::function<void()>& between) {
    const unsigned before = gate_.first();
    gate_.set((next_ + ahead) % count(), mark(between));
    gate_.clear(before, next_, unmark(between));
  }
  unsigned marks() const {
    unsigned marks = 0;
    for (const Slot slot : slots_) marks += slot == Slot::kMark ? 1 : 0;
    return marks;
  }

 private:
  enum class Slot { kFree, kPacket, kMark };

  unsigned count() const { return static_cast<unsigned>(slots_.size()); }
  bool is_free(unsigned ahead) const { return slots_[(head_ + ahead) % count()] == Slot::kFree; }
  std::function<void(unsigned)> change(Slot from, Slot to, const std::function<void()>& between) {
    return [this, from, to, between](unsigned i) {
      between();
      if (slots_[i] == from) slots_[i] = to;
    };
  }
  std::function<void(unsigned)> mark(const std::function<void()>& between) {
    return change(Slot::kFree, Slot::kMark, between);
  }
  std::function<void(unsigned)> unmark(const std::function<void()>& between) {
    return change(Slot::kMark, Slot::kFree, between);
  }

  std::vector<Slot> slots_;
  Gate gate_;
  unsigned head_ = 0;  // the slot that the kernel fills next
  unsigned next_ = 0;  // the slot that is read next
  unsigned received_ = 0;
  unsigned read_ = 0;
};

}  // namespace

TEST_CASE("a gate has four marks, and leaves none") {
  for (const unsigned count : {4u, 8u, 12u, 100u}) {
    CAPTURE(count);
    Slots slots(count);
    slots.close(0, [] {});
    CHECK(slots.marks() == 4);
    CHECK_FALSE(slots.is_open());
    slots.open([] {});
    CHECK(slots.marks() == 0);
    CHECK(slots.is_open());
  }
}

TEST_CASE("a gate is never set where the kernel would drop a packet, whatever comes meanwhile") {
  std::mt19937 random(16);
  const auto below = [&](unsigned n) {
    return std::uniform_int_distribution<unsigned>(0, n - 1)(random);
  };
  for (unsigned round = 0; round < 20'000; ++round) {
    const unsigned count = 4 * (1 + below(12));
    CAPTURE(round, count);
    Slots slots(count);
    // A reader that is interrupted for long sees the kernel come round to where it was.
    const unsigned most = below(4) == 0 ? 2 * count : 3;
    const bool huge = below(3) == 0;
    const auto traffic = [&] { slots.receive(below(most + 1), huge); };
    for (unsigned step = 0; step < 12; ++step) {
      traffic();
      slots.read(below(2) == 0 ? count : below(count));
      traffic();
      if (!slots.gate().is_set()) {
        slots.close(below(slots.gate().limit() + 1), traffic);
      } else if (below(2) == 0 || slots.gate().limit() == 0) {
        slots.open(traffic);
        continue;
      } else {
        // All that was let through is read, and no more comes.
        do {
          slots.read(count);
          slots.receive(count);
        } while (slots.unread() != 0);
        const unsigned before = slots.received();
        const unsigned ahead = 1 + below(slots.gate().limit());
        slots.move(ahead, traffic);
        slots.receive(count);
        CHECK(slots.received() - before == ahead);
      }
      const unsigned before = slots.received();
      do {
        slots.read(count);
        slots.receive(count);
      } while (slots.unread() != 0);
      CHECK_FALSE(slots.is_open());
      CHECK(slots.received() - before <= count + slots.gate().limit());
    }
    slots.open(traffic);
    slots.read(count);
    CHECK(slots.marks() == 0);
  }
}

}  // namespace pcapv3::test
