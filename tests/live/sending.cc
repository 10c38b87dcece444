// SPDX-License-Identifier: BSD-3-Clause
// Sending on a handle that captures.
#include <string>
#include <string_view>

#include "capture.h"

namespace pcapv3::live {
namespace {

void inject() {
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  Handle other_end;
  in_namespace(peer(), [&] { other_end = open_capture({.device = "play0"}); });
  set_direction(other_end.get(), PCAP_D_IN);
  const Sender sender = remote();
  for (std::uint32_t number = 0; number < 20; ++number) {
    sender.send(1000 + number, 1);
    const Bytes bytes = bytes_of({.number = number});
    const int size = static_cast<int>(bytes.size());
    const int status = number % 2 == 0 ? pcap_inject(p, bytes.data(), bytes.size())
                                       : pcap_sendpacket(p, bytes.data(), size);
    CHECK(status == (number % 2 == 0 ? size : 0), "status %d, %s", status, pcap_geterr(p));
  }
  check_sequence(take_until(other_end.get(), 19), 0, 19);
  check_sequence(take_until(p, 1019), 1000, 1019);  // a handle does not see what it sends itself
}

void inject_on_any() {
  const Handle handle = open_capture({.device = "any"});
  const Bytes bytes = bytes_of({});
  const int size = static_cast<int>(bytes.size());
  CHECK(pcap_inject(handle.get(), bytes.data(), bytes.size()) == PCAP_ERROR, "it was sent");
  CHECK(pcap_sendpacket(handle.get(), bytes.data(), size) == PCAP_ERROR, "it was sent");
  CHECK(std::string_view(pcap_geterr(handle.get())) ==
            "Sending packets isn't supported on the \"any\" device",
        "%s", pcap_geterr(handle.get()));
}

const Test kTests[] = {
    {"pcap_inject and pcap_sendpacket while capturing", inject},
    {"pcap_inject on any is an error", inject_on_any},
};
const Registration kRegistration({.name = "sending",
                                  .tests = kTests,
                                  .modes = "ours off distribution"});

}  // namespace
}  // namespace pcapv3::live
