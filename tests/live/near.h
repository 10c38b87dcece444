// SPDX-License-Identifier: BSD-3-Clause
// Interfaces that a test makes for itself, in its own network namespace.
#pragma once

#include <net/if.h>

#include <string>

#include "capture.h"
#include "ports.h"

namespace pcapv3::live {

/// Two interfaces joined, up; tests capture on the near one and send from far0.
inline void make_pair(const std::string& near = "near0") {
  if (if_nametoindex("far0") != 0) ip("link delete far0");  // an earlier test's
  ip("link add " + near + " type veth peer name far0");
  for (const std::string& name : {near, std::string("far0")}) ip("link set arp off up dev " + name);
}

}  // namespace pcapv3::live
