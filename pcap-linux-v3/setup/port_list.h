// SPDX-License-Identifier: BSD-3-Clause
// The names of an aggregate's ports, as people write them: eth1,eth2 for one aggregate, and
// eth1,eth2;eth3,eth4 for those that device lists show (PCAPV3_PORTS). Only the text is judged;
// whether there are such interfaces turns out when they are opened.
#pragma once

#include <cstddef>

#include "module.h"

namespace pcapv3 {

/// Reads names separated by commas. False, with a text of at most PCAP_ERRBUF_SIZE bytes that names
/// what is wrong, unless they are two to PCAPV3_MAX_PORTS different names, none of them empty,
/// longer than an interface's can be, or "any".
bool read_port_names(const char* list, pcapv3_port_names& names, char* error);

/// List number `number`, from 0 on, of PCAPV3_PORTS. 1, with its names and the list itself in
/// `list`, of `room` bytes; 0 if there are not so many; -1, with a text, if it can't be used. The
/// setting is looked at anew each time: it is not the library's to keep.
int find_listed(unsigned number, pcapv3_port_names& names, char* list, std::size_t room,
                char* error);

}  // namespace pcapv3
