// SPDX-License-Identifier: BSD-3-Clause
#include "dump_ahead.h"

#include <algorithm>

#include "dump_run.h"

__thread dump_run pcapv3_dump_run __attribute__((tls_model("initial-exec")));
__thread unsigned pcapv3_dump_row __attribute__((tls_model("initial-exec")));

namespace pcapv3 {

int DumpAhead::deliver(Delivery& delivery, const Plan& plan, RingPosition& position, int max,
                       pcap_handler callback, u_char* user) {
  constexpr int kMany = 64;
  PacketCursor& cursor = position.cursor();
  const std::uint32_t left = cursor.left();
  const unsigned row = pcapv3_dump_row;
  // If some packets can be rejected, the last one at hand may not be delivered. (On "any", one copy
  // of each of lo's packets is rejected, but the other follows it.)
  const bool may_reject = plan.filter.run != nullptr || plan.direction != PCAP_D_INOUT;
  int delivered = 0;
  if (dumps_all_ && !may_reject) {
    const std::uint32_t followed = left - (position.has(1) ? 0 : 1);
    const Ring& ring = position.ring();
    const auto* const block = reinterpret_cast<const u_char*>(ring.block(position.index()));
    pcapv3_dump_run = {0, block, block + ring.geometry().block_bytes};
    delivered = delivery.run(cursor, std::min<int>(max - 1, static_cast<int>(followed)), callback,
                             user, &pcapv3_dump_run.header);
    pcapv3_dump_run.header = 0;
  }
  delivered += delivery.run(cursor, max - delivered, callback, user);
  const auto count = static_cast<unsigned>(delivered);
  dumps_all_ =
      delivered >= kMany && pcapv3_dump_row - row == count && left - cursor.left() == count;
  return delivered;
}

}  // namespace pcapv3
