// SPDX-License-Identifier: BSD-3-Clause
// The kinds of handle that break tests go through: on one interface, in immediate mode, on several.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "capture.h"

namespace pcapv3::live {

enum class Mode { kPlain, kImmediate, kList };

inline Handle open_in(Mode mode, int timeout_ms = 10) {
  return open_capture({.device = mode == Mode::kList ? "see0,see1" : "see0",
                       .snaplen = mode == Mode::kImmediate ? 2000 : kWhole,
                       .timeout_ms = timeout_ms,
                       .immediate = mode == Mode::kImmediate,
                       .buffer_bytes = 32 << 20});
}

inline const char* name_of(Mode mode) {
  return mode == Mode::kPlain ? "plain" : mode == Mode::kImmediate ? "immediate" : "list";
}

/// The modes that this library has.
inline std::vector<Mode> modes() {
  if (is_off()) return {Mode::kPlain, Mode::kImmediate};
  return {Mode::kPlain, Mode::kImmediate, Mode::kList};
}

}  // namespace pcapv3::live
