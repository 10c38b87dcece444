// SPDX-License-Identifier: BSD-3-Clause
#include "growth/ring_budget.h"

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>

#include "setup/host.h"

namespace pcapv3 {
namespace {

constexpr std::uint64_t kNoLimit = MemoryLimits::kNoLimit;

std::atomic<std::uint64_t> reserved{0};

std::uint64_t left(std::uint64_t limit, std::uint64_t used) {
  if (limit == kNoLimit) return kNoLimit;
  return limit > used ? limit - used : 0;
}

/// Reads a file that holds one number, or "max". Returns false if there is none.
bool read_number(const char* path, std::uint64_t& number) {
  std::FILE* const file = std::fopen(path, "re");
  if (file == nullptr) return false;
  unsigned long long value = 0;
  const bool ok = std::fscanf(file, "%llu", &value) == 1;
  std::fclose(file);
  if (ok) number = value;
  return ok;
}

/// Returns what is left in the process's cgroup, or in one above it. (cgroups(7); version 2 only.)
std::uint64_t cgroup_left() {
  std::FILE* const file = std::fopen("/proc/self/cgroup", "re");
  if (file == nullptr) return kNoLimit;
  char line[512];
  char path[700] = "";
  while (std::fgets(line, sizeof(line), file) != nullptr) {
    if (std::strncmp(line, "0::", 3) != 0) continue;
    line[std::strcspn(line, "\n")] = '\0';
    std::snprintf(path, sizeof(path), "/sys/fs/cgroup%s", line + 3);
  }
  std::fclose(file);
  std::uint64_t least = kNoLimit;
  constexpr std::size_t kRoot = sizeof("/sys/fs/cgroup") - 1;
  while (std::strlen(path) >= kRoot) {
    char name[800];
    std::uint64_t max = 0;
    std::uint64_t current = 0;
    std::snprintf(name, sizeof(name), "%s/memory.max", path);
    if (read_number(name, max)) {
      std::snprintf(name, sizeof(name), "%s/memory.current", path);
      (void)read_number(name, current);
      least = std::min(least, left(max, current));
    }
    char* const parent = std::strrchr(path, '/');
    if (parent == nullptr) break;
    *parent = '\0';
  }
  return least;
}

/// Finds the size of the process's address space, and how much of its memory is locked, in bytes.
bool own_sizes(std::uint64_t& address, std::uint64_t& locked) {
  std::FILE* const file = std::fopen("/proc/self/status", "re");
  if (file == nullptr) return false;
  bool found = false;
  char line[256];
  while (std::fgets(line, sizeof(line), file) != nullptr) {
    unsigned long long kib = 0;
    if (std::sscanf(line, "VmSize: %llu kB", &kib) == 1) {
      address = kib * 1024;
      found = true;
    }
    if (std::sscanf(line, "VmLck: %llu kB", &kib) == 1) locked = kib * 1024;
  }
  std::fclose(file);
  return found;
}

std::uint64_t limit_of(__rlimit_resource resource) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kNoLimit;
  return limit.rlim_cur;
}

}  // namespace

MemoryLimits memory_limits() {
  MemoryLimits limits;
  limits.host = free_memory();
  limits.cgroup = cgroup_left();
  std::uint64_t address = kNoLimit - 1;  // without /proc, a limit leaves nothing
  std::uint64_t locked = 0;
  (void)own_sizes(address, locked);
  limits.address = left(limit_of(RLIMIT_AS), address);
  if (locked != 0) limits.locked = left(limit_of(RLIMIT_MEMLOCK), locked);
  return limits;
}

std::uint64_t ring_budget(const MemoryLimits& limits, std::uint64_t used) {
  // What the rings take already is no longer among what is left.
  const auto share = [used](std::uint64_t left, std::uint64_t parts) {
    return left == kNoLimit ? kNoLimit : (left + used) / parts;
  };
  return std::min({share(limits.host, 8), share(limits.cgroup, 4), share(limits.address, 4),
                   share(limits.locked, 4)});
}

bool reserve_ring(std::uint64_t bytes) {
  const std::uint64_t before = reserved.fetch_add(bytes);
  if (before + bytes <= ring_budget(memory_limits(), before)) return true;
  reserved.fetch_sub(bytes);
  return false;
}

void release_ring(std::uint64_t bytes) { reserved.fetch_sub(bytes); }

}  // namespace pcapv3
