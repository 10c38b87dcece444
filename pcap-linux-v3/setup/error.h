// SPDX-License-Identifier: BSD-3-Clause
// The text that goes with a failure: what a person needs to act on it.
//
// A fixed buffer of libpcap's own size, so that failing needs no memory. What the failure is called
// (a status code) is decided where it is returned.
#pragma once

#include <pcap/pcap.h>

#include <cstdarg>
#include <cstdio>

namespace pcapv3 {

class ErrorText {
 public:
  /// Sets the text, printf style. Returns false, so that a check can end in `return
  /// error.set(...)`.
  __attribute__((format(printf, 2, 3))) bool set(const char* format, ...) {
    va_list args;
    va_start(args, format);
    std::vsnprintf(text_, sizeof(text_), format, args);
    va_end(args);
    return false;
  }
  const char* c_str() const { return text_; }

 private:
  char text_[PCAP_ERRBUF_SIZE] = "";
};

}  // namespace pcapv3
