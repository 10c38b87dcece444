// SPDX-License-Identifier: BSD-3-Clause
// Settings that can't be used, that there are not, and that are gone later.
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>

#include <fstream>
#include <initializer_list>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "capture.h"
#include "near.h"

namespace pcapv3::live {
namespace {

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

const Test kTests[] = {
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
const Registration kRegistration({.name = "settings", .tests = kTests});

}  // namespace
}  // namespace pcapv3::live
