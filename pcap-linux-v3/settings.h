// What the person who runs a program asks of the library: the environment variables PCAPV3_*.
//
// They are read once, at pcap_activate(), and turned into plain values here. What a value then
// leads to is decided elsewhere (geometry.h, port.cc, aggregate.cc). pcap-linux-v3(7) documents
// each of them.
#pragma once

#include <cstdint>

#include "error.h"
#include "fanout.h"

namespace pcapv3 {

/// A setting in bytes, and how it was written, for error texts.
struct ByteSetting {
  std::uint64_t bytes = 0;  ///< 0: not set.
  const char* text = "";
};

struct Settings {
  enum class Immediate { kAdaptive, kV2, kV3 };

  ByteSetting buffer;                          ///< PCAPV3_BUFFER.
  ByteSetting block;                           ///< PCAPV3_BLOCK.
  std::uint32_t retire_ms = 0;                 ///< PCAPV3_RETIRE; 0: not set.
  Immediate immediate = Immediate::kAdaptive;  ///< PCAPV3_IMMEDIATE.
  std::uint32_t window_ms = 0;                 ///< PCAPV3_WINDOW; 0: not set.
  const char* ports = nullptr;                 ///< PCAPV3_PORTS, not looked into.
  FanoutSetting fanout;                        ///< PCAPV3_FANOUT.
  bool drain = true;                           ///< PCAPV3_DRAIN.
  const char* blocking = nullptr;              ///< PCAPV3_BLOCKING.
  const char* stats = nullptr;                 ///< PCAPV3_STATS: "stderr" or a file's path.
  const char* debug = nullptr;                 ///< PCAPV3_DEBUG: likewise.

  /// Reads `environment`, strings "NAME=VALUE" up to a null pointer, which must outlive what is
  /// read. False, with a text that names the variable, its value and what would be right, if a
  /// value can't be used or a name with the prefix is unknown: a misspelt setting must not pass
  /// unseen.
  bool read(const char* const* environment, ErrorText& error);

  /// Whether handles of `program` are to have no descriptor to select on: it waits on that before
  /// each packet, and does without if there is none.
  bool hides_descriptor_from(const char* program) const;
};

/// Whether PCAPV3=off asks for stock libpcap. Any other value is left for Settings::read to judge.
bool switched_off();

/// The environment settings are read from: empty in secure-execution mode (secure_getenv(3)), where
/// it comes from somebody with fewer rights than the process has.
const char* const* trusted_environment();

}  // namespace pcapv3
