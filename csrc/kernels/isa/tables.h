// The table of each instruction set.
#pragma once

#include "kernel_types.h"

namespace quire {

#define QUIRE_ISA_ROW(name, architecture, can_run) \
  namespace name {                                 \
  const KernelTable& table();                      \
  }
#include "isa/list.def"
#undef QUIRE_ISA_ROW

}  // namespace quire
