// SPDX-License-Identifier: BSD-3-Clause
// ErrorText: the text that explains a failure, with what a person needs to act on it.
//
// It is a fixed buffer of libpcap's own size, so that failing needs no memory. The status code that
// goes with it is chosen where the failure is returned.
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
