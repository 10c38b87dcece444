// SPDX-License-Identifier: BSD-3-Clause
// Handles that join and leave a fan-out group under traffic, and groups of handles on several
// ports.
#include <atomic>
#include <string>
#include <thread>

#include "fanout.h"
#include "traffic.h"

namespace pcapv3::live {
namespace {

void test_several_ports() {
  join("7:lb");
  const Handles handles = open_members(2, {.device = "see0,see1"});
  const Players players(2);
  players.send(0, 300);
  Shares shares;
  take(handles, 600, shares);
  for (const Packets& share : shares) {
    unsigned of_port[2] = {};
    for (const Packet& packet : share) ++of_port[sender_of(number_of(packet.bytes))];
    CHECK(of_port[0] == 150 && of_port[1] == 150, "%u and %u frames", of_port[0], of_port[1]);
  }
  CHECK(owners_of(shares).size() == 600, "%zu frames", owners_of(shares).size());
}

/// Reads until the library says so of both handles.
void take_until_told(const Handles& handles, const Record& debug, const std::string& line,
                     Shares& shares) {
  for (std::size_t count = 0; count < handles.size();) {
    for (std::size_t i = 0; i < handles.size(); ++i) {
      CHECK(pcap_dispatch(handles[i].get(), -1, keep, user(shares[i])) >= 0, "%s",
            pcap_geterr(handles[i].get()));
    }
    const std::string text = debug.text();
    count = 0;
    for (std::size_t at = 0; (at = text.find(line, at)) != text.npos; ++at) ++count;
  }
}

void test_coming_back() {
  join("7:lb");
  const Record debug("PCAPV3_DEBUG");
  const Handles handles = open_members(2, {.device = "see0,see1"});
  for (const Handle& handle : handles) set_filter(handle.get(), kOdd);
  Shares shares(2);
  Players(2).send(0, 200);
  ip("link delete see1");
  take_until_told(handles, debug, "see1: the interface is gone", shares);
  make_port(1);
  take_until_told(handles, debug, "see1: the interface is back", shares);
  take(handles, 200, shares);
  CHECK(owners_of(shares).size() == 200, "%zu frames before", owners_of(shares).size());
  Players(2).send(200, 200);
  take(handles, 400, shares);
  for (const Packets& share : shares) {
    unsigned of_port[2] = {};
    for (const Packet& packet : share) ++of_port[sender_of(number_of(packet.bytes))];
    // In turn, of which the filter lets every other one through: one gets them all.
    CHECK(of_port[0] == 200 || of_port[0] == 0, "%u of port 0", of_port[0]);
    CHECK(of_port[1] % 100 == 0, "%u of port 1", of_port[1]);
  }
  const auto owners = owners_of(shares);
  CHECK(owners.size() == 400, "%zu frames", owners.size());
  for (const auto& [number, owner] : owners) CHECK(number % 2 == 1, "frame %u", number);
  unsigned received = 0;
  for (const Handle& handle : handles) received += stats_of(handle.get()).ps_recv;
  CHECK(received == 400, "%u received", received);
}

/// While traffic comes, handles join one after the other. None of them gets what another one gets,
/// also in the moment between being bound and being in the group.
void test_joining() {
  join("7:lb");
  Handles handles = open_members(1);
  Traffic traffic({.pause_us = 20});
  for (int i = 0; i < 5; ++i) {
    traffic.wait_for(300);
    handles.push_back(std::move(open_members(1)[0]));
  }
  traffic.wait_for(300);
  const std::uint32_t sent = traffic.stop();
  const Sender last = remote();
  Shares shares(handles.size());
  std::uint32_t extra = 0;
  for (std::size_t i = 0; i < handles.size(); ++i) {
    while (shares[i].empty() || number_of(shares[i].back().bytes) < sent) {
      last.send({.number = sent + extra++});
      CHECK(pcap_dispatch(handles[i].get(), -1, keep, user(shares[i])) >= 0, "%s",
            pcap_geterr(handles[i].get()));
    }
  }
  const auto owners = owners_of(shares);
  const auto end = owners.lower_bound(sent);
  std::printf("# %td of %u frames came, over 5 joinings\n", std::distance(owners.begin(), end),
              sent);
}

/// While traffic comes, one handle is told to end, and closed. What nobody gets came between its
/// last packet and its closing; all that came later goes to the other.
void test_leaving(const char* device) {
  join("7:lb");
  Handles handles = open_members(1, {.device = device});
  const Record stats("PCAPV3_STATS");
  Handle leaving = open_capture({.device = device});
  Traffic traffic({.pause_us = 20});
  Packets of_leaving;
  std::thread reader([&] {
    const int status = pcap_loop(leaving.get(), -1, keep, user(of_leaving));
    CHECK(status == PCAP_ERROR_BREAK, "%d", status);
    leaving.reset();
  });
  traffic.wait_for(1000);
  pcap_breakloop(leaving.get());
  reader.join();
  traffic.wait_for(100);  // the socket's hook may run once more after its closing
  const std::uint32_t from = traffic.stop();
  const Sender sender = remote();
  sender.send(from, 1000);
  Shares shares;
  handles.push_back(nullptr);
  shares.resize(2);
  while (shares[0].empty() || number_of(shares[0].back().bytes) != from + 999) {
    CHECK(pcap_dispatch(handles[0].get(), -1, keep, user(shares[0])) >= 0, "%s",
          pcap_geterr(handles[0].get()));
  }
  shares[1] = std::move(of_leaving);
  const auto owners = owners_of(shares);
  const std::uint32_t last = number_of(shares[1].back().bytes);
  std::uint32_t lost = 0;
  for (std::uint32_t number = 0; number < from + 1000; ++number) {
    if (owners.count(number) == 1) continue;
    ++lost;
    CHECK(number > last && number < from, "frame %u did not come; the last of the other was %u",
          number, last);
  }
  const unsigned undelivered = figure(stats.text(), "see0", "undelivered");
  CHECK(undelivered <= lost, "%u frames came to nobody, but %u were undelivered", lost,
        undelivered);
  std::printf("# %u of %u frames came to nobody; told of %u\n", lost, from, undelivered);
}

void test_leaving_one() { test_leaving("see0"); }

void test_leaving_several() { test_leaving("see0,see1"); }

const Test kTests[] = {
    {"two captures on several ports share each", test_several_ports},
    {"a port of two captures goes and comes back", test_coming_back},
    {"joining in full traffic", test_joining},
    {"leaving in full traffic", test_leaving_one},
    {"leaving in full traffic, of several ports", test_leaving_several},
};
const Registration kRegistration({.name = "fanout_joining", .tests = kTests, .links = 2});

}  // namespace
}  // namespace pcapv3::live
