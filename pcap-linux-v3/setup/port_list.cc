// SPDX-License-Identifier: BSD-3-Clause
#include "setup/port_list.h"

#include <net/if.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "setup/settings.h"

namespace pcapv3 {
namespace {

static_assert(PCAPV3_NAME_BYTES == IF_NAMESIZE);

__attribute__((format(printf, 2, 3))) bool refuse(char* error, const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::vsnprintf(error, PCAP_ERRBUF_SIZE, format, args);
  va_end(args);
  return false;
}

}  // namespace

bool read_port_names(const char* list, pcapv3_port_names& names, char* error) {
  names.count = 0;
  for (const char* at = list;; ++at) {
    const std::size_t bytes = std::strcspn(at, ",");
    const auto shown = static_cast<int>(bytes);
    if (bytes == 0) return refuse(error, "there is an empty name in the list of ports");
    if (bytes >= IF_NAMESIZE) {
      return refuse(error, "%.*s: an interface's name has %d bytes at most", shown, at,
                    IF_NAMESIZE - 1);
    }
    if (names.count == PCAPV3_MAX_PORTS) {
      return refuse(error, "%.*s: a list has %d ports at most", shown, at, PCAPV3_MAX_PORTS);
    }
    char* name = names.names[names.count];
    std::memcpy(name, at, bytes);
    name[bytes] = '\0';
    if (std::strcmp(name, "any") == 0) {
      return refuse(error, "any: it takes in all ports by itself and can't be one of a list");
    }
    for (unsigned i = 0; i < names.count; ++i) {
      if (std::strcmp(names.names[i], name) == 0) {
        return refuse(error, "%s: it is in the list of ports twice", name);
      }
    }
    ++names.count;
    at += bytes;
    if (*at == '\0') break;
  }
  return names.count >= 2 || refuse(error, "%s: a list has two ports at least", list);
}

int find_listed(unsigned number, pcapv3_port_names& names, char* list, std::size_t room,
                char* error) {
  const char* at = find_setting(trusted_environment(), "PCAPV3_PORTS");
  for (; at != nullptr && number > 0; --number) {
    at = std::strchr(at, ';');
    if (at != nullptr) ++at;
  }
  if (at == nullptr || *at == '\0') return 0;
  const std::size_t bytes = std::strcspn(at, ";");
  char why[PCAP_ERRBUF_SIZE];
  if (bytes >= room) {
    refuse(error, "PCAPV3_PORTS: %.40s...: the list is too long", at);
    return -1;
  }
  std::memcpy(list, at, bytes);
  list[bytes] = '\0';
  if (!read_port_names(list, names, why)) {
    refuse(error, "PCAPV3_PORTS: %.*s", PCAP_ERRBUF_SIZE - 32, why);
    return -1;
  }
  return 1;
}

}  // namespace pcapv3
