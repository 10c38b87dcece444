// SPDX-License-Identifier: BSD-3-Clause
// Fan-out: several handles share the packets of an interface, each packet going to one of them
// (PACKET_FANOUT, packet(7)). Which group a handle joins, how, and what to say when it can't.
//
// The kernel tells groups apart by a number of 16 bits, within the network namespace, and lets in
// whoever names the right number, mode and interface. What a member does with its packets is no
// different from any other handle.
#pragma once

#include <cstdint>

#include "setup/error.h"

struct sock_fprog;

namespace pcapv3 {

/// PCAPV3_FANOUT. `mode` is the kernel's PACKET_FANOUT_*.
struct FanoutSetting {
  char text[24] = "";  ///< As it was written, or the start of it; empty: not set.
  std::uint16_t group = 0;
  std::uint16_t mode = 0;

  bool is_set() const { return text[0] != '\0'; }
};

/// Reads "GROUP" or "GROUP:MODE". False, with a text, if `value` is neither.
bool parse_fanout(const char* value, FanoutSetting& setting, ErrorText& error);

/// A group as the kernel knows it.
struct FanoutGroup {
  std::uint16_t id = 0;
  /// The kernel refuses who asks for another number of members than the group was made with (from
  /// 5.11 on), which keeps out strangers and the members of other groups that get the same id.
  std::uint32_t max_members = 0;
};

/// The group that `group` stands for on interface `index` (0 or less: all) for user `user`. Members
/// of one group agree on it without asking each other, and each interface has its own, because the
/// kernel has a group on one interface. The ids are all above 32767: other programs use small ones.
FanoutGroup fanout_group(std::uint16_t group, int index, std::uint32_t user);

/// Has `socket` take its share from now on. It has its ring, is bound to interface `index`, called
/// `device`, and shut by a filter since before that: until it is in the group, it is offered
/// the other members' packets. Gets `filter` in place of that, if it is not empty. False, with a
/// text.
bool join_fanout(int socket, const FanoutSetting& setting, int index, bool loopback,
                 const char* device, const sock_fprog& filter, ErrorText& error);

/// A group of two sockets, for themselves, in which packets go to the first for as long as that has
/// room (PACKET_FANOUT_FLAG_ROLLOVER). Both have their rings and are bound alike; `first` was made
/// as a socket first.
struct PairGroup {
  std::uint32_t id_and_mode = 0;
  std::uint32_t max_members = 0;
};
/// Begins one, which `first` is in alone. False, with errno.
bool begin_pair(int first, bool loopback, PairGroup& group);
bool complete_pair(int second, const PairGroup& group);
/// Whether two sockets are in the same group.
bool are_in_one_group(int one, int other);
/// Has all their packets go to the one, or to the other for as long as it has room, as at first;
/// `socket` is either. Takes the kernel some milliseconds, but for the first time: then packets
/// under way can still go the other way. False, with errno.
bool choose_blocks(int socket);
bool choose_frames(int socket);

/// Keeps all packets out of `socket`; and gives one that was shut `filter`, or none if it is empty.
bool attach_drop_all(int socket);
bool open_filter(int socket, const sock_fprog& filter);

/// The filter of `socket`, into `filter`, whose room for instructions is told by its length. False,
/// with errno, if it can't be had.
bool get_filter(int socket, sock_fprog& filter);

/// Gives `to` what a ring's packets depend on, as `from` has it; and only what they are stamped by.
/// False, with errno.
bool copy_options(int from, int to);
bool copy_stamps(int from, int to);

}  // namespace pcapv3
