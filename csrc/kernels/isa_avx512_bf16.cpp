// The AVX-512 VNNI kernels with bf16 weights multiplied by AVX512_BF16 (vdpbf16ps): twice the rate of f32 multiply-adds,
// activations of these linears rounded to bf16. Compiled with ISA flags: no std:: headers here.
#include <immintrin.h>

#include "kernel_types.h"
#include "tables.h"

#define QUIRE_BF16_DOT
namespace quire {
namespace avx512_bf16 {
#include "impl/vec_common.h"
#include "impl/vec_avx2.h"
#include "impl/vec_avx512.h"
#include "impl/linear_layout.h"
#include "impl/zmm_rows.h"
#include "impl/zmm_float.h"

int64_t linear_workspace_bytes(const PackedLinear& w, int64_t m) {
  if (w.format == WeightFormat::bf16) return float_workspace_bytes<WeightFormat::bf16>(w, m);
  return avx512_vnni::table().linear_workspace_bytes(w, m);
}
int64_t linear_prepare_items(const PackedLinear& w, int64_t m) {
  return w.format == WeightFormat::bf16 ? m : avx512_vnni::table().linear_prepare_items(w, m);
}
void linear_prepare(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  if (a.weight->format == WeightFormat::bf16) return copy_rows<WeightFormat::bf16>(a, begin, end);
  avx512_vnni::table().linear_prepare(a, begin, end, scratch);
}
void linear(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  if (a.weight->format == WeightFormat::bf16) return float_items<WeightFormat::bf16>(a, begin, end, static_cast<float*>(scratch));
  avx512_vnni::table().linear(a, begin, end, scratch);
}

const KernelTable& table() {
  static const KernelTable kernels = [] {
    KernelTable t = avx512_vnni::table();
    t.isa = "avx512_bf16";
    t.linear_workspace_bytes = linear_workspace_bytes;
    t.linear_prepare_items = linear_prepare_items;
    t.linear_prepare = linear_prepare;
    t.linear = linear;
    return t;
  }();
  return kernels;
}
}  // namespace avx512_bf16
}  // namespace quire
