#include "settings.h"

#include <errno.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace pcapv3 {
namespace {

constexpr char kPrefix[] = "PCAPV3";
constexpr std::size_t kPrefixLength = sizeof(kPrefix) - 1;
constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 48;
constexpr std::uint32_t kMaxMs = 60'000;

bool equal(const char* a, const char* b) { return std::strcmp(a, b) == 0; }

/// A whole number of bytes above zero, with K, M, G or T (powers of 1024) behind it or not.
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
  // strtoull takes a sign and spaces; a number of bytes has neither.
  if (*value < '0' || *value > '9' || *end != '\0' || errno != 0 || number == 0 ||
      number > (kMaxBytes >> shift)) {
    return error.set("%s=%s: a number of bytes is wanted, such as 64M or 65536", name, value);
  }
  setting.bytes = std::uint64_t{number} << shift;
  setting.text = value;
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

bool parse_on_off(const char* name, const char* value, bool& on, ErrorText& error) {
  if (!equal(value, "on") && !equal(value, "off")) {
    return error.set("%s=%s: on or off is wanted", name, value);
  }
  on = equal(value, "on");
  return true;
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

}  // namespace

bool Settings::read(const char* const* environment, ErrorText& error) {
  for (; *environment != nullptr; ++environment) {
    const char* entry = *environment;
    if (std::strncmp(entry, kPrefix, kPrefixLength) != 0) continue;
    const char* value = std::strchr(entry, '=');
    char name[32];
    if (value == nullptr) continue;
    const auto length = static_cast<std::size_t>(value - entry);
    if (length > kPrefixLength && entry[kPrefixLength] != '_') continue;  // somebody else's name
    std::snprintf(name, sizeof(name), "%.*s", static_cast<int>(length), entry);
    if (*++value == '\0') continue;  // set to nothing is as good as not set

    bool ok = true;
    bool on = true;
    if (equal(name, "PCAPV3")) {
      ok = parse_on_off(name, value, on, error);
    } else if (equal(name, "PCAPV3_BUFFER")) {
      ok = parse_bytes(name, value, buffer, error);
    } else if (equal(name, "PCAPV3_BLOCK")) {
      ok = parse_bytes(name, value, block, error);
    } else if (equal(name, "PCAPV3_RETIRE")) {
      ok = parse_ms(name, value, retire_ms, error);
    } else if (equal(name, "PCAPV3_WINDOW")) {
      ok = parse_ms(name, value, window_ms, error);
    } else if (equal(name, "PCAPV3_PORTS")) {
      ports = value;
    } else if (equal(name, "PCAPV3_FANOUT")) {
      ok = parse_fanout(value, fanout, error);
    } else if (equal(name, "PCAPV3_IMMEDIATE")) {
      ok = parse_immediate(name, value, immediate, error);
    } else if (equal(name, "PCAPV3_DRAIN")) {
      ok = parse_on_off(name, value, drain, error);
    } else if (equal(name, "PCAPV3_BLOCKING")) {
      blocking = value;
    } else if (equal(name, "PCAPV3_STATS")) {
      stats = value;
    } else if (equal(name, "PCAPV3_DEBUG")) {
      debug = value;
    } else {
      ok = error.set("%s=%s: there is no such setting; see pcap-linux-v3(7)", name, value);
    }
    if (!ok) return false;
  }
  return true;
}

bool Settings::hides_descriptor_from(const char* program) const {
  // Wireshark's capture program (dumpcap.c: capture_loop_dispatch) calls select() and then asks for
  // one packet, each time.
  if (blocking == nullptr || *blocking == '\0') return equal(program, "dumpcap");
  if (equal(blocking, "off")) return false;
  const std::size_t length = std::strlen(program);
  for (const char* name = blocking;; ++name) {
    const std::size_t bytes = std::strcspn(name, ",");
    if (bytes == length && std::strncmp(name, program, bytes) == 0) return true;
    name += bytes;
    if (*name == '\0') return equal(program, "dumpcap");
  }
}

bool switched_off() {
  const char* value = secure_getenv("PCAPV3");
  return value != nullptr && equal(value, "off");
}

const char* const* trusted_environment() {
  static constexpr const char* kNothing[] = {nullptr};
  return getauxval(AT_SECURE) != 0 || environ == nullptr ? kNothing : environ;
}

}  // namespace pcapv3
