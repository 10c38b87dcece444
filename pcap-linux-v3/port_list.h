// The names of an aggregate's ports, as people write them: eth1,eth2 for one aggregate, and
// eth1,eth2;eth3,eth4 for those that device lists show (PCAPV3_PORTS). Only the text is judged;
// whether there are such interfaces turns out when they are opened.
#pragma once

#include <cstddef>

#include "module.h"

namespace pcapv3 {

/// Reads names separated by commas. False, with a text of at most PCAP_ERRBUF_SIZE bytes that names
/// what is wrong, unless they are two to PCAPV3_MOST_PORTS different names, none of them empty,
/// longer than an interface's can be, or "any".
bool read_port_names(const char* list, pcapv3_port_names& names, char* error);

/// The next list of PCAPV3_PORTS, or the first if `at` is null. 1, with the names and the list
/// itself in `list`, of `room` bytes; 0 after the last; -1, with a text, if it can't be used.
int next_listed(const char*& at, pcapv3_port_names& names, char* list, std::size_t room,
                char* error);

}  // namespace pcapv3
