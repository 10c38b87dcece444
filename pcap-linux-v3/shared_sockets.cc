// SPDX-License-Identifier: BSD-3-Clause
#include "shared_sockets.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <iterator>

namespace pcapv3 {
namespace {

constexpr int kNone = -1;
constexpr int kTaken = -2;     // by a handle, or being opened
constexpr int kChanging = -1;  // users, while the entry is made or closed

/// With protocol 0, no packet comes to it.
int open_socket(int type) { return socket(AF_PACKET, type | SOCK_CLOEXEC, 0); }

}  // namespace

/// The sockets of one network namespace. Whoever changes `users` from 0 or from 1 to kChanging has
/// the entry to itself until it stores the result.
struct SharedSockets::Entry {
  std::atomic<int> users{0};
  int grace = kNone;
  std::atomic<int> spare[2] = {kNone, kNone};  // by type
  dev_t device = 0;                            // these two identify the network namespace
  ino_t inode = 0;

  /// Adds a user, if there is one already. If not, nothing else here may be looked at.
  bool join() {
    int now = users.load(std::memory_order_relaxed);
    while (now > 0) {
      if (users.compare_exchange_weak(now, now + 1, std::memory_order_acquire)) return true;
    }
    return false;
  }
  bool claim() {
    int none = 0;
    return users.compare_exchange_strong(none, kChanging, std::memory_order_acquire);
  }
  /// Returns whether the caller was the last user, and has the entry to itself.
  bool leave() {
    int now = users.load(std::memory_order_relaxed);
    while (!users.compare_exchange_weak(now, now == 1 ? kChanging : now - 1,
                                        std::memory_order_acq_rel)) {
    }
    return now == 1;
  }
  void release(int new_users) { users.store(new_users, std::memory_order_release); }
};

// A process with handles in more namespaces at once gets no larger rings in the others.
SharedSockets::Entry SharedSockets::table[16];

bool SharedSockets::open() {
  if (is_open()) return true;
  // Without /proc, all handles are taken to be in one namespace of their own kind.
  struct stat space {};
  (void)stat("/proc/thread-self/ns/net", &space);
  for (Entry& entry : table) {
    if (!entry.join()) continue;
    if (entry.device == space.st_dev && entry.inode == space.st_ino) {
      entry_ = &entry;
      return true;
    }
    if (entry.leave()) entry.release(0);
  }
  const int grace = open_socket(SOCK_RAW);
  if (grace < 0) return false;
  for (Entry& entry : table) {
    if (!entry.claim()) continue;
    entry.grace = grace;
    entry.device = space.st_dev;
    entry.inode = space.st_ino;
    entry.release(1);
    entry_ = &entry;
    return true;
  }
  ::close(grace);
  errno = EMFILE;
  return false;
}

void SharedSockets::close() {
  if (entry_ == nullptr) return;
  Entry& entry = *entry_;
  entry_ = nullptr;
  if (!entry.leave()) return;
  ::close(entry.grace);
  for (std::atomic<int>& spare : entry.spare) {
    const int socket = spare.exchange(kNone);
    if (socket >= 0) ::close(socket);
  }
  entry.release(0);
}

bool SharedSockets::open_spare(Type type) {
  std::atomic<int>& spare = entry_->spare[static_cast<int>(type)];
  int none = kNone;
  if (!spare.compare_exchange_strong(none, kTaken)) return true;
  const int socket = open_socket(type == Type::kRaw ? SOCK_RAW : SOCK_DGRAM);
  spare.store(socket >= 0 ? socket : kNone);
  return socket >= 0;
}

int SharedSockets::grace_socket() const { return entry_ != nullptr ? entry_->grace : -1; }

int SharedSockets::take_spare(Type type) {
  if (entry_ == nullptr) return -1;
  std::atomic<int>& spare = entry_->spare[static_cast<int>(type)];
  int socket = spare.load();
  while (socket >= 0 && !spare.compare_exchange_weak(socket, kTaken)) {
  }
  return socket >= 0 ? socket : -1;
}

void SharedSockets::put_back(Type type, int socket) {
  entry_->spare[static_cast<int>(type)].store(socket >= 0 ? socket : kNone);
}

}  // namespace pcapv3
