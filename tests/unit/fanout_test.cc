// SPDX-License-Identifier: BSD-3-Clause
// Fan-out: the setting, and the kernel's group that it selects.
#include "pcap-linux-v3/setup/fanout.h"

#include <linux/if_packet.h>

#include <set>
#include <string>
#include <utility>

#include "catch.h"

namespace pcapv3 {
namespace {

struct Outcome {
  bool ok;
  FanoutSetting setting;
  std::string error;
};

Outcome parse(const char* value) {
  Outcome outcome{};
  ErrorText error;
  outcome.ok = parse_fanout(value, outcome.setting, error);
  outcome.error = error.c_str();
  return outcome;
}

}  // namespace

TEST_CASE("a group has a mode, or hash") {
  CHECK(parse("0").ok);
  CHECK(parse("7").setting.group == 7);
  CHECK(parse("7").setting.mode == PACKET_FANOUT_HASH);
  CHECK(parse("65535:hash").setting.group == 65535);
  CHECK(parse("7:lb").setting.mode == PACKET_FANOUT_LB);
  CHECK(parse("7:cpu").setting.mode == PACKET_FANOUT_CPU);
  CHECK(parse("7:rollover").setting.mode == PACKET_FANOUT_ROLLOVER);
  CHECK(parse("7:random").setting.mode == PACKET_FANOUT_RND);
  CHECK(parse("7:qm").setting.mode == PACKET_FANOUT_QM);
  CHECK(std::string(parse("7:qm").setting.text) == "7:qm");
}

TEST_CASE("what is no group and no mode is an error that says what is wanted") {
  for (const char* value : {"hash", "-1", "+7", " 7", "65536", "99999999999999999999",
                            "7:", "7:HASH", "7:hash,lb", "7hash", ":hash", "7 ", "0x7"}) {
    INFO(value);
    const Outcome o = parse(value);
    CHECK_FALSE(o.ok);
    CHECK(o.error.starts_with(std::string("PCAPV3_FANOUT=") + value + ": "));
    CHECK(o.error.find("hash, lb, cpu, rollover, random and qm") != std::string::npos);
  }
}

TEST_CASE("a group's number is high, the same each time, and its own") {
  CHECK(fanout_group(7, 2, 1000).id == fanout_group(7, 2, 1000).id);
  CHECK(fanout_group(7, -1, 0).id == fanout_group(7, 0, 0).id);
  for (const int index : {0, 1, 2, 77}) {
    std::set<std::uint16_t> ids;
    std::set<std::pair<std::uint16_t, std::uint32_t>> groups;
    for (std::uint32_t group = 0; group <= 65535; ++group) {
      const FanoutGroup g = fanout_group(static_cast<std::uint16_t>(group), index, 0);
      if (g.id < 0x8000 || g.max_members <= 256 || g.max_members > 4096) FAIL(group);
      if (group < 0x8000) ids.insert(g.id);
      groups.emplace(g.id, g.max_members);
    }
    CHECK(ids.size() == 0x8000);
    // Each higher number shares its id with a lower one; hardly any shares both figures.
    CHECK(groups.size() > 65500);
  }
}

TEST_CASE("interfaces and users have groups of their own") {
  std::set<std::pair<std::uint16_t, std::uint32_t>> groups;
  for (int index = 0; index < 100; ++index) {
    for (std::uint32_t user = 0; user < 10; ++user) {
      const FanoutGroup g = fanout_group(7, index, user);
      groups.emplace(g.id, g.max_members);
    }
  }
  CHECK(groups.size() == 1000);
}

}  // namespace pcapv3
