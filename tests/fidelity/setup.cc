// SPDX-License-Identifier: BSD-3-Clause
// Scenarios: opening a handle and what it says of itself: setters, getters, link types, time-stamp
// types and precisions, direction, and the errors of all of them.
#include <sys/resource.h>
#include <sys/wait.h>

#include "record.h"

namespace pcapv3::fidelity {
namespace {

void version() { note("version", "%s", pcap_lib_version()); }

// Getters.

void note_datalinks(const char* name, pcap_t* p) {
  int* list = nullptr;
  const int count = pcap_list_datalinks(p, &list);
  if (count < 0) {
    note_status(name, count, p);
    return;
  }
  std::string text;
  for (int i = 0; i < count; ++i) text += " " + std::to_string(list[i]);
  note(name, "%d:%s", count, text.c_str());
  pcap_free_datalinks(list);
}

void note_stamp_types(const char* name, pcap_t* p) {
  int* list = nullptr;
  const int count = pcap_list_tstamp_types(p, &list);
  if (count < 0) {
    note_status(name, count, p);
    return;
  }
  std::string text;
  for (int i = 0; i < count; ++i) text += " " + std::to_string(list[i]);
  note(name, "%d:%s", count, text.c_str());
  pcap_free_tstamp_types(list);
}

/// All that a handle tells without being read from. Which number a descriptor has is nobody's
/// business, but which of them are the same is.
void note_getters(pcap_t* p) {
  char error[PCAP_ERRBUF_SIZE] = "";
  note("error text", "\"%s\"", pcap_geterr(p));
  note("snapshot length", "%d", pcap_snapshot(p));
  note("link type", "%d, %d", pcap_datalink(p), pcap_datalink_ext(p));
  note_datalinks("link types", p);
  note_stamp_types("time-stamp types", p);
  note("precision", "%d", pcap_get_tstamp_precision(p));
  note("monitor mode", "%d", pcap_can_set_rfmon(p));
  note("buffer", "%d", pcap_bufsize(p));
  note("swapped", "%d", pcap_is_swapped(p));
  note("file version", "%d.%d", pcap_major_version(p), pcap_minor_version(p));
  note("file", "%d", pcap_file(p) != nullptr);
  const int fd = pcap_fileno(p);
  const int selectable = pcap_get_selectable_fd(p);
  note("descriptors", "%s, %s", fd >= 0 ? "one" : std::to_string(fd).c_str(),
       selectable == fd ? "the same" : std::to_string(selectable).c_str());
  const timeval* required = pcap_get_required_select_timeout(p);
  note("required time-out", "%ld us",
       required == nullptr ? -1L : required->tv_sec * 1'000'000L + required->tv_usec);
  const int nonblock = pcap_getnonblock(p, error);
  note("non-blocking", "%d \"%s\"", nonblock, error);
  pcap_stat stats = {};
  note_status("counts", pcap_stats(p, &stats), p);
}

void getters() {
  for (const char* device : {"see0", "lo", "any"}) {
    const Handle handle = create({.device = device});
    note("created", "%s", device);
    note_getters(handle.get());
    note_status("activated", pcap_activate(handle.get()), handle.get());
    note_getters(handle.get());
  }
}

// Opening.

void open_live() {
  const struct {
    const char* device;
    int snaplen;
    int promiscuous;
    int timeout_ms;
  } cases[] = {
      {"see0", 1000, 1, 10},     {"see0", 0, 0, 0},     {"see0", -1, 1, -1},
      {"see0", 300000, 0, 1000}, {"lo", 65535, 1, 100}, {nullptr, 262144, 1, 10},
      {"any", 68, 0, 10},
  };
  for (const auto& test : cases) {
    char error[PCAP_ERRBUF_SIZE] = "";
    const Handle handle(
        pcap_open_live(test.device, test.snaplen, test.promiscuous, test.timeout_ms, error));
    note("device", "%s", test.device == nullptr ? "none" : test.device);
    note("open", "%d \"%s\"", handle != nullptr, error);
    note_getters(handle.get());
  }
  char error[PCAP_ERRBUF_SIZE] = "";
  const Handle handle(pcap_open_live("see0", 1000, 1, 10, error));
  peer().send(0, 10);
  note_packets("frames", handle.get(), take_until(handle.get(), 9));
}

void bad_devices() {
  const char* const names[] = {"nothing0",
                               "",
                               "see0 ",
                               "see",
                               "see00",
                               "SEE0",
                               "a/b",
                               "any0",
                               "Any",
                               "12345678901234",
                               "123456789012345",
                               "1234567890123456",
                               "see0:1",
                               "-",
                               "%s%n",
                               "see0\n",
                               "\xc3\xa9",
                               "-1",
                               "1",
                               "/dev/null",
                               ".."};
  for (const char* name : names) {
    note("device", "'%s'", name);
    char error[PCAP_ERRBUF_SIZE] = "";
    const Handle live(pcap_open_live(name, 1000, 0, 10, error));
    note("open", "%d \"%s\"", live != nullptr, error);
    error[0] = '\0';
    const Handle handle(pcap_create(name, error));
    note("create", "%d \"%s\"", handle != nullptr, error);
    if (handle == nullptr) continue;
    note_status("activate", pcap_activate(handle.get()), handle.get());
    note_getters(handle.get());
  }
}

void promiscuous_any() {
  const Handle handle = create({.device = "any"});
  note("promiscuous", "%d", pcap_set_promisc(handle.get(), 1));
  note_status("activate", pcap_activate(handle.get()), handle.get());
  peer().send(0, 3);
  note_packets("frames", handle.get(), take_until(handle.get(), 2));
}

void monitor_mode() {
  for (const char* device : {"see0", "lo", "any"}) {
    const Handle handle = create({.device = device});
    note(device, "%d, %d", pcap_can_set_rfmon(handle.get()), pcap_set_rfmon(handle.get(), 1));
    note_status("activate", pcap_activate(handle.get()), handle.get());
  }
}

// Setters.

/// Every setter with a value that another handle could want. Only return codes: no setter but those
/// of time stamps writes an error text.
void note_setters(pcap_t* p) {
  for (const int value : {-1, 0, 1, 65535, 262144, 300000, 2000}) {
    note("snapshot length", "%d: %d", value, pcap_set_snaplen(p, value));
  }
  for (const int value : {-1, 0, 2, 1})
    note("promiscuous", "%d: %d", value, pcap_set_promisc(p, value));
  for (const int value : {1, 0}) note("monitor mode", "%d: %d", value, pcap_set_rfmon(p, value));
  for (const int value : {-1, 0, 5000, 10}) {
    note("time-out", "%d: %d", value, pcap_set_timeout(p, value));
  }
  for (const int value : {-1, 1, 0}) {
    note("immediate mode", "%d: %d", value, pcap_set_immediate_mode(p, value));
  }
  for (const int value : {0, 1, 8 << 20, -1}) {
    note("buffer size", "%d: %d", value, pcap_set_buffer_size(p, value));
  }
  for (const int value : {-1, 0, 1, 2, 3, 4, 5, 6, 99}) {
    note("time-stamp type", "%d: %d", value, pcap_set_tstamp_type(p, value));
  }
  for (const int value : {-1, 1, 2, 99, 0}) {
    note("precision", "%d: %d", value, pcap_set_tstamp_precision(p, value));
    note("precision", "%d", pcap_get_tstamp_precision(p));
  }
  for (const int value : {0x0800, 0})
    note("protocol", "%#x: %d", static_cast<unsigned>(value), pcap_set_protocol_linux(p, value));
  note("error text", "\"%s\"", pcap_geterr(p));
}

void setters() {
  for (const char* device : {"see0", "lo", "any"}) {
    const Handle handle = create({.device = device});
    note("created", "%s", device);
    note_setters(handle.get());
    note_status("activated", pcap_activate(handle.get()), handle.get());
    note_getters(handle.get());
    note_setters(handle.get());
    note_getters(handle.get());
  }
}

void odd_options() {
  const Options cases[] = {
      {.snaplen = 0},
      {.snaplen = -1},
      {.snaplen = 300000},
      {.snaplen = 1},
      {.timeout_ms = -1},
      {.timeout_ms = 0},
      {.immediate = true},
      {.buffer_bytes = 1},
      {.buffer_bytes = 4096},
      {.buffer_bytes = -1},
      {.device = "any", .snaplen = 1},
      {.snaplen = 100, .timeout_ms = 1, .immediate = true, .buffer_bytes = 100000},
  };
  const Sender sender = peer();
  for (const Options& options : cases) {
    const Handle handle = create(options);
    note("options", "device %s, snapshot length %d, time-out %d, immediate %d, buffer %d",
         options.device, options.snaplen, options.timeout_ms, options.immediate,
         options.buffer_bytes);
    const int status = pcap_activate(handle.get());
    note_status("activate", status, handle.get());
    if (status < 0) continue;
    note("snapshot length", "%d", pcap_snapshot(handle.get()));
    note(options.immediate ? "buffer in immediate mode" : "buffer", "%d",
         pcap_bufsize(handle.get()));
    // Without a time-out, a block has to be full (stock code has no timer then).
    if (options.timeout_ms > 0 || options.immediate) {
      sender.send(0, 2);
      note_packets("frames", handle.get(), take_count(handle.get(), 2));
    }
  }
}

void protocol() {
  // pcap_set_protocol_linux(3PCAP): only frames of this type come; 0x88b5 is that of ours.
  const Watch watch;
  const Sender sender = peer();
  for (const int type : {0x88b5, 0x0800}) {
    const Handle handle = create();
    note("protocol", "%#x: %d", static_cast<unsigned>(type),
         pcap_set_protocol_linux(handle.get(), type));
    note_status("activate", pcap_activate(handle.get()), handle.get());
    sender.send(0, 5);
    watch.until(4);
    note_stats("counts", handle.get());
    if (type == kEtherType) note_packets("frames", handle.get(), take_until(handle.get(), 4));
  }
}

// Functions at the wrong time.

void before_activation() {
  const Handle handle = create();
  pcap_t* p = handle.get();
  pcap_pkthdr copy;
  pcap_pkthdr* header = nullptr;
  const u_char* data = nullptr;
  Packets packets;
  char error[PCAP_ERRBUF_SIZE] = "";
  const Bytes bytes = bytes_of({});
  const auto size = static_cast<int>(bytes.size());
  note_status("dispatch", pcap_dispatch(p, -1, keep, user(packets)), p);
  note_status("loop", pcap_loop(p, -1, keep, user(packets)), p);
  note("next", "%d \"%s\"", pcap_next(p, &copy) != nullptr, pcap_geterr(p));
  note_status("next_ex", pcap_next_ex(p, &header, &data), p);
  note_status("inject", pcap_inject(p, bytes.data(), bytes.size()), p);
  note_status("sendpacket", pcap_sendpacket(p, bytes.data(), size), p);
  bpf_program program = {};
  note_status("compile", pcap_compile(p, &program, "ip", 1, 0), p);
  bpf_insn accept = BPF_STMT(BPF_RET | BPF_K, 262144);
  program = {.bf_len = 1, .bf_insns = &accept};
  note_status("setfilter", pcap_setfilter(p, &program), p);
  note_status("setdirection", pcap_setdirection(p, PCAP_D_IN), p);
  note_status("set_datalink", pcap_set_datalink(p, DLT_EN10MB), p);
  note_status("setnonblock", pcap_setnonblock(p, 1, error), error);
  note_status("getnonblock", pcap_getnonblock(p, error), error);
  note_stats("stats", p);
  pcap_breakloop(p);
  note_getters(p);
  note("packets", "%zu", packets.size());
  // What was set before holds, what was refused does not.
  note_status("activate", pcap_activate(p), p);
  note_getters(p);
  note_status("dispatch after pcap_breakloop", pcap_dispatch(p, -1, keep, user(packets)), p);
  note_status("dispatch", pcap_dispatch(p, -1, keep, user(packets)), p);
}

void closed_unactivated() {
  const std::size_t before = count_descriptors();
  for (const char* device : {"see0", "any", "nothing0"}) {
    const Handle handle = create({.device = device});
    note("created", "%s", device);
  }
  note("descriptors left", "%zu", count_descriptors() - before);
}

void activate_twice() {
  for (const char* device : {"see0", "any"}) {
    const Handle handle = create({.device = device});
    const Sender sender = peer();
    note_status("first", pcap_activate(handle.get()), handle.get());
    sender.send(0, 3);
    note_status("second", pcap_activate(handle.get()), handle.get());
    sender.send(3, 3);
    note_packets("frames", handle.get(), take_until(handle.get(), 5));
    note_getters(handle.get());
  }
  char error[PCAP_ERRBUF_SIZE] = "";
  const Handle handle(pcap_open_live("see0", 1000, 1, 10, error));
  note_status("after pcap_open_live", pcap_activate(handle.get()), handle.get());
}

void activate_after_failure() {
  // In a process of its own: libpcap 1.10 reads the name that it has freed.
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    const rlimit no_core = {};
    setrlimit(RLIMIT_CORE, &no_core);
    {
      const Handle handle = create({.device = "nothing0"});
      note_status("first", pcap_activate(handle.get()), handle.get());
      note_status("second", pcap_activate(handle.get()), handle.get());
    }
    std::fflush(stdout);
    _exit(EXIT_SUCCESS);
  }
  int status = 0;
  CHECK(child > 0 && waitpid(child, &status, 0) == child, "%s", std::strerror(errno));
  note("ended", "%s", WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "by itself");
}

// Link types.

void link_types() {
  const Sender sender = peer();
  const Sender loop("lo");
  for (const char* device : {"see0", "lo", "any"}) {
    const Handle handle = open_capture({.device = device});
    pcap_t* p = handle.get();
    note("device", "%s", device);
    for (const int type : {DLT_EN10MB, DLT_DOCSIS, DLT_LINUX_SLL, DLT_LINUX_SLL2, DLT_RAW, DLT_NULL,
                           DLT_USER0, -1, 9999, DLT_LINUX_SLL, DLT_DOCSIS, DLT_EN10MB}) {
      note("set", "%d", type);
      note_status("set", pcap_set_datalink(p, type), p);
      note_datalinks("link types", p);
      note("link type", "%d, %d", pcap_datalink(p), pcap_datalink_ext(p));
      (std::string_view(device) == "lo" ? loop : sender).send(0, 2);
      note_packets("frames", p, take_count(p, 2));
    }
  }
}

// Time stamps.

void stamp_types() {
  const Sender sender = peer();
  const Sender loop("lo");
  for (const char* device : {"see0", "lo", "any"}) {
    note("device", "%s", device);
    for (int type = -1; type <= 6; ++type) {
      const Handle handle = create({.device = device});
      pcap_t* p = handle.get();
      note_stamp_types("types", p);
      note("set", "%d: %d \"%s\"", type, pcap_set_tstamp_type(p, type), pcap_geterr(p));
      const int status = pcap_activate(p);
      note_status("activate", status, p);
      if (status < 0) continue;
      (std::string_view(device) == "lo" ? loop : sender).send(0, 5);
      note_packets("frames", p, take_until(p, 4));
    }
  }
  for (int type = -1; type <= 6; ++type) {
    const char* name = pcap_tstamp_type_val_to_name(type);
    const char* description = pcap_tstamp_type_val_to_description(type);
    note("type", "%d: %s, %s", type, name == nullptr ? "-" : name,
         description == nullptr ? "-" : description);
  }
}

void precisions() {
  const Sender sender = peer();
  for (const char* device : {"see0", "any"}) {
    for (const int precision : {PCAP_TSTAMP_PRECISION_MICRO, PCAP_TSTAMP_PRECISION_NANO}) {
      for (const bool immediate : {false, true}) {
        const Handle handle = create(
            {.device = device, .snaplen = 2000, .immediate = immediate, .precision = precision});
        pcap_t* p = handle.get();
        note("asked", "%d", precision);
        note_status("activate", pcap_activate(p), p);
        note("precision", "%d", pcap_get_tstamp_precision(p));
        sender.send(0, 50);
        const Packets packets = take_until(p, 49);
        note("frames", "%zu", packets.size());
        note_time_stamps("frames", packets, precision);
        sender.send(50, 1);
        pcap_pkthdr* header = nullptr;
        const u_char* data = nullptr;
        while (pcap_next_ex(p, &header, &data) == 0) {
        }
        note_time_stamps("next_ex", {Packet(*header, data)}, precision);
      }
    }
  }
}

// Direction.

/// A frame each way, each number in its turn.
void send_both_ways(const char* device, std::uint32_t first) {
  if (std::string_view(device) == "lo") {
    const Watch watch("lo");
    Sender("lo").send(first, 4);
    watch.until(first + 3);
    return;
  }
  const Watch watch;
  const Sender in = peer();
  const Sender out = local();
  for (std::uint32_t i = 0; i < 4; i += 2) {
    in.send(first + i, 1);
    watch.until(first + i);
    out.send(first + i + 1, 1);
    watch.until(first + i + 1);
  }
}

void directions() {
  for (const char* device : {"see0", "lo", "any"}) {
    for (const pcap_direction_t direction : {PCAP_D_IN, PCAP_D_OUT, PCAP_D_INOUT}) {
      const Handle handle = open_capture({.device = device});
      pcap_t* p = handle.get();
      note("device", "%s, direction %d", device, direction);
      note_status("set", pcap_setdirection(p, direction), p);
      send_both_ways(device, 0);
      note_packets("frames", p, take_rest(p));
    }
  }
}

void direction_after_arrival() {
  for (const char* device : {"see0", "lo", "any"}) {
    for (const pcap_direction_t direction : {PCAP_D_IN, PCAP_D_OUT, PCAP_D_INOUT}) {
      const Handle handle = open_capture({.device = device});
      pcap_t* p = handle.get();
      note("device", "%s, direction %d", device, direction);
      send_both_ways(device, 0);
      note_status("set", pcap_setdirection(p, direction), p);
      send_both_ways(device, 10);
      note_numbers("frames", p, take_rest(p));
      note_status("set back", pcap_setdirection(p, PCAP_D_INOUT), p);
      send_both_ways(device, 20);
      note_numbers("frames", p, take_rest(p));
    }
  }
}

void bad_directions() {
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  for (const int value : {-1, 3, 99}) {
    note("direction", "%d", value);
    note_status("set", pcap_setdirection(p, static_cast<pcap_direction_t>(value)), p);
  }
  send_both_ways("see0", 0);
  note_packets("frames", p, take_rest(p));
}

void direction_counts() {
  for (const char* device : {"see0", "lo"}) {
    for (const pcap_direction_t direction : {PCAP_D_IN, PCAP_D_OUT, PCAP_D_INOUT}) {
      const Handle handle = open_capture({.device = device});
      CHECK(pcap_setdirection(handle.get(), direction) == 0, "%s", pcap_geterr(handle.get()));
      send_both_ways(device, 0);
      char name[32];
      std::snprintf(name, sizeof(name), "%s, direction %d", device, direction);
      note_stats(name, handle.get());
    }
  }
}

constexpr Scenario kTable[] = {
    {"version", on_one_cpu<version>},
    {"getters", on_one_cpu<getters>},
    {"open-live", on_one_cpu<open_live>},
    {"bad-devices", on_one_cpu<bad_devices>},
    {"promiscuous-any", on_one_cpu<promiscuous_any>},
    {"monitor-mode", on_one_cpu<monitor_mode>},
    {"setters", on_one_cpu<setters>},
    {"odd-options", on_one_cpu<odd_options>},
    {"protocol", on_one_cpu<protocol>},
    {"before-activation", on_one_cpu<before_activation>},
    {"closed-unactivated", on_one_cpu<closed_unactivated>},
    {"activate-twice", on_one_cpu<activate_twice>},
    {"activate-after-failure", on_one_cpu<activate_after_failure>},
    {"link-types", on_one_cpu<link_types>},
    {"stamp-types", on_one_cpu<stamp_types>},
    {"precisions", on_one_cpu<precisions>},
    {"directions", on_one_cpu<directions>},
    {"direction-after-arrival", on_one_cpu<direction_after_arrival>, 60},
    {"bad-directions", on_one_cpu<bad_directions>},
    {"direction-counts", on_one_cpu<direction_counts>},
};

}  // namespace

extern const std::span<const Scenario> kSetupScenarios(kTable);

}  // namespace pcapv3::fidelity
