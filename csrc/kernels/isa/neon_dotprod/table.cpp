// The kernels for NEON with the dot product extension. Compiled with ISA flags: no std:: headers here, see sources.cmake.
#include "isa/table.h"
#include "linear/neon/linears.h"

namespace quire::neon_dotprod {

const KernelTable& table() {
  static constexpr KernelTable kernels = [] {
    KernelTable t = table_without_linears("neon_dotprod");
    set_linears(t.linear);
    return t;
  }();
  return kernels;
}

}  // namespace quire::neon_dotprod
