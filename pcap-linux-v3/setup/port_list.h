// SPDX-License-Identifier: BSD-3-Clause
// Lists of ports as people write them: eth1,eth2 for one multi-interface capture, and
// eth1,eth2;eth3,eth4 for those that device lists show (PCAPV3_PORTS). Only the text is checked
// here; whether the interfaces exist turns out when they are opened.
#pragma once

#include <cstddef>

#include "module.h"

namespace pcapv3 {

/// Reads names separated by commas. Returns true if there are two to PCAPV3_MAX_PORTS different
/// names, none of them empty, too long for an interface, or "any". Otherwise returns false, with a
/// text of at most PCAP_ERRBUF_SIZE bytes that names what is wrong.
bool read_port_names(const char* list, pcapv3_port_names& names, char* error);

/// Finds list number `number`, from 0 on, of PCAPV3_PORTS. Returns 1, with its names and the text
/// of the list in `list`, of `room` bytes; 0 if there are fewer lists; -1, with a text, if the list
/// can't be used. The setting is read anew each time: the library does not keep it.
int find_listed(unsigned number, pcapv3_port_names& names, char* list, std::size_t room,
                char* error);

}  // namespace pcapv3
