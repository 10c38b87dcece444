// SPDX-License-Identifier: BSD-3-Clause
// Program: a filter's code, shared by all blocks that were acquired while it was the handle's
// filter. The handle can get another one, or be closed, while they are walked.
#pragma once

#include <pcap/pcap.h>

#include <atomic>

namespace pcapv3 {

class Program {
 public:
  /// Returns a copy with one reference, or null if memory is short.
  static Program* copy(const bpf_insn* code, unsigned count);
  bpf_insn* code() { return code_; }

  // By any thread.

  void ref() { references_.fetch_add(1, std::memory_order_relaxed); }
  /// Frees the program with the last reference.
  void unref();

 private:
  Program() = default;
  std::atomic<unsigned> references_{1};
  bpf_insn code_[1];  // the others follow it in memory
};

}  // namespace pcapv3
