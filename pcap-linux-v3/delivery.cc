// SPDX-License-Identifier: BSD-3-Clause
#include "delivery.h"

#include <arpa/inet.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <pcap/sll.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace pcapv3 {
namespace {

constexpr std::uint32_t kTagBytes = 4;

constexpr std::uint32_t header_bytes(LinkHeader header) {
  switch (header) {
    case LinkHeader::kSll:
      return SLL_HDR_LEN;
    case LinkHeader::kSll2:
      return SLL2_HDR_LEN;
    case LinkHeader::kFrame:
      break;
  }
  return 0;
}

static_assert(kCookedHeadroom >= SLL2_HDR_LEN + kTagBytes);
static_assert(SLL_ADDRLEN == sizeof(sockaddr_ll::sll_addr));

/// Copies the header to `at`, which has no particular alignment.
template <typename Header>
void put(std::uint8_t* at, const Header& header) {
  std::memcpy(at, &header, sizeof(header));
}

/// Writes the address, with zeros behind it: the kernel writes no more of the field than the
/// address has bytes, and nobody may see what earlier packets left in the ring.
void put_address(std::uint8_t (&field)[SLL_ADDRLEN], const sockaddr_ll& from) {
  std::uint64_t bytes;
  std::memcpy(&bytes, from.sll_addr, sizeof(bytes));
  const unsigned unused = 8 * (SLL_ADDRLEN - std::min<unsigned>(from.sll_halen, SLL_ADDRLEN));
  // The shift is done in two steps, because a shift by all 64 bits is undefined.
  if constexpr (std::endian::native == std::endian::little) {
    bytes &= ~std::uint64_t{0} >> unused / 2 >> (unused - unused / 2);
  } else {
    bytes &= ~std::uint64_t{0} << unused / 2 << (unused - unused / 2);
  }
  std::memcpy(field, &bytes, sizeof(bytes));
}

void put_sll(std::uint8_t* at, const sockaddr_ll& from) {
  sll_header h{};
  h.sll_pkttype = htons(from.sll_pkttype);
  h.sll_hatype = htons(from.sll_hatype);
  h.sll_halen = htons(from.sll_halen);
  put_address(h.sll_addr, from);
  h.sll_protocol = from.sll_protocol;
  put(at, h);
}

void put_sll2(std::uint8_t* at, const sockaddr_ll& from) {
  sll2_header h{};
  h.sll2_protocol = from.sll_protocol;
  h.sll2_if_index = htonl(static_cast<std::uint32_t>(from.sll_ifindex));
  h.sll2_hatype = htons(from.sll_hatype);
  h.sll2_pkttype = from.sll_pkttype;
  h.sll2_halen = from.sll_halen;
  put_address(h.sll2_addr, from);
  put(at, h);
}

/// Returns whether the kernel took a VLAN tag off the frame. Every kernel that has this ring
/// reports it in the status (af_packet.c: prb_fill_vlan_info), even for a tag that is all zeros.
bool is_tagged(const tpacket3_hdr& h) { return (h.tp_status & TP_STATUS_VLAN_VALID) != 0; }

std::uint16_t tag_type(const tpacket3_hdr& h) {
  const bool known = h.hv1.tp_vlan_tpid != 0 || (h.tp_status & TP_STATUS_VLAN_TPID_VALID) != 0;
  return known ? h.hv1.tp_vlan_tpid : ETH_P_8021Q;
}

/// Puts the tag back where it was: what is before `offset` moves down to make room. Returns the
/// packet's new start.
std::uint8_t* put_tag(std::uint8_t* bytes, int offset, const tpacket3_hdr& h) {
  std::uint8_t* start = bytes - kTagBytes;
  std::memmove(start, bytes, static_cast<std::size_t>(offset));
  const std::uint16_t tag[2] = {htons(tag_type(h)),
                                htons(static_cast<std::uint16_t>(h.hv1.tp_vlan_tci))};
  std::memcpy(start + offset, tag, sizeof(tag));
  return start;
}

}  // namespace

