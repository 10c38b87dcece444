// SPDX-License-Identifier: BSD-3-Clause
#include "setup/fanout.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "setup/host.h"

#ifndef PACKET_FANOUT_FLAG_IGNORE_OUTGOING
#define PACKET_FANOUT_FLAG_IGNORE_OUTGOING 0x4000  // kernel headers up to 6.1 lack it
#endif

namespace pcapv3 {
namespace {

constexpr struct {
  const char* name;
  std::uint16_t mode;
} kModes[] = {
    {"hash", PACKET_FANOUT_HASH},         {"lb", PACKET_FANOUT_LB},      {"cpu", PACKET_FANOUT_CPU},
    {"rollover", PACKET_FANOUT_ROLLOVER}, {"random", PACKET_FANOUT_RND}, {"qm", PACKET_FANOUT_QM},
};

/// This is struct fanout_args of linux/if_packet.h, which kernel headers before 5.11 lack. Older
/// kernels take its first half.
struct Arguments {
  std::uint32_t id_and_mode;
  std::uint32_t max_members;
};

/// Our limits on the number of members start at 257, because a program that asks for none gets 256.
/// The kernel keeps 8 bytes for each member.
constexpr std::uint32_t kLeastMembers = 257;
constexpr std::uint32_t kMembersSpan = 3840;

std::uint32_t mix(std::uint32_t bits) {  // MurmurHash3's last step: every bit affects every other
  bits = (bits ^ bits >> 16) * 0x85ebca6b;
  bits = (bits ^ bits >> 13) * 0xc2b2ae35;
  return bits ^ bits >> 16;
}

/// The numbers of a pair's members. The kernel numbers members as they join, and again, in the
/// order in which their sockets were made, when the interface comes up after being down
/// (af_packet.c: packet_notifier). Both give this order.
constexpr std::uint32_t kFramesMember = 0;  // gets all packets while there is no program
constexpr std::uint32_t kBlocksMember = 1;

/// Makes the packets of a group go to its member number `member`.
bool choose(int socket, std::uint32_t member) {
  sock_filter always = {BPF_RET | BPF_K, 0, 0, member};
  const sock_fprog program = {1, &always};
  return setsockopt(socket, SOL_PACKET, PACKET_FANOUT_DATA, &program, sizeof(program)) == 0;
}

bool copy_option(int from, int to, int option) {
  int value = 0;
  socklen_t length = sizeof(value);
  return getsockopt(from, SOL_PACKET, option, &value, &length) == 0 &&
         setsockopt(to, SOL_PACKET, option, &value, length) == 0;
}

int join(int socket, std::uint16_t id, std::uint32_t mode, std::uint32_t max_members) {
  const Arguments arguments = {mode << 16 | id, max_members};
  const socklen_t length =
      kernel_is_at_least(5, 11) ? sizeof(arguments) : sizeof(arguments.id_and_mode);
  return setsockopt(socket, SOL_PACKET, PACKET_FANOUT, &arguments, length);
}

}  // namespace

bool parse_fanout(const char* value, FanoutSetting& setting, ErrorText& error) {
  char* end = nullptr;
  const unsigned long group = std::strtoul(value, &end, 10);
  bool ok = *value >= '0' && *value <= '9' && group <= UINT16_MAX;
  if (ok && *end == ':') {
    ok = false;
    for (const auto& [name, mode] : kModes) {
      if (std::strcmp(end + 1, name) != 0) continue;
      setting.mode = mode;
      ok = true;
    }
  } else {
    setting.mode = PACKET_FANOUT_HASH;
    ok = ok && *end == '\0';
  }
  if (!ok) {
    return error.set(
        "PCAPV3_FANOUT=%s: a group is wanted, from 0 to 65535, and a mode after a colon or none, "
        "such as 7 or 7:hash; modes are hash, lb, cpu, rollover, random and qm",
        value);
  }
  setting.group = static_cast<std::uint16_t>(group);
  std::snprintf(setting.text, sizeof(setting.text), "%s", value);
  return true;
}

FanoutGroup fanout_group(std::uint16_t group, int index, std::uint32_t user) {
  // Two groups of one user on one interface never get the same id, up to group 32767.
  const std::uint32_t interface = index > 0 ? static_cast<std::uint32_t>(index) : 0;
  const std::uint32_t place = mix(mix(interface) ^ user ^ (group & 0x8000u));
  FanoutGroup result;
  result.id = static_cast<std::uint16_t>(0x8000u | ((place ^ group) & 0x7fffu));
  result.max_members = kLeastMembers + mix(place ^ (std::uint32_t{group} << 16)) % kMembersSpan;
  return result;
}

bool join_fanout(int socket, const FanoutSetting& setting, int index, bool loopback,
                 const char* device, const sock_fprog& filter, ErrorText& error) {
  // Not geteuid(2): a program may have given up its privileges between two handles.
  const FanoutGroup group =
      fanout_group(setting.group, index, static_cast<std::uint32_t>(getauxval(AT_EUID)));
  std::uint32_t mode = setting.mode;
  if (mode == PACKET_FANOUT_HASH) mode |= PACKET_FANOUT_FLAG_DEFRAG;
  // The socket's own PACKET_IGNORE_OUTGOING has no effect in a group. Kernels that do not know the
  // flag accept it and ignore it; the reader then drops those copies.
  if (loopback) mode |= PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
  if (join(socket, group.id, mode, group.max_members) == 0) {
    // This must follow at once: until then nobody gets the member's share.
    if (open_filter(socket, filter)) return true;
    return error.set("can't change the filter: %s", std::strerror(errno));
  }
  const int reason = errno;
  if (reason == EINVAL) {
    // The kernel returns this for another mode, flags or interface alike (af_packet.c: fanout_add).
    return error.set(
        "PCAPV3_FANOUT=%s: group %u on %s has members of another mode; use theirs, or another "
        "group. (Or the kernel does not know the mode, or another program's group has the same "
        "number in the kernel, %u.)",
        setting.text, setting.group, device, group.id);
  }
  if (reason == ENOSPC) {
    return error.set("PCAPV3_FANOUT=%s: group %u on %s is full; use another", setting.text,
                     setting.group, device);
  }
  return error.set("PCAPV3_FANOUT=%s: can't join group %u on %s: %s", setting.text, setting.group,
                   device, std::strerror(reason));
}

bool begin_pair(int first, bool loopback, PairGroup& group) {
  std::uint32_t mode = PACKET_FANOUT_CBPF | PACKET_FANOUT_FLAG_ROLLOVER;
  if (loopback) mode |= PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
  // The group needs an id that nobody uses. PACKET_FANOUT_FLAG_UNIQUEID would find one, but a small
  // one, which other programs use without checking.
  static std::atomic<std::uint32_t> pairs{0};
  const auto place = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(&group) >> 4);
  for (int attempts = 0; attempts < 16; ++attempts) {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    const std::uint32_t number =
        mix(mix(place ^ static_cast<std::uint32_t>(now.tv_nsec)) + pairs++);
    group = {mode << 16 | 0x8000u | (number & 0x7fffu),
             kLeastMembers + (number >> 16) % kMembersSpan};
    if (complete_pair(first, group)) return true;
    if (errno != EINVAL) return false;  // EINVAL: the group exists
  }
  return false;
}

