// SPDX-License-Identifier: BSD-3-Clause
// Wrong use, and what the machine refuses: the status codes and texts of stock libpcap, no crash
// and nothing left open.
#include <grp.h>

#include <climits>
#include <fstream>
#include <string>

#include "capture.h"
#include "near.h"

namespace pcapv3::live {
namespace {

// ---- What can't be opened

/// Keeps a status and its text for the comparison of two libraries.
void report(const std::string& what, int status, const char* text) {
  dprintf(run_arguments().report, "%s: %d %s\n", what.c_str(), status, text);
}

/// Activates, which must fail with `wanted` and a text.
void check_fails(pcap_t* p, int wanted, const std::string& what) {
  const int status = pcap_activate(p);
  CHECK(status == wanted, "%s: status %d, not %d: %s", what.c_str(), status, wanted,
        pcap_geterr(p));
  CHECK(*pcap_geterr(p) != '\0', "%s: no text", what.c_str());
  report(what, status, pcap_geterr(p));
}

/// Captures a frame that is sent out of see0.
void check_captures(pcap_t* p) {
  Sender("see0").send(1, 3);
  check_sequence(take_until(p, 3), 1, 3);
}

void no_such_interface() {
  const Handle handle = create({.device = "nowhere0"});
  check_fails(handle.get(), PCAP_ERROR_NO_SUCH_DEVICE, "no such interface");
  char error[PCAP_ERRBUF_SIZE] = "";
  CHECK(pcap_open_live("nowhere0", 1000, 0, 10, error) == nullptr, "it was opened");
  CHECK(std::strstr(error, "nowhere0") != nullptr, "%s", error);
  report("no such interface, pcap_open_live", 0, error);
}

void impossible_names() {
  // The longest name there can be: cut to its length, a longer one must not pass for it.
  make_pair("a23456789012345");
  const std::string names[] = {
      "", "a234567890123456", "a23456789012345678", std::string(5000, 'a'), "see0 ", "../see0"};
  for (const std::string& name : names) {
    const Handle handle = create({.device = name.c_str()});
    check_fails(handle.get(), PCAP_ERROR_NO_SUCH_DEVICE, "name \"" + name + "\"");
  }
}

void interface_is_down() {
  make_pair();
  ip("link set near0 down");
  const Handle handle = create({.device = "near0"});
  check_fails(handle.get(), PCAP_ERROR_IFACE_NOT_UP, "interface is down");
}

void no_privileges() {
  CHECK(setgroups(0, nullptr) == 0 && setresgid(65534, 65534, 65534) == 0 &&
            setresuid(65534, 65534, 65534) == 0,
        "%s", std::strerror(errno));
  for (const char* device : {"see0", "any"}) {
    const Handle handle = create({.device = device});
    check_fails(handle.get(), PCAP_ERROR_PERM_DENIED, std::string("no privileges, ") + device);
  }
}

void failures_leave_nothing() {
  make_pair();
  ip("link set near0 down");
  const std::size_t before = count_descriptors();
  for (int i = 0; i < 50; ++i) {
    const Handle handle = create({.device = i % 2 == 0 ? "nowhere0" : "near0"});
    CHECK(pcap_activate(handle.get()) < 0, "it was opened");
  }
  CHECK(count_descriptors() == before, "%zu descriptors, not %zu", count_descriptors(), before);
}

// ---- Numbers that make no sense

void snapshot_lengths() {
  for (const int snaplen : {0, -1, INT_MIN, kWhole + 1, INT_MAX}) {
    const Handle handle = open_capture({.snaplen = snaplen});
    CHECK(pcap_snapshot(handle.get()) == kWhole, "%d, asked for %d", pcap_snapshot(handle.get()),
          snaplen);
    check_captures(handle.get());
  }
}

void buffer_sizes() {
  for (const int bytes : {0, -1, INT_MIN, 1, 4097}) {
    const Handle handle = open_capture({.buffer_bytes = bytes});
    check_captures(handle.get());
  }
}

void largest_buffer() {
  // The kernel takes the memory at once, and asks for it so hard that it ends other processes.
  std::ifstream meminfo("/proc/meminfo");
  long available_kib = 0;
  for (std::string line; std::getline(meminfo, line);) {
    if (line.starts_with("MemAvailable:")) available_kib = std::atol(line.c_str() + 13);
  }
  if (available_kib < 6 << 20) skip("needs 6 GiB of free memory");
  const Handle handle = create({.buffer_bytes = INT_MAX});
  const int status = pcap_activate(handle.get());
  if (status == 0) {
    check_captures(handle.get());
  } else {
    CHECK(status == PCAP_ERROR && *pcap_geterr(handle.get()) != '\0', "status %d without a text",
          status);
  }
}

void negative_timeout() {
  const Handle handle = open_capture({.timeout_ms = -1});
  Packets packets;
  CHECK(pcap_dispatch(handle.get(), -1, keep, user(packets)) == 0, "it waits");
}

// ---- Calls at the wrong time

void activated_twice() {
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  check_fails(p, PCAP_ERROR_ACTIVATED, "activated twice");
  for (const auto set :
       {pcap_set_snaplen, pcap_set_promisc, pcap_set_timeout, pcap_set_immediate_mode,
        pcap_set_buffer_size, pcap_set_tstamp_type, pcap_set_tstamp_precision, pcap_set_rfmon}) {
    const int status = set(p, 1);
    CHECK(status == PCAP_ERROR_ACTIVATED, "status %d, %s", status, pcap_geterr(p));
    report("set after activation", status, pcap_geterr(p));
  }
  check_captures(p);
}

void before_activation() {
  const Handle handle = create();
  pcap_t* p = handle.get();
  Packets packets;
  pcap_pkthdr* header = nullptr;
  const u_char* data = nullptr;
  pcap_stat stats;
  bpf_insn all = BPF_STMT(BPF_RET | BPF_K, kWhole);
  bpf_program program = {.bf_len = 1, .bf_insns = &all};
  int* list = nullptr;
  char error[PCAP_ERRBUF_SIZE] = "";
  const struct {
    const char* name;
    int status;
  } calls[] = {
      {"pcap_dispatch", pcap_dispatch(p, -1, keep, user(packets))},
      {"pcap_loop", pcap_loop(p, 1, keep, user(packets))},
      {"pcap_next_ex", pcap_next_ex(p, &header, &data)},
      {"pcap_inject", pcap_inject(p, "", 1)},
      {"pcap_setfilter", pcap_setfilter(p, &program)},
      {"pcap_setdirection", pcap_setdirection(p, PCAP_D_IN)},
      {"pcap_stats", pcap_stats(p, &stats)},
      {"pcap_datalink", pcap_datalink(p)},
      {"pcap_snapshot", pcap_snapshot(p)},
      {"pcap_list_datalinks", pcap_list_datalinks(p, &list)},
      {"pcap_getnonblock", pcap_getnonblock(p, error)},
  };
  for (const auto& call : calls) {
    CHECK(call.status == PCAP_ERROR_NOT_ACTIVATED, "%s: status %d", call.name, call.status);
    report(call.name, call.status, "");
  }
  const int status = pcap_set_datalink(p, DLT_EN10MB);
  CHECK(status < 0, "status %d", status);
  report("pcap_set_datalink", status, pcap_geterr(p));
  CHECK(pcap_get_selectable_fd(p) == -1 && pcap_fileno(p) == -1, "there is a descriptor");
  CHECK(pcap_activate(p) == 0, "%s", pcap_geterr(p));
  check_captures(p);
}

const Test kTests[] = {
    {"no such interface", no_such_interface},
    {"names that no interface can have", impossible_names},
    {"an interface that is down", interface_is_down},
    {"no privileges", no_privileges},
    {"failures leave no descriptor", failures_leave_nothing},
    {"snapshot lengths of 0, negative and huge", snapshot_lengths},
    {"buffer sizes of 0, negative and tiny", buffer_sizes},
    {"the largest buffer size", largest_buffer, 40},
    {"a negative time-out", negative_timeout},
    {"activated twice, set after activation", activated_twice},
    {"calls before activation", before_activation},
};
const Registration kRegistration(
    {.name = "bad_input", .tests = kTests, .modes = "ours off distribution", .reports = true});

}  // namespace
}  // namespace pcapv3::live
