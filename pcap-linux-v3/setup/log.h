// SPDX-License-Identifier: BSD-3-Clause
// Where the library's own words go: PCAPV3_DEBUG's and PCAPV3_STATS's "stderr" or file.
#pragma once

#include "setup/error.h"

namespace pcapv3 {

class Log {
 public:
  Log() = default;
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  /// Opens what `setting` names in `environment`, "stderr" or a file that lines are added to; the
  /// log stays silent if it is not set. The file is opened here and not at the first line because
  /// programs such as tcpdump give up their privileges in between. False, with a text, if it can't
  /// be.
  bool open(const char* setting, const char* const* environment, ErrorText& error);

  bool on() const { return fd_ >= 0; }

  /// Writes one line, whole, with "pcap-linux-v3: " before it.
  __attribute__((format(printf, 2, 3))) void line(const char* format, ...);

 private:
  int fd_ = -1;
  bool ours_ = false;
};

}  // namespace pcapv3