bool complete_pair(int second, const PairGroup& group) {
  return join(second, static_cast<std::uint16_t>(group.id_and_mode), group.id_and_mode >> 16,
              group.max_members) == 0;
}

bool are_in_one_group(int one, int other) {
  std::uint32_t groups[2] = {};
  const int sockets[2] = {one, other};
  for (int i = 0; i < 2; ++i) {
    socklen_t length = sizeof(groups[i]);
    if (getsockopt(sockets[i], SOL_PACKET, PACKET_FANOUT, &groups[i], &length) != 0) return false;
  }
  return groups[0] != 0 && groups[0] == groups[1];
}

bool choose_blocks(int socket) { return choose(socket, kBlocksMember); }

bool choose_frames(int socket) { return choose(socket, kFramesMember); }

bool attach_drop_all(int socket) {
  sock_filter reject = {BPF_RET | BPF_K, 0, 0, 0};
  const sock_fprog program = {1, &reject};
  return setsockopt(socket, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) == 0;
}

bool open_filter(int socket, const sock_fprog& filter) {
  if (filter.len != 0) {
    return setsockopt(socket, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) == 0;
  }
  const int unused = 0;
  return setsockopt(socket, SOL_SOCKET, SO_DETACH_FILTER, &unused, sizeof(unused)) == 0 ||
         errno == ENOENT;
}

bool get_filter(int socket, sock_fprog& filter) {
  socklen_t count = filter.len;  // in instructions, not bytes (net/core/filter.c: sk_get_filter)
  if (getsockopt(socket, SOL_SOCKET, SO_GET_FILTER, filter.filter, &count) != 0) return false;
  filter.len = static_cast<unsigned short>(count);
  return true;
}

bool copy_options(int from, int to) {
  return copy_option(from, to, PACKET_VERSION) && copy_option(from, to, PACKET_RESERVE) &&
         copy_stamps(from, to);
}

bool copy_stamps(int from, int to) { return copy_option(from, to, PACKET_TIMESTAMP); }

}  // namespace pcapv3
