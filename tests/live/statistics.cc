// SPDX-License-Identifier: BSD-3-Clause
// pcap_stats.
#include "capture.h"

namespace pcapv3::live {
namespace {

void stats() {
  const Handle handle = open_capture();
  const Sender sender = remote();
  CHECK(stats_of(handle.get()).ps_recv == 0, "packets on an idle link");
  for (unsigned round = 1; round <= 3; ++round) {
    sender.send(0, 50);
    take_until(handle.get(), 49);
    const pcap_stat stats = stats_of(handle.get());
    CHECK(stats.ps_recv == 50 * round, "%u, not %u", stats.ps_recv, 50 * round);
    CHECK(stats.ps_drop == 0, "%u dropped", stats.ps_drop);
  }
  set_filter(handle.get(), kOdd);
  sender.send(0, 50);
  take_until(handle.get(), 49);
  const pcap_stat stats = stats_of(handle.get());
  CHECK(stats.ps_recv == 175, "%u: what a filter rejects must not count", stats.ps_recv);
}

void stats_after_overrun() {
  const Handle handle = open_capture({.buffer_bytes = 1 << 19});
  pcap_t* p = handle.get();
  set_nonblock(p);
  const std::uint32_t sent = overrun(p, remote(), 0);
  std::uint32_t delivered = 0;
  std::int64_t last = -1;
  // The frames in the ring, and then those that were dropped, make up what was sent.
  while (delivered + stats_of(p).ps_drop < sent) {
    readable(pcap_get_selectable_fd(p), 100);
    Packets packets;
    const int taken = pcap_dispatch(p, 64, keep, user(packets));
    CHECK(taken >= 0, "status %d, %s", taken, pcap_geterr(p));
    for (const Packet& packet : packets) {
      const std::uint32_t number = number_of(packet.bytes);
      CHECK(number > last, "frame %u after %lld", number, static_cast<long long>(last));
      check_frame(packet, {.number = number, .size = 1400});
      last = number;
    }
    delivered += static_cast<std::uint32_t>(packets.size());
  }
  const pcap_stat stats = stats_of(p);
  CHECK(stats.ps_recv == sent, "%u received of %u", stats.ps_recv, sent);
  CHECK(stats.ps_drop > 0 && delivered + stats.ps_drop == sent, "%u delivered, %u dropped, %u sent",
        delivered, stats.ps_drop, sent);
}

const Test kTests[] = {
    {"pcap_stats", stats},
    {"pcap_stats after an overrun", stats_after_overrun},
};
const Registration kRegistration({.name = "statistics",
                                  .tests = kTests,
                                  .modes = "ours off distribution"});

}  // namespace
}  // namespace pcapv3::live
