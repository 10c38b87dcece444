// SPDX-License-Identifier: BSD-3-Clause
#include "blocks/program.h"

#include <cstdlib>
#include <cstring>
#include <new>

namespace pcapv3 {

Program* Program::copy(const bpf_insn* code, unsigned count) {
  // The memory comes from malloc, so that the library needs no C++ run-time library.
  void* memory = std::malloc(sizeof(Program) + count * sizeof(bpf_insn));
  if (memory == nullptr) return nullptr;
  auto* program = new (memory) Program;
  std::memcpy(program->code_, code, count * sizeof(bpf_insn));
  return program;
}

void Program::unref() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  this->~Program();
  std::free(this);
}

}  // namespace pcapv3
