// SPDX-License-Identifier: BSD-3-Clause
// The statistics: what is left over, and the summary.
#include "pcap-linux-v3/counters.h"

#include <string>
#include <string_view>

#include "catch.h"

namespace pcapv3 {

TEST_CASE("what nobody read is what was received less all that is accounted for") {
  Counters c;
  c.received = 100;
  c.dropped = 5;
  c.delivered = 80;
  c.filtered = 4;
  c.other_way = 3;
  c.corrupt = 2;
  CHECK(c.undelivered() == 6);
}

TEST_CASE("more delivered than the kernel has told of yet leaves nothing undelivered") {
  Counters c;
  c.delivered = 3;
  CHECK(c.undelivered() == 0);
}

TEST_CASE("the summary names every figure") {
  Counters c;
  c.received = 1000;
  c.dropped = 1;
  c.freezes = 2;
  c.delivered = 3;
  c.filtered = 4;
  c.other_way = 5;
  c.corrupt = 6;
  c.blocks = 7;
  char text[400];
  const std::size_t length = summarize(c, "eth0", false, false, text, sizeof(text));
  CHECK(std::string(text, length) ==
        "eth0: received 1000, dropped 1, delivered 3, filtered 4, other direction 5, corrupt 6, "
        "undelivered 981, blocks 7, freezes 2");
}

TEST_CASE("the summary of one of several ports tells of late packets") {
  Counters c;
  for (const std::uint64_t late : {0, 8}) {
    c.late = late;
    char text[400];
    const std::string_view summary(text, summarize(c, "eth0", true, false, text, sizeof(text)));
    CHECK(summary.ends_with(", freezes 0, late " + std::to_string(late)));
  }
}

TEST_CASE("the summary has figures of blocks once some were acquired") {
  Counters c;
  c.unwalked = 1;
  c.outstanding = 2;
  c.max_outstanding = 3;
  char text[400];
  const std::string_view summary(text, summarize(c, "eth0", false, false, text, sizeof(text)));
  CHECK(summary.ends_with(", freezes 0, unwalked 1, blocks outstanding 2, most outstanding 3"));
}

TEST_CASE("a summary too long for its room is cut, not overrun") {
  char text[16] = "";
  CHECK(summarize(Counters{}, "eth0", false, false, text, sizeof(text)) == 15);
  CHECK(std::string(text) == "eth0: received ");
}

}  // namespace pcapv3
