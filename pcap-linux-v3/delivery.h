// SPDX-License-Identifier: BSD-3-Clause
// Takes each packet from its block to the program's callback: link-layer header, filter, direction,
// VLAN tag, time stamp, snapshot length. Everything is done in place; nothing is copied.
//
// What a handle wants done is a Plan, made when the handle is activated or changed. Each shape of
// plan has a loop of its own, compiled without the steps that the shape does not need, so that no
// packet pays for another handle's requests. The order of the steps, and what they do to lengths,
// is that of stock libpcap (pcap-linux.c: pcap_handle_packet_mmap): programs must not be able to
// tell the difference.
#pragma once

#include <pcap/pcap.h>

#include <csignal>
#include <cstdint>

#include "block.h"
#include "counters.h"
#include "filter.h"
#include "merge.h"

namespace pcapv3 {

/// The header in front of a packet's bytes as the program gets it.
enum class LinkHeader {
  kFrame,  ///< The frame's own, as the kernel stored it.
  kSll,    ///< LINUX_SLL, made here: 16 bytes, pcap-linktype(7).
  kSll2,   ///< LINUX_SLL2, made here: 20 bytes.
};

/// The room in front of a packet's bytes that any Plan can need: an SLL2 header and a VLAN tag.
inline constexpr std::uint32_t kFrameHeadroom = 4;
inline constexpr std::uint32_t kCookedHeadroom = 20 + 4;

struct Plan {
  LinkHeader link_header = LinkHeader::kFrame;
  int vlan_offset = -1;        ///< Offset at which a VLAN tag is put back; -1: leave it out.
  std::uint32_t snapshot = 0;  ///< The maximum number of a packet's bytes that the program wants.
  bool nanoseconds = false;    ///< Time stamps in nanoseconds, not microseconds.
  pcap_direction_t direction = PCAP_D_INOUT;
  int ifindex = 0;        ///< The index of the interface captured on; 0 or less: all of them.
  int lo_ifindex = 0;     ///< lo's index; its packets pass twice, as sent and received.
  UserlandFilter filter;  ///< The userland filter. In a merge, each port's own runs.
};

class Delivery {
 public:
  /// `break_flag` is checked before each packet: when it is not 0, delivery stops
  /// (pcap_breakloop()).
  Delivery(const volatile std::sig_atomic_t* break_flag, Counters& counters)
      : break_flag_(break_flag), counters_(&counters) {}

  /// Counts packets in `counters` from now on, except those of a merge.
  void count_in(Counters& counters) { counters_ = &counters; }

  /// Follows `plan` from the next packet on, even when called from within the callback.
  void follow(const Plan& plan);

  /// Delivers packets from `cursor` on until `max` have been delivered, the cursor is at its end or
  /// corrupt, the break flag is set, or the plan has changed. Returns how many were delivered.
  int run(PacketCursor& cursor, int max, pcap_handler callback, u_char* user) {
    return run(cursor, max, callback, user, nullptr);
  }
  /// Unless `header` is null, first writes to it the address of the header that the callback gets.
  int run(PacketCursor& cursor, int max, pcap_handler callback, u_char* user,
          std::uintptr_t* header) {
    return (this->*loop_)(cursor, max, callback, user, header);
  }
  int run(TellingCursor& cursor, int max, pcap_handler callback, u_char* user) {
    return (this->*telling_loop_)(cursor, max, callback, user, nullptr);
  }
  /// Does the same for packets of several ports, which are counted in each port's own counters.
  int run(Merge& merge, int max, pcap_handler callback, u_char* user) {
    return (this->*merge_loop_)(merge, max, callback, user, nullptr);
  }

 private:
  template <typename Cursor>
  using Loop = int (Delivery::*)(Cursor&, int, pcap_handler, u_char*, std::uintptr_t*);

  template <typename Cursor, LinkHeader kHeader, bool kEitherWay, bool kFiltered>
  int loop(Cursor& cursor, int max, pcap_handler callback, u_char* user, std::uintptr_t* place);
  template <typename Cursor, LinkHeader kHeader>
  static Loop<Cursor> loop_for(bool either_way, bool filtered);
  template <typename Cursor>
  static Loop<Cursor> loop_for(LinkHeader header, bool either_way, bool filtered);
  Counters& counters_of(const PacketCursor&) const { return *counters_; }
  static Counters& counters_of(const Merge::LocalCursor& merge) { return merge.counters(); }
  const UserlandFilter& filter_of(const PacketCursor&) const { return plan_.filter; }
  static const UserlandFilter& filter_of(const Merge::LocalCursor& merge) { return merge.filter(); }
  bool right_way(const sockaddr_ll& address) const;

  const volatile std::sig_atomic_t* const break_flag_;
  Counters* counters_;
  Plan plan_;
  Loop<PacketCursor> loop_ = nullptr;
  Loop<TellingCursor> telling_loop_ = nullptr;
  Loop<Merge> merge_loop_ = nullptr;
  unsigned plan_number_ = 0;  // counts the plans followed so far
};

}  // namespace pcapv3
