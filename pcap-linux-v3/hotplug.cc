// SPDX-License-Identifier: BSD-3-Clause
#include "hotplug.h"

#include "clock.h"

namespace pcapv3 {

void Hotplug::watch() {
  WaitSet::Link links[PortSet::kMaxPorts];
  for (unsigned i = 0; i < ports_.count; ++i) {
    links[i] = {ports_.ports[i]->device(), ports_.ports[i]->plan().ifindex};
  }
  wait_.watch(links, ports_.count);
}

bool Hotplug::is_over() const { return monotonic_ns() >= over_ns(); }

bool Hotplug::check(const WaitSet::Events& events, const Reading& reading) {
  const bool links = events.links || is_blind();
  bool other_ring = false;
  for (unsigned i = 0; i < ports_.count; ++i) {
    const std::uint64_t bit = PortSet::bit(i);
    const bool troubled = (events.troubled & bit) != 0;
    if (troubled && !wait_.has_links()) down_ |= bit;
    if ((unwatched_ & bit) != 0 && wait_.add(i, ports_.sockets[i])) unwatched_ &= ~bit;
    if (!links && !troubled && (unread_ & bit) == 0) continue;
    if ((gone_ & bit) == 0) {
      if (host_.is_gone(handle_, i) != 0) {
        debug_.line("%s: the interface is gone", ports_.ports[i]->device());
        gone_ |= bit;
        gone_ns_ = monotonic_ns();
      } else if (troubled) {
        debug_.line("%s: the interface went down", ports_.ports[i]->device());
      }
    }
    // No port is bound again during a drain, which shows less than its ring holds: another ring
    // would take the rest's place.
    if ((gone_ & bit) != 0 && !reading.draining && bind_again(i, reading, other_ring)) {
      debug_.line("%s: the interface is back", ports_.ports[i]->device());
      gone_ &= ~bit;
      down_ &= ~bit;
      watch();
    }
  }
  return other_ring;
}

/// Returns whether nothing is left in the ring of a port that is gone.
bool Hotplug::is_read(unsigned index, const Reading& reading) {
  if (reading.acquires) {  // the merge has no block open, and is to open none
    RingPosition& position = ports_.ports[index]->position();
    return !position.open() && (is_over() || !position.kernel_has_packets());
  }
  Merge& merge = merged_->merge();
  if (!merge.done()) return false;
  merge.look(realtime_ns());
  return merge.is_empty(index) || (is_over() && merge.is_closed(index));
}

bool Hotplug::bind_again(unsigned index, const Reading& reading, bool& other_ring) {
  pcapv3_port& port = *ports_.ports[index];
  if (!port.fans_out()) return host_.bind_again(handle_, index) == 0;
  const std::uint64_t bit = PortSet::bit(index);
  unread_ |= bit;
  if (!is_read(index, reading)) return false;
  unread_ &= ~bit;
  wait_.remove(ports_.sockets[index]);
  const bool is_back = host_.bind_again(handle_, index) == 0;
  if (is_back) {
    merged_->remove(index);
    (void)merged_->add(index, port, port.position());
    other_ring = true;
  }
  if (!wait_.add(index, ports_.sockets[index])) unwatched_ |= bit;
  return is_back;
}

bool Hotplug::may_have_packets() const {
  if (!is_all_gone()) return true;
  const Merge& merge = merged_->merge();
  for (unsigned i = 0; i < ports_.count; ++i) {
    if (!merge.is_empty(i) && !(is_over() && merge.is_closed(i))) return true;
  }
  return false;
}

bool Hotplug::may_have_blocks() const {
  if (!is_all_gone()) return true;
  if (is_over()) return false;
  for (unsigned i = 0; i < ports_.count; ++i) {
    if (ports_.ports[i]->position().kernel_has_packets()) return true;
  }
  return false;
}

}  // namespace pcapv3
