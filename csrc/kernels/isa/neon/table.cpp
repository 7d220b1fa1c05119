// The kernels for baseline NEON. Compiled with ISA flags: no std:: headers here, see sources.cmake.
#include "isa/table.h"
#include "linear/neon/linears.h"

namespace quire::neon {

const KernelTable& table() {
  static constexpr KernelTable kernels = [] {
    KernelTable t = table_without_linears("neon");
    set_linears(t.linear);
    return t;
  }();
  return kernels;
}

}  // namespace quire::neon
