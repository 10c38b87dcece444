// SPDX-License-Identifier: BSD-3-Clause
// The statistics of one handle: what became of its packets, and the summary that reports it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pcapv3 {

struct Counters {
  // Counted by the kernel (PACKET_STATISTICS, packet(7)), after its filter.
  std::uint64_t received = 0;  ///< Packets for this socket, the dropped ones among them.
  std::uint64_t dropped = 0;   ///< Packets that found no room in the ring.
  std::uint64_t freezes = 0;   ///< Times the ring was full and the kernel stopped filling it.

  // Counted by the reader.
  std::uint64_t delivered = 0;  ///< Passed to the program.
  std::uint64_t filtered = 0;   ///< Rejected by a filter that ran here, not in the kernel.
  std::uint64_t other_way = 0;  ///< Going in the wrong direction, or lo's second copy.
  std::uint64_t corrupt = 0;    ///< Lost in blocks whose offsets or lengths made no sense.
  std::uint64_t late = 0;       ///< In a merge: came when a newer one had been delivered.
  std::uint64_t blocks = 0;     ///< Blocks read.

  // For a port in immediate mode that has two rings.
  std::uint64_t frames = 0;    ///< Packets that came by the ring of V2 slots.
  std::uint64_t switches = 0;  ///< Times that it changed over from one ring to the other.

  // For blocks that the program acquired.
  std::uint64_t unwalked = 0;         ///< Packets in released blocks that it did not walk past.
  std::uint64_t outstanding = 0;      ///< Blocks that it has not yet released.
  std::uint64_t max_outstanding = 0;  ///< The maximum that it held at once.

  /// Returns the number of packets that are accounted for.
  std::uint64_t seen() const {
    return dropped + delivered + filtered + other_way + corrupt + unwalked;
  }
  /// Returns the number of packets that the kernel stored and nobody read: those still in the ring,
  /// or in outstanding blocks.
  std::uint64_t undelivered() const { return received > seen() ? received - seen() : 0; }
};

/// Writes the summary of `counters` for `device`, one line without its line end. Returns its
/// length, at most `room` - 1. Late packets are reported only if packets were `merged`, frames only
/// for a port with a ring of V2 slots (`two_rings`), and the figures of acquired blocks if there
/// were any.
std::size_t summarize(const Counters& counters, const char* device, bool merged, bool two_rings,
                      char* text, std::size_t room);

}  // namespace pcapv3
