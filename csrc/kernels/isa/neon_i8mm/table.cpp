// The kernels for NEON with the int8 matrix extension. Compiled with ISA flags: no std:: headers here, see sources.cmake.
#include "isa/table.h"
#include "linear/neon/linears.h"

namespace quire::neon_i8mm {

const KernelTable& table() {
  static constexpr KernelTable kernels = [] {
    KernelTable t = table_without_linears("neon_i8mm");
    set_linears(t.linear);
    return t;
  }();
  return kernels;
}

}  // namespace quire::neon_i8mm
