// SPDX-License-Identifier: BSD-3-Clause
#include "growth/growth.h"

#include <errno.h>

#include <algorithm>
#include <cstring>

#include "clock.h"
#include "confinement.h"
#include "growth/copies.h"
#include "growth/ring_budget.h"
#include "port.h"

namespace pcapv3 {
namespace {

constexpr std::uint64_t kAgainNs = 10'000'000'000;
/// How long a growth may take that waits for packets.
constexpr std::uint64_t kLongestNs = 2'000'000'000;

}  // namespace

Growth::~Growth() { release_ring(reserved_ + reserving_); }

bool Growth::open(const RingRequest& request, bool flow_hash, bool cooked) {
  request_ = request;
  flow_hash_ = flow_hash;
  max_bytes_ = max_ring_bytes(request);
  if (!resize_.open(cooked ? SharedSockets::Type::kCooked : SharedSockets::Type::kRaw)) {
    return false;
  }
  every_ = kEvery;
  return true;
}

bool Growth::look(pcapv3_port& port, const GracePeriod& grace_period, bool may_unmap) {
  Counters& counters = port.counters();
  looked_ = counters.blocks;
  if (resize_.is_others()) return stop_looking();
  if (resize_.is_taken_over()) {
    // (While a block of its ring is outstanding, the old socket could not be the spare one.)
    if (may_unmap && !port.position().has_old() && !port.blocks().holds_old()) finish(port);
    return false;
  }
  const bool stopped = stopped_.load(std::memory_order_relaxed);
  const std::uint64_t now_ns = monotonic_ns();
  if (resize_.is_under_way()) {
    if (!resize_.is_made() || !is_process_unconfined()) return false;
    if (resize_.error() != 0 || stopped) {
      give_up(port, stopped ? "the program has its socket" : std::strerror(resize_.error()));
      return false;
    }
    if (is_stamped(port)) return true;
    // Another handle may be waiting for the spare socket.
    if (now_ns - began_ns_ > kLongestNs) give_up(port, "packets come without the kernel's stamps");
    return false;
  }
  if (stopped) return stop_looking();
  RingDemand::Load load;
  load.ring_bytes = port.ring().geometry().ring_bytes();
  if (load.ring_bytes >= max_bytes_ || !grace_period.is_open()) return stop_looking();
  const RingPosition& position = port.position();
  if (position.has(0) && (status_of(position.header(0)) & TP_STATUS_LOSING) != 0) {
    port.host().count(port.handle());  // the kernel sets this until it is asked for its counts
  }
  load.losing = counters.dropped != dropped_;
  dropped_ = counters.dropped;
  load.read_bytes = port.bytes_read();
  load.backlog_bytes = port.backlog_bytes();
  const std::uint64_t wanted = demand_.wanted(now_ns, load);
  if (wanted > load.ring_bytes && now_ns >= again_ns_) begin(port, std::min(wanted, max_bytes_));
  return false;
}

bool Growth::stop_looking() {
  every_ = kNever;
  return false;
}

void Growth::begin(pcapv3_port& port, std::uint64_t bytes) {
  Geometry wanted;
  ErrorText error;
  RingRequest request = request_;
  request.tool_bytes = bytes;
  request.starts_small = false;
  const Geometry& now = port.ring().geometry();
  if (!is_process_unconfined()) {
    stop_looking();
    port.debug().line("%s: the ring does not grow: the process has confined itself", port.device());
  } else if (!choose_geometry(request, wanted, error) || wanted.ring_bytes() <= now.ring_bytes() ||
             !reserve_ring(wanted.ring_bytes())) {
    give_up(port, "no memory can be spared");
  } else if (!resize_.begin(port.socket(), wanted, flow_hash_)) {
    release_ring(wanted.ring_bytes());  // another handle has the spare socket
  } else {
    reserving_ = wanted.ring_bytes();
    began_ns_ = monotonic_ns();
    port.debug().line("%s: a ring of %llu KiB is to grow to %llu KiB", port.device(),
                      static_cast<unsigned long long>(now.ring_bytes() / 1024),
                      static_cast<unsigned long long>(wanted.ring_bytes() / 1024));
  }
}

/// Called when the ring can't grow now; it is tried again later.
void Growth::give_up(pcapv3_port& port, const char* reason) {
  port.debug().line("%s: the ring stays as it is: %s", port.device(), reason);
  again_ns_ = monotonic_ns() + kAgainNs;
  if (resize_.is_under_way()) resize_.give_up();
  release_ring(reserving_);
  reserving_ = 0;
}

/// Returns whether the kernel stamps packets once for all sockets by now; see resize.h.
bool Growth::is_stamped(const pcapv3_port& port) {
  const RingPosition& position = port.position();
  if (!position.has(0)) return false;
  const PacketCursor first = position.packets(0);
  return first.has_packet() && is_stamped_for_all(first.packet());
}

bool Growth::take_over(pcapv3_port& port, int socket, GracePeriod& grace_period) {
  const std::uint64_t before = port.ring().geometry().ring_bytes();
  const std::uint64_t started_ns = monotonic_ns();
  port.host().count(port.handle());
  Resize::Counts counts;
  if (!resize_.take_over(socket, port.position(), port.headroom(), port.is_promiscuous(),
                         grace_period, counts)) {
    give_up(port, std::strerror(errno));
    return false;
  }
  ++count_;
  port.ring_replaced(counts.packets, counts.drops);
  port.debug().line("%s: the ring has grown from %llu to %llu KiB, in %.1f ms", port.device(),
                    static_cast<unsigned long long>(before / 1024),
                    static_cast<unsigned long long>(port.ring().geometry().ring_bytes() / 1024),
                    static_cast<double>(monotonic_ns() - started_ns) / 1e6);
  return true;
}

/// Called when nothing of the old ring is used any more.
void Growth::finish(pcapv3_port& port) {
  if (!is_process_unconfined()) return;
  port.leave_old_ring();
  resize_.finish();
  release_ring(reserved_);
  reserved_ = reserving_;
  reserving_ = 0;
}

}  // namespace pcapv3
