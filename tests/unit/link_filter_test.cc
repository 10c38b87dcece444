// SPDX-License-Identifier: BSD-3-Clause
// Which of rtnetlink(7)'s messages pass: those of the interfaces asked for, by index or by name,
// and those that can't be recognised.
#include "pcap-linux-v3/setup/link_filter.h"

#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include <cstring>
#include <string>
#include <vector>

#include "catch.h"

namespace pcapv3::test {
namespace {

using Message = std::vector<std::uint8_t>;

/// Makes a message as the kernel does (rtnetlink.c: rtnl_fill_ifinfo): the name, and one more
/// attribute.
Message message(int index, const std::string& name, unsigned short type = RTM_NEWLINK,
                unsigned short attribute = IFLA_IFNAME) {
  Message bytes(NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(ifinfomsg)) + RTA_SPACE(name.size() + 1) +
                RTA_SPACE(4));
  nlmsghdr header{};
  header.nlmsg_len = static_cast<std::uint32_t>(bytes.size());
  header.nlmsg_type = type;
  ifinfomsg link{};
  link.ifi_index = index;
  const rtattr first = {static_cast<unsigned short>(RTA_LENGTH(name.size() + 1)), attribute};
  std::uint8_t* at = bytes.data();
  std::memcpy(at, &header, sizeof(header));
  std::memcpy(at + NLMSG_HDRLEN, &link, sizeof(link));
  at += NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(link));
  std::memcpy(at, &first, sizeof(first));
  // NOLINTNEXTLINE(bugprone-not-null-terminated-result): `bytes` is all zeros at first.
  std::memcpy(at + RTA_LENGTH(0), name.data(), name.size());
  const rtattr second = {RTA_LENGTH(4), IFLA_MTU};
  std::memcpy(at + RTA_SPACE(name.size() + 1), &second, sizeof(second));
  return bytes;
}

/// Runs the few instructions that are used as the kernel does: a load past the end rejects.
bool passes(LinkFilter& filter, const Message& bytes) {
  const sock_fprog program = filter.program();
  std::uint32_t a = 0;
  for (unsigned i = 0; i < program.len; ++i) {
    const sock_filter& code = program.filter[i];
    const std::size_t end = code.k + std::size_t{BPF_SIZE(code.code) == BPF_W ? 4u : 2u};
    switch (code.code) {
      case BPF_LD | BPF_W | BPF_LEN:
        a = static_cast<std::uint32_t>(bytes.size());
        break;
      case BPF_LD | BPF_W | BPF_ABS: {
        if (end > bytes.size()) return false;
        std::uint32_t word;
        std::memcpy(&word, &bytes[code.k], sizeof(word));
        a = ntohl(word);
        break;
      }
      case BPF_LD | BPF_H | BPF_ABS: {
        if (end > bytes.size()) return false;
        std::uint16_t half;
        std::memcpy(&half, &bytes[code.k], sizeof(half));
        a = ntohs(half);
        break;
      }
      case BPF_JMP | BPF_JEQ | BPF_K:
        i += a == code.k ? code.jt : code.jf;
        break;
      case BPF_JMP | BPF_JGE | BPF_K:
        i += a >= code.k ? code.jt : code.jf;
        break;
      case BPF_RET | BPF_K:
        return code.k != 0;
      default:
        FAIL("instruction " << i << ": code " << code.code);
    }
  }
  FAIL("a way to the end without a return");
  return false;
}

TEST_CASE("messages of an interface pass by its number or its name") {
  LinkFilter filter;
  filter.add("see0", 7);
  filter.add("gone", 0);
  for (const unsigned short type : {RTM_NEWLINK, RTM_DELLINK}) {
    CHECK(passes(filter, message(7, "see0", type)));
    CHECK(passes(filter, message(7, "renamed", type)));
    CHECK(passes(filter, message(8, "see0", type)));
    CHECK(passes(filter, message(9, "gone", type)));
    CHECK_FALSE(passes(filter, message(8, "see1", type)));
    CHECK_FALSE(passes(filter, message(0, "none", type)));
    CHECK_FALSE(passes(filter, message(7 << 24, "other", type)));
  }
}

TEST_CASE("names of every length are told apart") {
  const std::string longest = "abcdefghijklmno";
  for (std::size_t length = 1; length <= longest.size(); ++length) {
    LinkFilter filter;
    filter.add(longest.substr(0, length).c_str(), 1);
    for (std::size_t other = 1; other <= longest.size(); ++other) {
      CAPTURE(length, other);
      CHECK(passes(filter, message(2, longest.substr(0, other))) == (length == other));
      std::string changed = longest.substr(0, length);
      changed[other % length] = '-';
      CHECK_FALSE(passes(filter, message(2, changed)));
    }
  }
}

TEST_CASE("what can't be told passes, and what is no interface's does not") {
  LinkFilter filter;
  filter.add("see0", 7);
  CHECK(passes(filter, message(8, "see1", RTM_NEWLINK, IFLA_ALT_IFNAME)));
  Message without = message(8, "see1");
  without.resize(NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(ifinfomsg)));
  CHECK(passes(filter, without));
  CHECK_FALSE(passes(filter, message(7, "see0", RTM_NEWADDR)));
}

TEST_CASE("as many interfaces as a handle can have") {
  LinkFilter filter;
  for (unsigned i = 0; i < LinkFilter::kMostLinks; ++i) {
    filter.add(("a-long-name-" + std::to_string(100 + i)).c_str(), static_cast<int>(100 + i));
  }
  CHECK(filter.program().len <= BPF_MAXINSNS);
  CHECK(passes(filter, message(163, "other")));
  CHECK(passes(filter, message(1, "a-long-name-163")));
  CHECK_FALSE(passes(filter, message(164, "a-long-name-164")));
}

}  // namespace
}  // namespace pcapv3::test
