// Settings: every variable, what it takes, and the text for what it does not take.
#include "pcap-linux-v3/settings.h"

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
  outcome.ok = outcome.settings.read(environment.data(), error);
  outcome.error = error.c_str();
  return outcome;
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
  CHECK(o.settings.stats == nullptr);
  CHECK(o.settings.debug == nullptr);
}

TEST_CASE("every setting is read") {
  const Outcome o =
      read({"PCAPV3=on", "PCAPV3_BUFFER=128M", "PCAPV3_BLOCK=65536", "PCAPV3_RETIRE=20",
            "PCAPV3_IMMEDIATE=v2", "PCAPV3_DRAIN=off", "PCAPV3_STATS=stderr", "PCAPV3_DEBUG=/tmp/x",
            "PCAPV3_WINDOW=7", "PCAPV3_PORTS=a,b;c,d", "PCAPV3_FANOUT=7:lb"});
  INFO(o.error);
  REQUIRE(o.ok);
  CHECK(o.settings.buffer.bytes == 128u << 20);
  CHECK(o.settings.block.bytes == 65536);
  CHECK(o.settings.retire_ms == 20);
  CHECK(o.settings.immediate == Settings::Immediate::kV2);
  CHECK_FALSE(o.settings.drain);
  CHECK(std::string(o.settings.stats) == "stderr");
  CHECK(std::string(o.settings.debug) == "/tmp/x");
  CHECK(o.settings.window_ms == 7);
  CHECK(std::string(o.settings.ports) == "a,b;c,d");
  CHECK(o.settings.fanout.group == 7);
  CHECK(std::string(o.settings.fanout.text) == "7:lb");
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
      GENERATE("PCAPV3=of", "PCAPV3=1", "PCAPV3_BUFFER=banana", "PCAPV3_BUFFER=0",
               "PCAPV3_BUFFER=-1", "PCAPV3_BUFFER=+1", "PCAPV3_BUFFER= 1", "PCAPV3_BUFFER=64Q",
               "PCAPV3_BUFFER=64m", "PCAPV3_BUFFER=64MB", "PCAPV3_BUFFER=M", "PCAPV3_BUFFER=1.5G",
               "PCAPV3_BUFFER=10000000000000G", "PCAPV3_BUFFER=99999999999999999999",
               "PCAPV3_BLOCK=0", "PCAPV3_BLOCK=1MM", "PCAPV3_RETIRE=-1", "PCAPV3_RETIRE=0",
               "PCAPV3_RETIRE=x", "PCAPV3_RETIRE=10ms", "PCAPV3_RETIRE=99999999999",
               "PCAPV3_IMMEDIATE=v1", "PCAPV3_IMMEDIATE=V3", "PCAPV3_DRAIN=no");
  const Outcome o = read({entry});
  CHECK_FALSE(o.ok);
  CHECK(o.error.rfind(entry, 0) == 0);
  CHECK(o.error.size() > std::string(entry).size() + 10);
}

TEST_CASE("a name that is no setting is an error and not passed over") {
  const Outcome o = read({"PCAPV3_BUFER=64M"});
  CHECK_FALSE(o.ok);
  CHECK(o.error.rfind("PCAPV3_BUFER=64M: there is no such setting", 0) == 0);
}

TEST_CASE("a very long name or value can't overrun the text") {
  const std::string entry = "PCAPV3_" + std::string(5000, 'X') + "=" + std::string(5000, 'y');
  const Outcome o = read({entry.c_str()});
  CHECK_FALSE(o.ok);
  CHECK(o.error.size() < PCAP_ERRBUF_SIZE);
}

TEST_CASE(
    "dumpcap has no descriptor to select on, unless that is off, and others if they are named") {
  const auto hides = [](const char* setting, const char* program) {
    Settings settings;
    settings.blocking = setting;
    return settings.hides_descriptor_from(program);
  };
  CHECK(hides(nullptr, "dumpcap"));
  CHECK_FALSE(hides(nullptr, "tcpdump"));
  CHECK_FALSE(hides("off", "dumpcap"));
  CHECK_FALSE(hides("off", "off"));
  for (const char* setting : {"one", "one,two", "two,one", "x,one,y"}) {
    CHECK(hides(setting, "one"));
    CHECK(hides(setting, "dumpcap"));
    CHECK_FALSE(hides(setting, "on"));
    CHECK_FALSE(hides(setting, "ones"));
    CHECK_FALSE(hides(setting, "three"));
  }
}

}  // namespace pcapv3
