// SPDX-License-Identifier: BSD-3-Clause
// Lists of ports as people write them, and the errors for those that are invalid.
#include "pcap-linux-v3/setup/port_list.h"

#include <cstdlib>
#include <string>

#include "catch.h"

namespace pcapv3 {
namespace {

std::string refused(const std::string& list) {
  pcapv3_port_names names;
  char error[PCAP_ERRBUF_SIZE] = "";
  CHECK_FALSE(read_port_names(list.c_str(), names, error));
  return error;
}

}  // namespace

TEST_CASE("a list of ports is read in its order") {
  pcapv3_port_names names;
  char error[PCAP_ERRBUF_SIZE] = "";
  REQUIRE(read_port_names("eth1,wlp3s0,a-name-of-15-by", names, error));
  REQUIRE(names.count == 3);
  CHECK(std::string(names.names[0]) == "eth1");
  CHECK(std::string(names.names[1]) == "wlp3s0");
  CHECK(std::string(names.names[2]) == "a-name-of-15-by");
}

TEST_CASE("a list that can't be one of ports is refused with what is wrong") {
  CHECK(refused("eth1") == "eth1: a list has two ports at least");
  CHECK(refused("eth1,") == "there is an empty name in the list of ports");
  CHECK(refused(",eth1") == "there is an empty name in the list of ports");
  CHECK(refused("eth1,,eth2") == "there is an empty name in the list of ports");
  CHECK(refused("") == "there is an empty name in the list of ports");
  CHECK(refused("eth1,eth2,eth1") == "eth1: it is in the list of ports twice");
  CHECK(refused("eth1,sixteen-bytes-xx") ==
        "sixteen-bytes-xx: an interface's name has 15 bytes at most");
  CHECK(refused("eth1,any") == "any: it takes in all ports by itself and can't be one of a list");
}

TEST_CASE("a list holds 64 ports and no more") {
  std::string list = "p0";
  for (int i = 1; i < 64; ++i) list += ",p" + std::to_string(i);
  pcapv3_port_names names;
  char error[PCAP_ERRBUF_SIZE] = "";
  REQUIRE(read_port_names(list.c_str(), names, error));
  CHECK(names.count == 64);
  CHECK(refused(list + ",p64") == "p64: a list has 64 ports at most");
}

TEST_CASE("the lists of PCAPV3_PORTS are found by their number") {
  setenv("PCAPV3_PORTS", "eth1,eth2;eth3,eth4,eth5;", 1);
  pcapv3_port_names names;
  char list[64];
  char error[PCAP_ERRBUF_SIZE] = "";
  REQUIRE(find_listed(0, names, list, sizeof(list), error) == 1);
  CHECK(std::string(list) == "eth1,eth2");
  REQUIRE(find_listed(1, names, list, sizeof(list), error) == 1);
  CHECK(std::string(list) == "eth3,eth4,eth5");
  CHECK(names.count == 3);
  CHECK(find_listed(2, names, list, sizeof(list), error) == 0);
  CHECK(find_listed(3, names, list, sizeof(list), error) == 0);

  setenv("PCAPV3_PORTS", "eth1", 1);
  CHECK(find_listed(0, names, list, sizeof(list), error) == -1);
  CHECK(std::string(error) == "PCAPV3_PORTS: eth1: a list has two ports at least");

  unsetenv("PCAPV3_PORTS");
  CHECK(find_listed(0, names, list, sizeof(list), error) == 0);
}

TEST_CASE("to list devices, no other setting is looked at") {
  setenv("PCAPV3_BUFFER", "banana", 1);
  setenv("PCAPV3_PORTS", "eth1,eth2", 1);
  pcapv3_port_names names;
  char list[64];
  char error[PCAP_ERRBUF_SIZE] = "";
  CHECK(find_listed(0, names, list, sizeof(list), error) == 1);
  CHECK(std::string(error).empty());
  unsetenv("PCAPV3_BUFFER");
  unsetenv("PCAPV3_PORTS");
}

}  // namespace pcapv3
