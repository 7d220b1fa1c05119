// The AVX-512 VNNI kernels with bf16 weights, and attention over bf16 caches, multiplied by AVX512_BF16 (vdpbf16ps): twice
// the rate of f32 multiply-adds. Activations of these linears, queries and the weights of the softmax are rounded to bf16.
// Compiled with ISA flags: no std:: headers here.
#include "attention/zmm/bf16.h"
#include "isa/tables.h"
#include "linear/zmm/float.h"

namespace quire::avx512_bf16 {

const KernelTable& table() {
  static const KernelTable kernels = [] {
    KernelTable t = avx512_vnni::table();
    t.isa = "avx512_bf16";
    set_float_products<WeightFormat::bf16>(t.linear[index_of(WeightFormat::bf16)]);
    set_attention_bf16(t.attention[index_of(DType::bf16)]);
    return t;
  }();
  return kernels;
}

}  // namespace quire::avx512_bf16
