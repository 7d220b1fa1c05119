// The AVX-512 kernels with integer linears on VNNI (vpdpbusd): the same bits as "avx512", faster.
// Compiled with ISA flags: no std:: headers here.
#include "isa/tables.h"
#include "linear/zmm/quantized.h"

namespace quire::avx512_vnni {

int64_t linear_items(const PackedLinear& w, int64_t m) {
  return is_float_format(w.format) ? avx512::table().linear_items(w, m) : cut_items<QuantizedShape>(w, m);
}
int64_t linear_scratch_bytes(const PackedLinear& w, int64_t m) {
  return is_float_format(w.format) ? avx512::table().linear_scratch_bytes(w, m) : cut_scratch_bytes<QuantizedShape>();
}
void linear(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  if (is_float_format(a.weight->format)) return avx512::table().linear(a, begin, end, scratch);
  quantized_linear(a, begin, end, static_cast<float*>(scratch));
}

const KernelTable& table() {
  static const KernelTable kernels = [] {
    KernelTable t = avx512::table();
    t.isa = "avx512_vnni";
    t.linear_items = linear_items;
    t.linear_scratch_bytes = linear_scratch_bytes;
    t.linear = linear;
    return t;
  }();
  return kernels;
}

}  // namespace quire::avx512_vnni
