// SPDX-License-Identifier: BSD-3-Clause
// What a drain (break.h) delivers: all that a capture's rings hold when it begins, the packets in
// the blocks that the kernel is filling among them, and nothing that comes later.
//
// Nothing is waited for but two grace periods (grace_period.h). After the first, packets that were
// under way to a ring have been counted there; after the second, those that had been counted by
// then are final. Neither is the kernel told to keep packets out, nor do time stamps count: a
// program that reads on misses nothing.
#pragma once

#include "grace_period.h"
#include "ring_position.h"

namespace pcapv3 {

/// Has each of `count` positions, 64 at most, show what its ring holds and no more, until
/// RingPosition::clear_end(). With `whole`, the block that the kernel is filling counts to its end,
/// and comes when it is handed over; else it is read in place. Where no grace period is to be had,
/// it is left out.
void set_ends(GracePeriod& grace_period, RingPosition* const* positions, unsigned count,
              bool whole);

}  // namespace pcapv3
