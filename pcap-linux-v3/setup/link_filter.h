// SPDX-License-Identifier: BSD-3-Clause
// A filter for a netlink socket: of all that rtnetlink(7) tells of a network namespace's
// interfaces, it lets through what is of a few of them.
//
// An interface is known by its number, which it keeps for as long as it is there, or by its name:
// one of that name may be to come. The kernel runs the filter for each message before it wakes who
// waits for it (af_netlink.c: do_one_broadcast).
#pragma once

#include <linux/filter.h>

namespace pcapv3 {

class LinkFilter {
 public:
  static constexpr unsigned kMostLinks = 64;

  LinkFilter();
  LinkFilter(const LinkFilter&) = delete;
  LinkFilter& operator=(const LinkFilter&) = delete;

  /// One more interface, up to kMostLinks: by its name, and by its number if that is above 0.
  void add(const char* name, int index);
  /// The filter for those that were added. What it can't be sure of it lets through.
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
