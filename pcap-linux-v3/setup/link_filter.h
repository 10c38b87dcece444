// SPDX-License-Identifier: BSD-3-Clause
// A filter for a netlink socket: of all that rtnetlink(7) reports about a network namespace's
// interfaces, it passes only what concerns a few of them.
//
// An interface is recognized by its ifindex, which it keeps as long as it exists, or by its name,
// because one of that name may appear later. The kernel runs the filter on each message before it
// wakes the reader (af_netlink.c: do_one_broadcast).
#pragma once

#include <linux/filter.h>

namespace pcapv3 {

class LinkFilter {
 public:
  static constexpr unsigned kMostLinks = 64;

  LinkFilter();
  LinkFilter(const LinkFilter&) = delete;
  LinkFilter& operator=(const LinkFilter&) = delete;

  /// Adds an interface, up to kMostLinks: by its name, and by its ifindex if that is above 0.
  void add(const char* name, int index);
  /// Returns the filter for the interfaces added so far. In doubt, it passes a message.
  sock_fprog program();

 private:
  static constexpr unsigned kHead = 12;
  static constexpr unsigned kPerLink = 14;  // at most

  void load(unsigned short size, unsigned at);
  void let_through();

  sock_filter code_[kHead + kMostLinks * kPerLink + 1];
  unsigned count_ = 0;
};

}  // namespace pcapv3
