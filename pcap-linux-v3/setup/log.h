// SPDX-License-Identifier: BSD-3-Clause
// Log: writes the lines that PCAPV3_DEBUG and PCAPV3_STATS ask for, to stderr or a file. What a
// line says is decided by its caller.
#pragma once

#include "setup/error.h"

namespace pcapv3 {

class Log {
 public:
  Log() = default;
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  /// Opens what the variable `setting` names in `environment`: "stderr", or a file to append to. If
  /// it is not set, the log stays silent. The file is opened here and not at the first line because
  /// programs such as tcpdump give up their privileges in between. Returns false, with a text, if
  /// it can't be opened.
  bool open(const char* setting, const char* const* environment, ErrorText& error);

  bool on() const { return fd_ >= 0; }

  /// Writes one whole line that begins with "pcap-linux-v3: ".
  __attribute__((format(printf, 2, 3))) void line(const char* format, ...);

 private:
  int fd_ = -1;
  bool ours_ = false;
};

}  // namespace pcapv3
