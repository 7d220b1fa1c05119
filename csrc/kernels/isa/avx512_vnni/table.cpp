// The AVX-512 kernels with integer linears on VNNI (vpdpbusd): the same bits as "avx512", faster.
// Compiled with ISA flags: no std:: headers here.
#include "isa/tables.h"
#include "linear/zmm/quantized.h"

namespace quire::avx512_vnni {

const KernelTable& table() {
  static const KernelTable kernels = [] {
    KernelTable t = avx512::table();
    t.isa = "avx512_vnni";
    set_quantized_products<WeightFormat::int8>(t.linear[index_of(WeightFormat::int8)]);
    set_quantized_products<WeightFormat::int4>(t.linear[index_of(WeightFormat::int4)]);
    return t;
  }();
  return kernels;
}

}  // namespace quire::avx512_vnni
