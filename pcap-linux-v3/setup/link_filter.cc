// SPDX-License-Identifier: BSD-3-Clause
#include "setup/link_filter.h"

#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace pcapv3 {
namespace {

// A message has its own header, the interface's header, and attributes, of which the name is the
// first (rtnetlink.c: rtnl_fill_ifinfo). All of it is in the host's byte order, but a filter loads
// in network byte order.
constexpr unsigned kType = offsetof(nlmsghdr, nlmsg_type);
constexpr unsigned kIndex = NLMSG_HDRLEN + offsetof(ifinfomsg, ifi_index);
constexpr unsigned kAttribute = NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(ifinfomsg));
constexpr unsigned kAttributeType = kAttribute + offsetof(rtattr, rta_type);
constexpr unsigned kName = kAttribute + RTA_LENGTH(0);
constexpr unsigned kWord = 4;

constexpr unsigned kAll = ~0u;

std::uint32_t loaded(const char* bytes) {
  std::uint32_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return ntohl(word);
}

}  // namespace

LinkFilter::LinkFilter() {
  code_[count_++] = BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0);
  // This message is too short for a name; all loads below are within one that has a name.
  code_[count_++] = BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, kName + kWord, 1, 0);
  let_through();
  load(BPF_H, kType);
  code_[count_++] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htons(RTM_NEWLINK), 2, 0);
  code_[count_++] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htons(RTM_DELLINK), 1, 0);
  code_[count_++] = BPF_STMT(BPF_RET | BPF_K, 0);
  load(BPF_H, kAttributeType);
  code_[count_++] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htons(IFLA_IFNAME), 1, 0);
  let_through();
}

void LinkFilter::load(unsigned short size, unsigned at) {
  code_[count_++] = BPF_STMT(static_cast<unsigned short>(BPF_LD | size | BPF_ABS), at);
}

void LinkFilter::let_through() { code_[count_++] = BPF_STMT(BPF_RET | BPF_K, kAll); }

void LinkFilter::add(const char* name, int index) {
  // No jump leaves a link's part, because a jump's length is a byte.
  if (index > 0) {
    load(BPF_W, kIndex);
    const auto number = static_cast<std::uint32_t>(index);
    code_[count_++] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htonl(number), 0, 1);
    let_through();
  }
  // This is the attribute as it is in memory: its header, and the name with its final zero, padded
  // with zeros to a whole word (lib/nlattr.c: __nla_reserve).
  char attribute[kWord + 16] = {};
  const std::size_t length = strnlen(name, 15);
  const rtattr header = {static_cast<unsigned short>(RTA_LENGTH(length + 1)), IFLA_IFNAME};
  static_assert(sizeof(header) == kWord && RTA_LENGTH(0) == kWord);
  std::memcpy(attribute, &header, sizeof(header));
  std::memcpy(attribute + kWord, name, length);
  const auto words = static_cast<unsigned>(1 + (length + kWord) / kWord);
  for (unsigned i = 0; i < words; ++i) {
    load(BPF_W, kAttribute + i * kWord);
    // A mismatch jumps past the remaining words and the end.
    const auto past = static_cast<unsigned char>(2 * (words - 1 - i) + 1);
    code_[count_++] =
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, loaded(attribute + std::size_t{i} * kWord), 0, past);
  }
  let_through();
}

sock_fprog LinkFilter::program() {
  code_[count_] = BPF_STMT(BPF_RET | BPF_K, 0);  // not counted, as more links may be added
  return {static_cast<unsigned short>(count_ + 1), code_};
}

}  // namespace pcapv3