template <typename Cursor, LinkHeader kHeader, bool kEitherWay, bool kFiltered>
int Delivery::loop(Cursor& cursor, int max, pcap_handler callback, u_char* user,
                   std::uintptr_t* place) {
  constexpr std::uint32_t kHeaderBytes = header_bytes(kHeader);
  const std::uint32_t snapshot = plan_.snapshot;
  const int vlan_offset = plan_.vlan_offset;
  const bool nanoseconds = plan_.nanoseconds;
  const unsigned plan_number = plan_number_;
  int delivered = 0;
  pcap_pkthdr header;
  if (place != nullptr) *place = reinterpret_cast<std::uintptr_t>(&header);

  typename Cursor::LocalCursor here(cursor);
  while (delivered < max && here.has_packet() && *break_flag_ == 0 && plan_number == plan_number_) {
    const PacketView packet = here.packet();
    const tpacket3_hdr& h = packet.header();
    std::uint8_t* bytes = packet.bytes();

    if constexpr (kHeader == LinkHeader::kSll) put_sll(bytes -= kHeaderBytes, packet.address());
    if constexpr (kHeader == LinkHeader::kSll2) put_sll2(bytes -= kHeaderBytes, packet.address());

    if constexpr (kFiltered) {
      const UserlandFilter& filter = filter_of(here);
      if (filter.applies_to(packet.stamp(), h.tp_snaplen != h.tp_len) &&
          filter.run(filter.owner, bytes, h.tp_len, h.tp_snaplen + kHeaderBytes,
                     is_tagged(h) ? 1 : 0,
                     static_cast<std::uint16_t>(h.hv1.tp_vlan_tci & 0x0fff)) == 0) {
        ++counters_of(here).filtered;
        here.next();
        here.commit();
        continue;
      }
    }
    if constexpr (!kEitherWay) {
      if (!right_way(packet.address())) {
        ++counters_of(here).other_way;
        here.next();
        here.commit();
        continue;
      }
    }

    header.ts.tv_sec = static_cast<time_t>(h.tp_sec);
    header.ts.tv_usec = static_cast<suseconds_t>(nanoseconds ? h.tp_nsec : h.tp_nsec / 1000);
    header.caplen = h.tp_snaplen + kHeaderBytes;
    header.len = h.tp_len + kHeaderBytes;
    if (is_tagged(h) && vlan_offset >= 0 &&
        h.tp_snaplen >= static_cast<std::uint32_t>(vlan_offset)) {
      bytes = put_tag(bytes, vlan_offset, h);
      header.caplen += kTagBytes;
      header.len += kTagBytes;
    }
    // If no filter truncates packets, the kernel stores them whole.
    if (header.caplen > snapshot) header.caplen = snapshot;

    // All of this happens before the callback, which may leave by longjmp(3). It also fetches the
    // next packet's header while the program works on this one.
    ++delivered;
    ++counters_of(here).delivered;
    here.next();
    here.commit();
    callback(user, &header, bytes);
    if (!here.is_there()) break;  // the program has itself read more
  }
  return delivered;
}

bool Delivery::right_way(const sockaddr_ll& address) const {
  if (address.sll_pkttype != PACKET_OUTGOING) return plan_.direction != PCAP_D_OUT;
  // lo and CAN interfaces hand every sent packet back as a received one: one of the two is enough.
  if (address.sll_ifindex == plan_.lo_ifindex) return false;
  if (address.sll_hatype == ARPHRD_CAN && plan_.direction != PCAP_D_OUT) return false;
  return plan_.direction != PCAP_D_IN;
}

template <typename Cursor, LinkHeader kHeader>
Delivery::Loop<Cursor> Delivery::loop_for(bool either_way, bool filtered) {
  if (either_way) {
    return filtered ? &Delivery::loop<Cursor, kHeader, true, true>
                    : &Delivery::loop<Cursor, kHeader, true, false>;
  }
  return filtered ? &Delivery::loop<Cursor, kHeader, false, true>
                  : &Delivery::loop<Cursor, kHeader, false, false>;
}

template <typename Cursor>
Delivery::Loop<Cursor> Delivery::loop_for(LinkHeader header, bool either_way, bool filtered) {
  switch (header) {
    case LinkHeader::kSll:
      return loop_for<Cursor, LinkHeader::kSll>(either_way, filtered);
    case LinkHeader::kSll2:
      return loop_for<Cursor, LinkHeader::kSll2>(either_way, filtered);
    case LinkHeader::kFrame:
      break;
  }
  return loop_for<Cursor, LinkHeader::kFrame>(either_way, filtered);
}

void Delivery::follow(const Plan& plan) {
  plan_ = plan;
  ++plan_number_;
  const bool either_way =
      plan.direction == PCAP_D_INOUT && plan.ifindex > 0 && plan.ifindex != plan.lo_ifindex;
  const bool filtered = plan.filter.run != nullptr;
  loop_ = loop_for<PacketCursor>(plan.link_header, either_way, filtered);
  telling_loop_ = loop_for<TellingCursor>(plan.link_header, either_way, filtered);
  merge_loop_ = loop_for<Merge>(plan.link_header, either_way, filtered);
}

}  // namespace pcapv3
