// Scenarios: opening a handle and what it says of itself: setters, getters, link types, time-stamp
// types and precisions, direction, and the errors of all of them.
#include "record.h"

namespace pcapv3::fidelity {
namespace {

void version() { note("version", "%s", pcap_lib_version()); }

void open_live() {
  char error[PCAP_ERRBUF_SIZE] = "";
  const Handle handle(pcap_open_live("see0", 1000, 1, 10, error));
  note("open", "%d \"%s\"", handle != nullptr, error);
  note("snapshot length", "%d", pcap_snapshot(handle.get()));
  peer().send(0, 10);
  note_packets("frames", take_until(handle.get(), 9));
}

constexpr Scenario kTable[] = {
    {"version", version},
    {"open-live", open_live},
};

}  // namespace

extern const std::span<const Scenario> kSetupScenarios(kTable);

}  // namespace pcapv3::fidelity
