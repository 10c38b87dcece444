// SPDX-License-Identifier: BSD-3-Clause
// Settings: every variable, the values it accepts, and the text for those it does not.
#include "pcap-linux-v3/setup/settings.h"

#include <cstdlib>
#include <string>
#include <vector>

#include "catch.h"

namespace pcapv3 {
namespace {

struct Outcome {
  bool ok;
  Settings settings;
  std::string error;
};

Outcome read(const std::vector<const char*>& entries) {
  std::vector<const char*> environment = entries;
  environment.push_back(nullptr);
  Outcome outcome{};
  ErrorText error;
  outcome.ok = outcome.settings.read(environment.data(), "tcpdump", error);
  outcome.error = error.c_str();
  return outcome;
}

/// Returns the entries that are reported as no settings.
std::vector<std::string> unknown(const std::vector<const char*>& entries) {
  std::vector<const char*> environment = entries;
  environment.push_back(nullptr);
  std::vector<std::string> found;
  const char* const* at = environment.data();
  while (const char* entry = next_unknown(at)) found.emplace_back(entry);
  return found;
}

}  // namespace

TEST_CASE("an environment without settings leaves the defaults") {
  const Outcome o = read({"PATH=/bin", "PCAPV4=x", "PCAPV3X=y", "XPCAPV3_BUFFER=1", "PCAP=1"});
  REQUIRE(o.ok);
  CHECK(o.settings.buffer.bytes == 0);
  CHECK(o.settings.block.bytes == 0);
  CHECK(o.settings.retire_ms == 0);
  CHECK(o.settings.immediate == Settings::Immediate::kAdaptive);
  CHECK(o.settings.drain);
  CHECK_FALSE(o.settings.fanout.is_set());
  CHECK_FALSE(o.settings.hides_descriptor);
}

TEST_CASE("every setting is read") {
  const Outcome o = read({"PCAPV3=on", "PCAPV3_BUFFER=128M", "PCAPV3_BLOCK=65536",
                          "PCAPV3_RETIRE=20", "PCAPV3_IMMEDIATE=v2", "PCAPV3_DRAIN=off",
                          "PCAPV3_BLOCKING=x,tcpdump", "PCAPV3_WINDOW=7", "PCAPV3_FANOUT=7:lb"});
  INFO(o.error);
  REQUIRE(o.ok);
  CHECK(o.settings.buffer.bytes == 128u << 20);
  CHECK(o.settings.block.bytes == 65536);
  CHECK(o.settings.retire_ms == 20);
  CHECK(o.settings.immediate == Settings::Immediate::kV2);
  CHECK_FALSE(o.settings.drain);
  CHECK(o.settings.hides_descriptor);
  CHECK(o.settings.window_ms == 7);
  CHECK(o.settings.fanout.group == 7);
  CHECK(std::string(o.settings.fanout.text) == "7:lb");
}

TEST_CASE("what is read stays when the environment goes") {
  std::string buffer = "PCAPV3_BUFFER=128M";
  std::string block = "PCAPV3_BLOCK=00000000000000000000000000065536";
  std::string fanout = "PCAPV3_FANOUT=7:rollover";
  std::string blocking = "PCAPV3_BLOCKING=one,tcpdump";
  const Outcome o = read({buffer.c_str(), block.c_str(), fanout.c_str(), blocking.c_str()});
  for (std::string* entry : {&buffer, &block, &fanout, &blocking})
    entry->assign(entry->size(), '?');
  REQUIRE(o.ok);
  CHECK(std::string(o.settings.buffer.text) == "128M");
  CHECK(o.settings.block.bytes == 65536);
  CHECK(std::string(o.settings.block.text) == "00000000000000000000000");
  CHECK(std::string(o.settings.fanout.text) == "7:rollover");
  CHECK(o.settings.hides_descriptor);
}

TEST_CASE("a setting is found by its whole name, and one of nothing is not set") {
  const char* const environment[] = {"PCAPV3_PORTSX=1", "PCAPV3_PORT=2",    "XPCAPV3_PORTS=3",
                                     "PCAPV3_PORTS=",   "PCAPV3_PORTS=a,b", nullptr};
  CHECK(std::string(find_setting(environment, "PCAPV3_PORTS")) == "a,b");
  CHECK(find_setting(environment, "PCAPV3_STATS") == nullptr);
  CHECK(find_setting(environment, "PCAPV3") == nullptr);
}

TEST_CASE("on and off have other words") {
  for (const char* on : {"on", "1", "yes", "true"}) {
    CHECK(read({(std::string("PCAPV3=") + on).c_str()}).ok);
    CHECK(read({(std::string("PCAPV3_DRAIN=") + on).c_str()}).settings.drain);
    setenv("PCAPV3", on, 1);
    CHECK_FALSE(switched_off());
  }
  for (const char* off : {"off", "0", "no", "false"}) {
    CHECK(read({(std::string("PCAPV3=") + off).c_str()}).ok);
    CHECK_FALSE(read({(std::string("PCAPV3_DRAIN=") + off).c_str()}).settings.drain);
    setenv("PCAPV3", off, 1);
    CHECK(switched_off());
  }
  for (const char* neither : {"", "OFF", "offf", "00", "2", "n"}) {
    setenv("PCAPV3", neither, 1);
    CHECK_FALSE(switched_off());
  }
  unsetenv("PCAPV3");
  CHECK_FALSE(switched_off());
}

TEST_CASE("a setting of nothing is not set") {
  const Outcome o = read({"PCAPV3=", "PCAPV3_BUFFER=", "PCAPV3_IMMEDIATE="});
  CHECK(o.ok);
  CHECK(o.settings.buffer.bytes == 0);
}

TEST_CASE("bytes have units") {
  CHECK(read({"PCAPV3_BUFFER=1"}).settings.buffer.bytes == 1);
  CHECK(read({"PCAPV3_BUFFER=3K"}).settings.buffer.bytes == 3072);
  CHECK(read({"PCAPV3_BUFFER=2G"}).settings.buffer.bytes == std::uint64_t{2} << 30);
  CHECK(read({"PCAPV3_BUFFER=1T"}).settings.buffer.bytes == std::uint64_t{1} << 40);
}

TEST_CASE("a value that can't be used is told with its variable") {
  const char* entry =
      GENERATE("PCAPV3=of", "PCAPV3=2", "PCAPV3_BUFFER=banana", "PCAPV3_BUFFER=0",
               "PCAPV3_BUFFER=-1", "PCAPV3_BUFFER=+1", "PCAPV3_BUFFER= 1", "PCAPV3_BUFFER=64Q",
               "PCAPV3_BUFFER=64m", "PCAPV3_BUFFER=64MB", "PCAPV3_BUFFER=M", "PCAPV3_BUFFER=1.5G",
               "PCAPV3_BUFFER=10000000000000G", "PCAPV3_BUFFER=99999999999999999999",
               "PCAPV3_BLOCK=0", "PCAPV3_BLOCK=1MM", "PCAPV3_RETIRE=-1", "PCAPV3_RETIRE=0",
               "PCAPV3_RETIRE=x", "PCAPV3_RETIRE=10ms", "PCAPV3_RETIRE=99999999999",
               "PCAPV3_IMMEDIATE=v1", "PCAPV3_IMMEDIATE=V3", "PCAPV3_DRAIN=x");
  const Outcome o = read({entry});
  CHECK_FALSE(o.ok);
  CHECK(o.error.rfind(entry, 0) == 0);
  CHECK(o.error.size() > std::string(entry).size() + 10);
}

TEST_CASE("a name that is no setting stops nothing and is told") {
  const Outcome o = read({"PCAPV3_BUFER=64M", "PCAPV3_DEBUGS=x", "PCAPV3_RETIRE=20"});
  CHECK(o.ok);
  CHECK(o.settings.retire_ms == 20);
  const std::vector<std::string> told = unknown(
      {"PATH=/bin", "PCAPV3=on", "PCAPV3X=1", "PCAPV3_BUFER=64M", "PCAPV3_STATS=stderr",
       "PCAPV3_=1", "PCAPV3_NOTHING=", "PCAPV3_buffer=1", "PCAPV3_PORTS=a,b", "PCAPV3_BLOCKING=x"});
  CHECK(told == std::vector<std::string>{"PCAPV3_BUFER=64M", "PCAPV3_=1", "PCAPV3_buffer=1"});
}

TEST_CASE("what a container platform tells of a service called pcapv3 is nobody's mistake") {
  const std::vector<const char*> links = {
      // These come from Kubernetes.
      "PCAPV3_SERVICE_HOST=10.0.0.1", "PCAPV3_SERVICE_PORT=80", "PCAPV3_SERVICE_PORT_HTTP_ALT=80",
      "PCAPV3_PORT=tcp://10.0.0.1:80", "PCAPV3_PORT_80_TCP=tcp://10.0.0.1:80",
      "PCAPV3_PORT_80_TCP_PROTO=tcp", "PCAPV3_PORT_80_TCP_PORT=80",
      "PCAPV3_PORT_80_TCP_ADDR=10.0.0.1", "PCAPV3_PORT_53_UDP=udp://10.0.0.1:53",
      "PCAPV3_PORT_9_SCTP_ADDR=10.0.0.1",
      // These are for services called pcapv3-capture and pcapv3-1.
      "PCAPV3_CAPTURE_SERVICE_HOST=10.0.0.1", "PCAPV3_CAPTURE_PORT=tcp://10.0.0.1:80",
      "PCAPV3_CAPTURE_PORT_80_TCP_PORT=80", "PCAPV3_1_PORT=tcp://10.0.0.1:80",
      // These come from Docker's links.
      "PCAPV3_NAME=/probe/pcapv3", "PCAPV3_ENV_LANG=C",
      "PCAPV3_PORT_80_TCP_START=tcp://10.0.0.1:80", "PCAPV3_PORT_80_TCP_PORT_END=81"};
  CHECK(unknown(links).empty());
  CHECK(read(links).ok);

  const std::vector<const char*> others = {"PCAPV3_PORT=eth0,eth1",     "PCAPV3_PORT_80=x",
                                           "PCAPV3_PORT__TCP=x",        "PCAPV3_PORT_80_XTP=x",
                                           "PCAPV3_PORT_80_TCP_SIZE=x", "PCAPV3_SERVICE=x",
                                           "PCAPV3_SERVICE_PORT_=x",    "PCAPV3_HOST=x"};
  CHECK(unknown(others) == std::vector<std::string>(others.begin(), others.end()));
}

TEST_CASE("a very long name or value can't overrun the text") {
  const std::string entry = "PCAPV3_BUFFER=" + std::string(5000, 'y');
  const Outcome o = read({entry.c_str()});
  CHECK_FALSE(o.ok);
  CHECK(o.error.size() < PCAP_ERRBUF_SIZE);
  const std::string strange = "PCAPV3_" + std::string(5000, 'X') + "=" + std::string(5000, 'y');
  CHECK(unknown({strange.c_str()}) == std::vector<std::string>{strange});
}

TEST_CASE(
    "dumpcap has no descriptor to select on, unless that is off, and others if they are named") {
  const auto hides = [](const char* setting, const char* program) {
    const std::string entry = setting == nullptr ? "X=" : std::string("PCAPV3_BLOCKING=") + setting;
    const char* const environment[] = {entry.c_str(), nullptr};
    Settings settings;
    ErrorText error;
    REQUIRE(settings.read(environment, program, error));
    return settings.hides_descriptor;
  };
  CHECK(hides(nullptr, "dumpcap"));
  CHECK_FALSE(hides(nullptr, "tcpdump"));
  for (const char* off : {"off", "0", "no", "false"}) {
    CHECK_FALSE(hides(off, "dumpcap"));
    CHECK_FALSE(hides(off, off));
  }
  for (const char* setting : {"one", "one,two", "two,one", "x,one,y"}) {
    CHECK(hides(setting, "one"));
    CHECK(hides(setting, "dumpcap"));
    CHECK_FALSE(hides(setting, "on"));
    CHECK_FALSE(hides(setting, "ones"));
    CHECK_FALSE(hides(setting, "three"));
  }
}

}  // namespace pcapv3
