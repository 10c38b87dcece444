// SPDX-License-Identifier: BSD-3-Clause
// What the person who runs a program asks of the library: the environment variables PCAPV3_*.
//
// They are read once, at pcap_activate(), and turned into values of their own here: nothing points
// into the environment afterwards, which the program may change at any time. What a value then
// leads to is decided elsewhere (geometry.h, port.cc, aggregate.cc). pcap-linux-v3(7) documents
// each of them.
#pragma once

#include <cstdint>

#include "setup/error.h"
#include "setup/fanout.h"

namespace pcapv3 {

/// A setting in bytes, and how it was written, for error texts: the start of it, if it is longer.
struct ByteSetting {
  std::uint64_t bytes = 0;  ///< 0: not set.
  char text[24] = "";
};

struct Settings {
  enum class Immediate { kAdaptive, kV2, kV3 };

  ByteSetting buffer;                          ///< PCAPV3_BUFFER.
  ByteSetting block;                           ///< PCAPV3_BLOCK.
  std::uint32_t retire_ms = 0;                 ///< PCAPV3_RETIRE; 0: not set.
  Immediate immediate = Immediate::kAdaptive;  ///< PCAPV3_IMMEDIATE.
  std::uint32_t window_ms = 0;                 ///< PCAPV3_WINDOW; 0: not set.
  FanoutSetting fanout;                        ///< PCAPV3_FANOUT.
  bool drain = true;                           ///< PCAPV3_DRAIN.
  /// PCAPV3_BLOCKING: whether handles of this program are to have no descriptor to select on. It
  /// waits on that before each packet, and does without if there is none.
  bool hides_descriptor = false;

  /// Reads what `environment` has, strings "NAME=VALUE" up to a null pointer, for a program called
  /// `program`. False, with a text that names the variable, its value and what would be right, if
  /// a value can't be used. PCAPV3_PORTS, PCAPV3_STATS and PCAPV3_DEBUG are for find_setting() at
  /// the moment when they are wanted.
  bool read(const char* const* environment, const char* program, ErrorText& error);
};

/// The value of a setting, in `environment`; null if it is not set, or to nothing, which is as
/// good.
const char* find_setting(const char* const* environment, const char* name);

/// The next entry whose name begins as settings' do and is none; null if there are no more.
/// `environment` is moved on. What a container platform tells of a service called "pcapv3" is
/// passed over.
const char* next_unknown(const char* const*& environment);

/// Whether PCAPV3 asks for stock libpcap. A value that means nothing is left for Settings::read to
/// filter.
bool switched_off();

/// The environment settings are read from: empty in secure-execution mode (secure_getenv(3)), where
/// it comes from somebody with fewer rights than the process has.
const char* const* trusted_environment();

}  // namespace pcapv3
