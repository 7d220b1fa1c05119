// The table of AMX: "avx512_vnni" with other linears for bf16, int8 and int4 weights.
#pragma once

#include "isa/tables.h"
#include "linear/amx/linear.h"

namespace quire::QUIRE_ISA {

#define QUIRE_TEXT_OF(x) #x
#define QUIRE_TEXT(x) QUIRE_TEXT_OF(x)

inline int64_t amx_bf16_workspace_bytes(const PackedLinear& w, int64_t m) {
  return amx_copied_rows(m) * amx_stride(w) * 2;
}
inline int64_t amx_bf16_rows(const PackedLinear&, int64_t m) { return amx_copied_rows(m); }
inline int64_t amx_scratch_bytes(const PackedLinear&, int64_t) { return kAmxScratchBytes; }

// Integers of fewer rows than a tile has are multiplied by vectors.
template <WeightFormat F>
const LinearKernels& by_vectors() {
  return avx512_vnni::table().linear[index_of(F)];
}
template <WeightFormat F>
int64_t amx_quantized_item_count(const PackedLinear& w, int64_t m) {
  return m < kAmxRows ? by_vectors<F>().items(w, m) : amx_items(w, m);
}
template <WeightFormat F>
int64_t amx_quantized_scratch_bytes(const PackedLinear& w, int64_t m) {
  return m < kAmxRows ? by_vectors<F>().scratch_bytes(w, m) : kAmxScratchBytes;
}
template <WeightFormat F>
void amx_quantized_linear(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  if (a.m < kAmxRows) return by_vectors<F>().run(a, begin, end, scratch);
  amx_quantized<F>(a, begin, end, scratch);
}

template <WeightFormat F>
void set_amx_products(LinearKernels& kernels) {
  kernels.items = amx_quantized_item_count<F>;
  kernels.scratch_bytes = amx_quantized_scratch_bytes<F>;
  kernels.run = amx_quantized_linear<F>;
}

const KernelTable& table() {
  static const KernelTable kernels = [] {
    KernelTable t = avx512_vnni::table();
    t.isa = QUIRE_TEXT(QUIRE_ISA);
    LinearKernels& bf16 = t.linear[index_of(WeightFormat::bf16)];
    bf16.workspace_bytes = amx_bf16_workspace_bytes;
    bf16.prepare_items = amx_bf16_rows;
    bf16.prepare = amx_round_rows;
    bf16.items = amx_items;
    bf16.scratch_bytes = amx_scratch_bytes;
    bf16.run = amx_bf16_items;
    set_amx_products<WeightFormat::int8>(t.linear[index_of(WeightFormat::int8)]);
    set_amx_products<WeightFormat::int4>(t.linear[index_of(WeightFormat::int4)]);
    return t;
  }();
  return kernels;
}

}  // namespace quire::QUIRE_ISA
