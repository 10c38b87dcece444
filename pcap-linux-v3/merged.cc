// SPDX-License-Identifier: BSD-3-Clause
#include "merged.h"

#include <algorithm>

#include "clock.h"

namespace pcapv3 {

bool Merged::add(unsigned ring, pcapv3_port& port, RingPosition& position) {
  if (!merge_.add(ring, position, port.counters(), port.plan().filter)) return false;
  rings_[ring] = {&port, &position};
  count_ = std::max(count_, ring + 1);
  return true;
}

void Merged::remove(unsigned ring) {
  merge_.remove(ring);
  rings_[ring] = Ring();
}

void Merged::look() {
  release_spent();
  merge_.look(realtime_ns());
}

void Merged::release_spent() {
  for (unsigned i = 0; i < count_; ++i) {
    for (; merge_.is_spent(i); merge_.gave_back(i)) {
      const Ring& ring = rings_[i];
      if (ring.position == &ring.port->position()) {
        ring.port->release_block();
      } else {
        ring.position->close();
      }
    }
  }
}

const char* Merged::drop_corrupt() {
  const auto [ring, ahead, cursor] = merge_.drop_corrupt();
  return rings_[ring].port->count_corrupt(cursor, rings_[ring].position->index(ahead));
}

bool Merged::is_closed() const {
  for (unsigned i = 0; i < count_; ++i) {
    if (!merge_.is_closed(i)) return false;
  }
  return true;
}

}  // namespace pcapv3
