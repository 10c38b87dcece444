// What comes of wrong use, of what the machine refuses, and of interfaces that go away: the status
// codes and texts of stock libpcap, which bad_input.test compares word by word, no crash and
// nothing left open. Run in a namespace of its own, where it makes and removes interfaces. Leaves
// right use to api_live.cc.
#include <grp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>

#include <atomic>
#include <climits>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <string_view>
#include <utility>

#include "capture.h"
#include "frames.h"
#include "harness.h"

namespace pcapv3::live {
namespace {

/// Keeps a status and its text for the comparison of two libraries.
void report(const std::string& what, int status, const char* text) {
  dprintf(link_arguments().report, "%s: %d %s\n", what.c_str(), status, text);
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

void ip(const std::string& arguments) {
  const std::string command = "ip " + arguments;
  CHECK(std::system(command.c_str()) == 0, "%s", command.c_str());
}

/// Two interfaces joined, up; tests capture on the near one and send from far0.
void make_pair(const std::string& near = "near0") {
  if (if_nametoindex("far0") != 0) ip("link delete far0");  // an earlier test's
  ip("link add " + near + " type veth peer name far0");
  for (const std::string& name : {near, std::string("far0")}) ip("link set arp off up dev " + name);
}

// What can't be opened.

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

// Numbers that make no sense.

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

// Calls at the wrong time.

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

// Interfaces that go down, come up, or go away.

/// Sends from far0, one number after the other, until told that it is enough. What a link that is
/// not up yet does not take is not sent again.
void send_until(const std::atomic<bool>& enough, std::uint32_t first) {
  const Sender sender("far0");
  for (std::uint32_t number = first; !enough; ++number) {
    sender.try_send(bytes_of({.number = number}));
    usleep(1000);
  }
}

void down_and_up() {
  make_pair();
  const Handle handle = open_capture({.device = "near0"});
  Sender("far0").send(0, 5);
  check_sequence(take_until(handle.get(), 4), 0, 4);
  std::atomic<bool> enough = false;
  const pid_t reader = getpid();
  std::thread other([&] {
    wait_until_asleep(reader);
    ip("link set near0 down");
    usleep(20000);  // the reader may look at it once or many times
    ip("link set near0 up");
    send_until(enough, 5);
  });
  const Packets packets = take_count(handle.get(), 5);
  enough = true;
  check_sequence(packets, number_of(packets.front().bytes), number_of(packets.back().bytes));
  other.join();
}

void down_and_up_nonblock() {
  make_pair();
  const Handle handle = open_capture({.device = "near0"});
  pcap_t* p = handle.get();
  set_nonblock(p);
  ip("link set near0 down");
  Packets packets;
  // A program that waits in select(2) has to be told to look every millisecond.
  while (pcap_get_required_select_timeout(p) == nullptr) {
    const int taken = pcap_dispatch(p, -1, keep, user(packets));
    CHECK(taken == 0, "status %d, %s", taken, pcap_geterr(p));
  }
  ip("link set near0 up");
  std::atomic<bool> enough = false;
  std::thread other([&] { send_until(enough, 0); });
  while (packets.empty() || pcap_get_required_select_timeout(p) != nullptr) {
    const int taken = pcap_dispatch(p, -1, keep, user(packets));
    CHECK(taken >= 0, "status %d, %s", taken, pcap_geterr(p));
  }
  enough = true;
  check_sequence(packets, number_of(packets.front().bytes), number_of(packets.back().bytes));
  other.join();
}

void check_disappeared(pcap_t* p, int status) {
  CHECK(status == PCAP_ERROR, "status %d", status);
  CHECK(std::string_view(pcap_geterr(p)) == "The interface disappeared", "%s", pcap_geterr(p));
}

void disappears() {
  const std::size_t before = count_descriptors();
  for (const bool loop : {false, true}) {
    make_pair();
    const Handle handle = open_capture({.device = "near0"});
    pcap_t* p = handle.get();
    const pid_t reader = getpid();
    std::thread other([&] {
      wait_until_asleep(reader);
      ip("link delete near0");
    });
    Packets packets;
    int status = 0;
    do {
      status =
          loop ? pcap_loop(p, -1, keep, user(packets)) : pcap_dispatch(p, -1, keep, user(packets));
    } while (status == 0);
    check_disappeared(p, status);
    other.join();
  }
  CHECK(count_descriptors() == before, "%zu descriptors, not %zu", count_descriptors(), before);
}

void disappears_nonblock() {
  make_pair();
  const Handle handle = open_capture({.device = "near0"});
  pcap_t* p = handle.get();
  set_nonblock(p);
  Sender("far0").send(0, 5);
  pollfd ready = {.fd = pcap_get_selectable_fd(p), .events = POLLIN, .revents = 0};
  CHECK(poll(&ready, 1, 5000) == 1, "nothing came");
  ip("link delete near0");
  // What had come is delivered first.
  Packets packets;
  int status = 0;
  while (status >= 0) status = pcap_dispatch(p, 2, keep, user(packets));
  check_disappeared(p, status);
  check_sequence(packets, 0, 4);
}

void any_outlives_an_interface() {
  make_pair();
  const Handle handle = open_capture({.device = "any"});
  const pid_t reader = getpid();
  std::thread other([&] {
    wait_until_asleep(reader);
    ip("link delete near0");
    Sender("see0").send(0, 5);
  });
  const Packets packets = take_until(handle.get(), 4);
  CHECK(packets.size() == 5, "%zu packets", packets.size());
  other.join();
}

// Settings, which only this library has.

void check_refused(const char* name, std::initializer_list<const char*> values) {
  const std::size_t before = count_descriptors();
  for (const char* value : values) {
    const Handle handle = create();
    pcap_t* p = handle.get();
    setenv(name, value, 1);
    const int status = pcap_activate(p);
    CHECK(status == PCAP_ERROR, "%s=%s: status %d", name, value, status);
    CHECK(std::strstr(pcap_geterr(p), name) != nullptr, "%s", pcap_geterr(p));
    CHECK(std::strstr(pcap_geterr(p), value) != nullptr, "%s", pcap_geterr(p));
    unsetenv(name);
  }
  CHECK(count_descriptors() == before, "%zu descriptors, not %zu", count_descriptors(), before);
}

void setting_switch() { check_refused("PCAPV3", {"banana", "OFF", "2"}); }
void setting_buffer() {
  check_refused("PCAPV3_BUFFER", {"banana", "0", "-1", "64Q", "64 M", "10000000000000G"});
}
void setting_block() { check_refused("PCAPV3_BLOCK", {"1000", "0", "x"}); }
void setting_retire() { check_refused("PCAPV3_RETIRE", {"-1", "x", "0", "99999999999"}); }
void setting_stats() { check_refused("PCAPV3_STATS", {"/nonexistent/dir/file"}); }
void setting_debug() { check_refused("PCAPV3_DEBUG", {"/nonexistent/dir/file"}); }

// What stands in `file`.
std::string read_file(const std::string& file) {
  std::ifstream in(file);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Names that are no settings stop no capture. One that can be meant as a setting is told; what a
// container platform sets for a service called "pcapv3" is not.
void setting_unknown() {
  const std::string log = "debug-" + std::to_string(getpid());
  setenv("PCAPV3_DEBUG", log.c_str(), 1);
  const std::pair<const char*, const char*> links[] = {
      {"PCAPV3_SERVICE_HOST", "10.0.0.1"},         {"PCAPV3_SERVICE_PORT", "80"},
      {"PCAPV3_SERVICE_PORT_HTTP", "80"},          {"PCAPV3_PORT", "tcp://10.0.0.1:80"},
      {"PCAPV3_PORT_80_TCP", "tcp://10.0.0.1:80"}, {"PCAPV3_PORT_80_TCP_ADDR", "10.0.0.1"},
  };
  for (const auto& [name, value] : links) setenv(name, value, 1);
  setenv("PCAPV3_BUFER", "64M", 1);
  const Handle handle = open_capture({});
  const std::string told = read_file(log);
  unlink(log.c_str());
  CHECK(told.find("see0: PCAPV3_BUFER=64M: there is no such setting") != std::string::npos, "%s",
        told.c_str());
  for (const auto& [name, value] : links) {
    CHECK(told.find(name) == std::string::npos, "%s: %s", name, told.c_str());
  }
}

// To list devices is not to capture: settings that a capture fails by do not matter.
void setting_and_devices() {
  setenv("PCAPV3_BUFFER", "banana", 1);
  setenv("PCAPV3_SERVICE_HOST", "10.0.0.1", 1);
  setenv("PCAPV3", "banana", 1);
  char error[PCAP_ERRBUF_SIZE] = "";
  pcap_if_t* devices = nullptr;
  CHECK(pcap_findalldevs(&devices, error) == 0, "%s", error);
  CHECK(devices != nullptr, "no devices");
  pcap_freealldevs(devices);
}

// What the program's environment held when a handle was activated may be gone afterwards: here,
// when a port of the handle comes back, wants to join its group again, and is refused, which the
// debug log tells with the setting as it was written.
void setting_unmapped() {
  constexpr std::size_t kBytes = 4096;
  const std::string log = "debug-" + std::to_string(getpid());
  const std::string debug = "PCAPV3_DEBUG=" + log;
  std::vector<void*> pages;
  for (const char* entry : {"PCAPV3_FANOUT=7:lb", "PCAPV3_BUFFER=8M", "PCAPV3_BLOCKING=nobody",
                            debug.c_str(), "PCAPV3_STATS=/dev/null"}) {
    void* page = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED, "mmap: %s", std::strerror(errno));
    std::snprintf(static_cast<char*>(page), kBytes, "%s", entry);
    putenv(static_cast<char*>(page));
    pages.push_back(page);
  }
  make_pair();
  const Handle handle = open_capture({.device = "near0,see0"});
  set_nonblock(handle.get());
  for (void* page : pages) {
    const std::string entry = static_cast<char*>(page);
    unsetenv(entry.substr(0, entry.find('=')).c_str());
    munmap(page, kBytes);
  }

  ip("link delete near0");
  make_pair();
  setenv("PCAPV3_FANOUT", "7:hash", 1);
  Handle other = open_capture({.device = "near0"});
  Packets packets;
  const auto read_until = [&](auto&& done) {
    while (!done()) {
      Sender("far0").send(0, 1);
      pollfd ready = {.fd = pcap_get_selectable_fd(handle.get()), .events = POLLIN, .revents = 0};
      poll(&ready, 1, 20);
      const int taken = pcap_dispatch(handle.get(), -1, keep, user(packets));
      CHECK(taken >= 0, "status %d, %s", taken, pcap_geterr(handle.get()));
    }
  };
  read_until([&] {
    return read_file(log).find("PCAPV3_FANOUT=7:lb: group 7 on near0 has members of another") !=
           std::string::npos;
  });
  CHECK(packets.empty(), "%zu packets without a group", packets.size());
  other.reset();
  ip("link delete near0");
  make_pair();
  read_until([&] { return !packets.empty(); });
  unlink(log.c_str());
}

void setting_too_much() {
  // Refused before the kernel is asked: it would end other processes for want of memory.
  check_refused("PCAPV3_BUFFER", {"100T", "255T"});
}

// Nor where the kernel's file about memory is not to be had.
void setting_too_much_without_proc() {
  CHECK(unshare(CLONE_NEWNS) == 0 &&
            mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
            umount2("/proc", MNT_DETACH) == 0,
        "%s", std::strerror(errno));
  const Handle handle = create();
  setenv("PCAPV3_BUFFER", "100T", 1);
  const int status = pcap_activate(handle.get());
  CHECK(status == PCAP_ERROR, "status %d", status);
  CHECK(std::strstr(pcap_geterr(handle.get()), "half of the free memory") != nullptr, "%s",
        pcap_geterr(handle.get()));
}

constexpr Test kTests[] = {
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
    {"down and up in mid-capture", down_and_up},
    {"down and up in mid-capture, non-blocking", down_and_up_nonblock},
    {"the interface disappears", disappears},
    {"the interface disappears, non-blocking", disappears_nonblock},
    {"any goes on when an interface disappears", any_outlives_an_interface},
};

constexpr Test kSettings[] = {
    {"PCAPV3 that can't be used", setting_switch},
    {"PCAPV3_BUFFER that can't be used", setting_buffer},
    {"PCAPV3_BUFFER that memory can't hold", setting_too_much},
    {"PCAPV3_BUFFER that memory can't hold, without /proc", setting_too_much_without_proc},
    {"PCAPV3_BLOCK that can't be used", setting_block},
    {"PCAPV3_RETIRE that can't be used", setting_retire},
    {"PCAPV3_STATS that can't be written", setting_stats},
    {"PCAPV3_DEBUG that can't be written", setting_debug},
    {"a setting that there is not, and service links", setting_unknown},
    {"devices are listed whatever is set", setting_and_devices},
    {"settings whose memory is unmapped", setting_unmapped},
};

const Registration kRegistration(
    {.name = "bad_input", .tests = kTests, .modes = "ours off distribution", .reports = true});
const Registration kSettingsRegistration({.name = "settings", .tests = kSettings});

}  // namespace
}  // namespace pcapv3::live
