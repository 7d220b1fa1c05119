// The AVX-512 kernels: F, BW, DQ, VL. Linears and attention use 512-bit vectors; what works on short rows is the 256-bit
// code with the 32 registers and masks of AVX-512. Compiled with ISA flags: no std:: headers here.
#include "isa/table.h"
#include "linear/zmm/linears.h"

namespace quire::avx512 {

const KernelTable& table() {
  static constexpr KernelTable kernels = [] {
    KernelTable t = table_without_linears("avx512");
    set_linears(t.linear);
    return t;
  }();
  return kernels;
}

}  // namespace quire::avx512
