// The AVX2 + FMA + F16C kernels. Compiled with ISA flags: no std:: headers here, see sources.cmake.
#include "isa/table.h"
#include "linear/ymm/linears.h"

namespace quire::avx2 {

const KernelTable& table() {
  static constexpr KernelTable kernels = [] {
    KernelTable t = table_without_linears("avx2");
    set_linears(t.linear);
    return t;
  }();
  return kernels;
}

}  // namespace quire::avx2
