// SPDX-License-Identifier: BSD-3-Clause
// Sets what a drain (break.h) delivers: everything that a capture's rings hold when it begins,
// including the packets in the blocks that the kernel is filling, and nothing that comes later.
//
// A drain waits for nothing but two grace periods (grace_period.h). After the first, packets that
// were under way to a ring have been counted there; after the second, those that had been counted
// by then are final. The kernel is not asked to keep packets out, and time stamps do not matter: a
// program that reads on misses nothing.
#pragma once

#include "grace_period.h"
#include "ring_position.h"

namespace pcapv3 {

/// Has each of `count` positions, 64 at most, show what its ring holds and no more, until
/// RingPosition::clear_end(). If no grace period is available, the block that the kernel is filling
/// is left out.
void set_ends(GracePeriod& grace_period, RingPosition* const* positions, unsigned count);

}  // namespace pcapv3
