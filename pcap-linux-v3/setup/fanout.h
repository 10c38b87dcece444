// SPDX-License-Identifier: BSD-3-Clause
// Fan-out: several handles share the packets of an interface, and each packet goes to one of them
// (PACKET_FANOUT, packet(7)). This file decides which group a handle joins, joins it, and explains
// a failure to join.
//
// The kernel identifies a group by a 16-bit number within the network namespace, and admits any
// socket that names the right number, mode and interface. A member handles its packets like any
// other handle.
#pragma once

#include <cstdint>

#include "setup/error.h"

struct sock_fprog;

namespace pcapv3 {

/// PCAPV3_FANOUT. `mode` is the kernel's PACKET_FANOUT_*.
struct FanoutSetting {
  char text[24] = "";  ///< The value as written, or the start of it; empty: not set.
  std::uint16_t group = 0;
  std::uint16_t mode = 0;

  bool is_set() const { return text[0] != '\0'; }
};

/// Reads "GROUP" or "GROUP:MODE". Returns false, with a text, if `value` is neither.
bool parse_fanout(const char* value, FanoutSetting& setting, ErrorText& error);

/// A group as the kernel knows it.
struct FanoutGroup {
  std::uint16_t id = 0;
  /// From 5.11 on, the kernel refuses a socket that asks for another limit than the group was made
  /// with. This keeps out strangers, and members of other groups that get the same id.
  std::uint32_t max_members = 0;
};

/// Returns the group that `group` stands for on interface `index` (0 or less: all) for user `user`.
/// Members of one group arrive at it without asking each other. Each interface has its own, because
/// a kernel's group is on one interface. All ids are above 32767: other programs use small ones.
FanoutGroup fanout_group(std::uint16_t group, int index, std::uint32_t user);

/// Makes `socket` a member, which takes its share from now on, and replaces its drop-all filter by
/// `filter`, or by none if that is empty. Requires that `socket` has its ring, is bound to
/// interface `index`, called `device`, and has had the drop-all filter since before it was bound:
/// until it is in the group, it is offered the other members' packets. Returns false, with a text,
/// on failure.
bool join_fanout(int socket, const FanoutSetting& setting, int index, bool loopback,
                 const char* device, const sock_fprog& filter, ErrorText& error);

/// A private group of two sockets, in which packets go to the first as long as it has room
/// (PACKET_FANOUT_FLAG_ROLLOVER). Both must have their rings and be bound alike, and the socket
/// `first` must have been created before the other.
struct PairGroup {
  std::uint32_t id_and_mode = 0;
  std::uint32_t max_members = 0;
};
/// Creates the group, with `first` as its only member. Returns false, with errno, on failure.
bool begin_pair(int first, bool loopback, PairGroup& group);
/// Adds the other socket. Returns false, with errno, on failure.
bool complete_pair(int second, const PairGroup& group);
/// Returns whether two sockets are in the same group.
bool are_in_one_group(int one, int other);
/// choose_blocks() makes all packets of the pair go to the ring of blocks; choose_frames() makes
/// them go to the ring of slots as long as it has room, as at first. `socket` is either of the two.
/// The call takes the kernel some milliseconds, except the first time, when packets under way can
/// still go the other way. Both return false, with errno, on failure.
bool choose_blocks(int socket);
bool choose_frames(int socket);

/// Attaches the drop-all filter, which keeps all packets out of `socket`.
bool attach_drop_all(int socket);
/// Replaces the filter, if there is one, by `filter`, or by none if that is empty.
bool open_filter(int socket, const sock_fprog& filter);

/// Copies the filter of `socket` into `filter`, whose length must be its room for instructions.
/// Returns false, with errno, if the filter is unavailable.
bool get_filter(int socket, sock_fprog& filter);

/// Copies the socket options that a ring's packets depend on. Returns false, with errno, on
/// failure.
bool copy_options(int from, int to);
/// Copies only the option that chooses their time stamps.
bool copy_stamps(int from, int to);

}  // namespace pcapv3
