// SPDX-License-Identifier: BSD-3-Clause
#include "drain.h"

namespace pcapv3 {

void set_ends(GracePeriod& grace_period, RingPosition* const* positions, unsigned count) {
  constexpr unsigned kMaxPositions = 64;
  // A mark is wrong only if it was made at the very moment when the block was opened.
  constexpr int kAttempts = 3;
  RingPosition::Mark marks[kMaxPositions];
  bool final = false;
  bool possible = grace_period.wait();
  for (unsigned i = 0; i < count; ++i) marks[i] = positions[i]->mark();
  for (int attempt = 0; possible && !final && attempt < kAttempts; ++attempt) {
    possible = grace_period.wait();
    final = possible;
    for (unsigned i = 0; i < count; ++i) {
      if (positions[i]->is_final(marks[i])) continue;
      marks[i] = positions[i]->mark();
      final = false;
    }
  }
  for (unsigned i = 0; i < count; ++i) {
    if (!final) marks[i].packets = 0;
    positions[i]->set_end(marks[i]);
  }
}

}  // namespace pcapv3
