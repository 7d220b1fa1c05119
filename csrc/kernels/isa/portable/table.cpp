// The kernels in plain C++, for any processor; also what the other ISAs are compared with.
#include "isa/table.h"
#include "linear/portable/linears.h"

namespace quire::portable {

const KernelTable& table() {
  static constexpr KernelTable kernels = [] {
    KernelTable t = table_without_linears("portable");
    set_linears(t.linear);
    return t;
  }();
  return kernels;
}

}  // namespace quire::portable
