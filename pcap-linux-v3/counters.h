// SPDX-License-Identifier: BSD-3-Clause
// What became of the packets of one handle, and the summary that says so.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pcapv3 {

struct Counters {
  // Counted by the kernel (PACKET_STATISTICS, packet(7)), after its filter.
  std::uint64_t received = 0;  ///< Packets for this socket, the dropped ones among them.
  std::uint64_t dropped = 0;   ///< Packets that found no room in the ring.
  std::uint64_t freezes = 0;   ///< Times the ring was full and taking in stopped.

  // Counted by the reader.
  std::uint64_t delivered = 0;  ///< Given to the program.
  std::uint64_t filtered = 0;   ///< Rejected by a filter that ran here, not in the kernel.
  std::uint64_t other_way = 0;  ///< Of the wrong direction, or lo's second copy.
  std::uint64_t corrupt = 0;    ///< Lost in blocks whose offsets or lengths made no sense.
  std::uint64_t late = 0;       ///< In a merge, came when a younger one had been passed on.
  std::uint64_t blocks = 0;     ///< Blocks read.

  // Of a port in immediate mode that has two rings.
  std::uint64_t frames = 0;    ///< Packets that came by the ring of frames.
  std::uint64_t switches = 0;  ///< Times that it changed over from one to the other.

  // Of blocks that the program acquired.
  std::uint64_t unwalked = 0;         ///< Packets in released blocks that it did not walk past.
  std::uint64_t outstanding = 0;      ///< Blocks that it has not released.
  std::uint64_t max_outstanding = 0;  ///< The most that it had at once.

  /// Packets that are accounted for.
  std::uint64_t seen() const {
    return dropped + delivered + filtered + other_way + corrupt + unwalked;
  }
  /// Packets that the kernel stored and nobody read: those still in the ring, or in blocks that are
  /// outstanding.
  std::uint64_t undelivered() const { return received > seen() ? received - seen() : 0; }
};

/// Writes the summary of `counters`, a line without its end, for `device`. Returns its length, at
/// most `room` - 1. Only packets that were `merged` can be late, and only a port with a ring of
/// frames (`two_rings`) has these: of others it is not told. The figures of acquired blocks are
/// written if there were any.
std::size_t summarize(const Counters& counters, const char* device, bool merged, bool two_rings,
                      char* text, std::size_t room);

}  // namespace pcapv3
