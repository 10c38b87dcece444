// SPDX-License-Identifier: BSD-3-Clause
#include "counters.h"

#include <algorithm>
#include <cstdio>

namespace pcapv3 {

std::size_t summarize(const Counters& c, const char* device, bool merged, bool two_rings,
                      char* text, std::size_t room) {
  using Number = unsigned long long;
  char late[32] = "";
  if (merged) std::snprintf(late, sizeof(late), ", late %llu", Number{c.late});
  char frames[64] = "";
  if (two_rings) {
    std::snprintf(frames, sizeof(frames), ", frames %llu, switches %llu", Number{c.frames},
                  Number{c.switches});
  }
  char blocks[128] = "";
  if (c.max_outstanding != 0) {
    std::snprintf(blocks, sizeof(blocks),
                  ", unwalked %llu, blocks outstanding %llu, most outstanding %llu",
                  Number{c.unwalked}, Number{c.outstanding}, Number{c.max_outstanding});
  }
  const int length = std::snprintf(
      text, room,
      "%s: received %llu, dropped %llu, delivered %llu, filtered %llu, other direction %llu, "
      "corrupt %llu, undelivered %llu, blocks %llu, freezes %llu%s%s%s",
      device, Number{c.received}, Number{c.dropped}, Number{c.delivered}, Number{c.filtered},
      Number{c.other_way}, Number{c.corrupt}, Number{c.undelivered()}, Number{c.blocks},
      Number{c.freezes}, late, frames, blocks);
  return std::min(static_cast<std::size_t>(std::max(length, 0)), room - 1);
}

}  // namespace pcapv3
