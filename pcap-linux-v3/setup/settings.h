// SPDX-License-Identifier: BSD-3-Clause
// The settings: environment variables PCAPV3_*, by which a user configures the library.
//
// They are read once, at pcap_activate(), and copied into values here: nothing points into the
// environment afterwards, which the program may change at any time. What a value then leads to is
// decided elsewhere (geometry.h, port.cc, reader_setup.cc). pcap-linux-v3(7) documents each of
// them.
#pragma once

#include <cstdint>

#include "setup/error.h"
#include "setup/fanout.h"

namespace pcapv3 {

/// A setting in bytes, with its text, or the start of that, for error messages.
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
  /// PCAPV3_BLOCKING: whether handles of this program have no descriptor to select on. Such a
  /// program waits on the descriptor before each packet, and does without if there is none.
  bool hides_descriptor = false;

  /// Reads the settings from `environment`, strings "NAME=VALUE" up to a null pointer, for a
  /// program called `program`. Returns false, with a text that names the variable, its value and
  /// what would be right, if a value can't be used. PCAPV3_PORTS, PCAPV3_STATS and PCAPV3_DEBUG are
  /// read by find_setting() when they are needed.
  bool read(const char* const* environment, const char* program, ErrorText& error);
};

/// Returns the value of a setting in `environment`, or null if it is not set or is empty.
const char* find_setting(const char* const* environment, const char* name);

/// Returns the next entry whose name begins like a setting's but is none, or null if there are no
/// more, and advances `environment`. Variables that a container platform sets for a service called
/// "pcapv3" are skipped.
const char* next_unknown(const char* const*& environment);

/// Returns whether PCAPV3 asks for stock libpcap. Settings::read reports an invalid value.
bool switched_off();

/// Returns the environment that settings are read from. It is empty in secure-execution mode
/// (secure_getenv(3)), where the environment comes from somebody with fewer rights than the
/// process.
const char* const* trusted_environment();

}  // namespace pcapv3
