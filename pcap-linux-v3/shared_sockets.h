// SPDX-License-Identifier: BSD-3-Clause
// The packet sockets that all handles of a process share, besides each one's own: one that provides
// grace periods (grace_period.h), and one or two spare ones for larger rings (growth/resize.h).
//
// They are opened when a handle is activated, because the process may give up its privileges after
// that. Handles of different network namespaces share none, because a socket belongs to its
// namespace and keeps it alive.
//
// Any thread may call this. Nothing locks: a forked process has what its parent had, and closes its
// own descriptors.
#pragma once

namespace pcapv3 {

class SharedSockets {
 public:
  /// What spare sockets there are: for handles whose packets have link-layer headers (SOCK_RAW),
  /// and for cooked ones (SOCK_DGRAM).
  enum class Type { kRaw, kCooked };

  SharedSockets() = default;
  ~SharedSockets() { close(); }
  SharedSockets(const SharedSockets&) = delete;
  SharedSockets& operator=(const SharedSockets&) = delete;

  /// Shares the sockets of the network namespace that this thread is in. Returns false, with errno,
  /// if there are none and none can be opened.
  bool open();
  bool is_open() const { return entry_ != nullptr; }
  /// Makes sure that there is a spare socket of this type. Requires is_open(). Returns false, with
  /// errno, if there is none.
  bool open_spare(Type type);

  /// Returns the socket that provides grace periods; -1: none is open.
  int grace_socket() const;
  /// Takes a spare socket, which is bound to nothing, or to what brings no packet, and has no ring.
  /// Returns -1 if there is none, or if another handle has it just now.
  int take_spare(Type type);
  /// Returns it, or another one instead; -1: it is lost.
  void put_back(Type type, int socket);

 private:
  struct Entry;
  void close();

  Entry* entry_ = nullptr;

  static Entry table[];
};

}  // namespace pcapv3
