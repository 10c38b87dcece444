// SPDX-License-Identifier: BSD-3-Clause
#include "setup/settings.h"

#include <errno.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string_view>

namespace pcapv3 {
namespace {

constexpr char kPrefix[] = "PCAPV3_";
constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 48;
constexpr std::uint32_t kMaxMs = 60'000;

bool equal(const char* a, const char* b) { return std::strcmp(a, b) == 0; }

/// Reads a whole number of bytes above zero, which can end in K, M, G or T (powers of 1024).
bool parse_bytes(const char* name, const char* value, ByteSetting& setting, ErrorText& error) {
  constexpr char kUnits[] = "KMGT";
  char* end = nullptr;
  errno = 0;
  const unsigned long long number = std::strtoull(value, &end, 10);
  unsigned shift = 0;
  if (*end != '\0') {
    const char* unit = std::strchr(kUnits, *end);
    if (unit != nullptr) {
      shift = 10 * static_cast<unsigned>(unit - kUnits + 1);
      ++end;
    }
  }
  // strtoull accepts a sign and spaces; a number of bytes has neither.
  if (*value < '0' || *value > '9' || *end != '\0' || errno != 0 || number == 0 ||
      number > (kMaxBytes >> shift)) {
    return error.set("%s=%s: a number of bytes is wanted, such as 64M or 65536", name, value);
  }
  setting.bytes = std::uint64_t{number} << shift;
  std::snprintf(setting.text, sizeof(setting.text), "%s", value);
  return true;
}

bool parse_ms(const char* name, const char* value, std::uint32_t& ms, ErrorText& error) {
  char* end = nullptr;
  errno = 0;
  const unsigned long number = std::strtoul(value, &end, 10);
  if (*value < '0' || *value > '9' || *end != '\0' || errno != 0 || number == 0 ||
      number > kMaxMs) {
    return error.set("%s=%s: a number of milliseconds is wanted, from 1 to %u", name, value,
                     kMaxMs);
  }
  ms = static_cast<std::uint32_t>(number);
  return true;
}

bool is_one_of(const char* value, std::initializer_list<const char*> words) {
  for (const char* word : words) {
    if (equal(value, word)) return true;
  }
  return false;
}

bool means_on(const char* value) { return is_one_of(value, {"on", "1", "yes", "true"}); }
bool means_off(const char* value) { return is_one_of(value, {"off", "0", "no", "false"}); }

bool parse_on_off(const char* name, const char* value, bool& on, ErrorText& error) {
  on = means_on(value);
  return on || means_off(value) || error.set("%s=%s: on or off is wanted", name, value);
}

bool parse_immediate(const char* name, const char* value, Settings::Immediate& immediate,
                     ErrorText& error) {
  if (equal(value, "adaptive")) {
    immediate = Settings::Immediate::kAdaptive;
  } else if (equal(value, "v3")) {
    immediate = Settings::Immediate::kV3;
  } else if (equal(value, "v2")) {
    immediate = Settings::Immediate::kV2;
  } else {
    return error.set("%s=%s: adaptive, v3 or v2 is wanted", name, value);
  }
  return true;
}

constexpr const char* kNames[] = {
    "PCAPV3",        "PCAPV3_BUFFER", "PCAPV3_BLOCK",    "PCAPV3_RETIRE",
    "PCAPV3_WINDOW", "PCAPV3_PORTS",  "PCAPV3_FANOUT",   "PCAPV3_IMMEDIATE",
    "PCAPV3_DRAIN",  "PCAPV3_STATS",  "PCAPV3_BLOCKING", "PCAPV3_DEBUG",
};

/// Returns the value in the entry "NAME=VALUE", or null if the entry has another name.
const char* value_in(const char* entry, const char* name) {
  const std::size_t length = std::strlen(name);
  return std::strncmp(entry, name, length) == 0 && entry[length] == '=' ? entry + length + 1
                                                                        : nullptr;
}

bool is_known(const char* entry) {
  for (const char* name : kNames) {
    if (value_in(entry, name) != nullptr) return true;
  }
  return false;
}

/// Returns whether `name` begins with `start`, and if so removes it from `name`.
bool take_off(std::string_view& name, std::string_view start) {
  if (!name.starts_with(start)) return false;
  name.remove_prefix(start.size());
  return true;
}

/// Returns whether `name`, from which the service's name was removed, is one of those that say
/// where a service is: SERVICE_HOST, SERVICE_PORT, SERVICE_PORT_HTTP, PORT, PORT_80_TCP,
/// PORT_80_TCP_ADDR.
bool names_place(std::string_view name, const char* value) {
  if (name == "SERVICE_HOST" || name == "SERVICE_PORT") return true;
  if (take_off(name, "SERVICE_PORT_")) return !name.empty();
  // This is one letter from PCAPV3_PORTS: a value that is no address is rather that, misspelt.
  if (name == "PORT") return std::strstr(value, "://") != nullptr;
  if (!take_off(name, "PORT_")) return false;
  std::size_t digits = 0;
  while (digits < name.size() && name[digits] >= '0' && name[digits] <= '9') ++digits;
  name.remove_prefix(digits);
  if (digits == 0 ||
      !(take_off(name, "_TCP") || take_off(name, "_UDP") || take_off(name, "_SCTP"))) {
    return false;
  }
  return name.empty() || name == "_PROTO" || name == "_PORT" || name == "_ADDR" ||
         name == "_START" || name == "_END" || name == "_PORT_START" || name == "_PORT_END";
}

/// Returns whether a variable, by its name behind PCAPV3_, is one that a container platform sets
/// for a service called "pcapv3" or a name that begins so. Kubernetes sets them for every service
/// in the namespace (pkg/kubelet/envvars/envvars.go: FromServices), Docker for linked containers
/// (daemon/links/links.go: ToEnv).
bool is_service_link(std::string_view name, const char* value) {
  if (name == "NAME" || name.starts_with("ENV_")) return true;
  for (;;) {
    if (names_place(name, value)) return true;
    const std::size_t end = name.find('_');
    if (end == std::string_view::npos) return false;
    name.remove_prefix(end + 1);
  }
}

bool hides_descriptor(const char* blocking, const char* program) {
  // Wireshark's capture program (dumpcap.c: capture_loop_dispatch) calls select() and then asks for
  // one packet, each time.
  if (blocking == nullptr) return equal(program, "dumpcap");
  if (means_off(blocking)) return false;
  const std::size_t length = std::strlen(program);
  for (const char* name = blocking;; ++name) {
    const std::size_t bytes = std::strcspn(name, ",");
    if (bytes == length && std::strncmp(name, program, bytes) == 0) return true;
    name += bytes;
    if (*name == '\0') return equal(program, "dumpcap");
  }
}

}  // namespace

const char* find_setting(const char* const* environment, const char* name) {
  for (; *environment != nullptr; ++environment) {
    const char* value = value_in(*environment, name);
    if (value != nullptr && *value != '\0') return value;
  }
  return nullptr;
}

bool Settings::read(const char* const* environment, const char* program, ErrorText& error) {
  const auto parse = [&](const char* name, auto parser, auto& setting) {
    const char* value = find_setting(environment, name);
    return value == nullptr || parser(name, value, setting, error);
  };
  const auto parse_group = [](const char*, const char* value, FanoutSetting& setting,
                              ErrorText& text) { return parse_fanout(value, setting, text); };
  bool on = true;
  hides_descriptor =
      pcapv3::hides_descriptor(find_setting(environment, "PCAPV3_BLOCKING"), program);
  return parse("PCAPV3", parse_on_off, on) && parse("PCAPV3_BUFFER", parse_bytes, buffer) &&
         parse("PCAPV3_BLOCK", parse_bytes, block) && parse("PCAPV3_RETIRE", parse_ms, retire_ms) &&
         parse("PCAPV3_WINDOW", parse_ms, window_ms) &&
         parse("PCAPV3_FANOUT", parse_group, fanout) &&
         parse("PCAPV3_IMMEDIATE", parse_immediate, immediate) &&
         parse("PCAPV3_DRAIN", parse_on_off, drain);
}

const char* next_unknown(const char* const*& environment) {
  while (*environment != nullptr) {
    const char* entry = *environment++;
    const char* name = entry + sizeof(kPrefix) - 1;
    if (std::strncmp(entry, kPrefix, sizeof(kPrefix) - 1) != 0 || is_known(entry)) continue;
    const char* value = std::strchr(name, '=');
    if (value == nullptr || value[1] == '\0') continue;
    if (!is_service_link({name, static_cast<std::size_t>(value - name)}, value + 1)) return entry;
  }
  return nullptr;
}

bool switched_off() {
  const char* value = find_setting(trusted_environment(), "PCAPV3");
  return value != nullptr && means_off(value);
}

const char* const* trusted_environment() {
  static constexpr const char* kNothing[] = {nullptr};
  return getauxval(AT_SECURE) != 0 || environ == nullptr ? kNothing : environ;
}

}  // namespace pcapv3
