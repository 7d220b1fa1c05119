// The table of AMX: "avx512_vnni" with other linears for bf16, int8 and int4 weights.
#pragma once

#include "isa/tables.h"
#include "linear/amx/linear.h"

namespace quire::QUIRE_ISA {

#define QUIRE_TEXT_OF(x) #x
#define QUIRE_TEXT(x) QUIRE_TEXT_OF(x)

inline bool uses_tiles(const PackedLinear& w, int64_t m) {
  return w.format == WeightFormat::bf16 || (!is_float_format(w.format) && m >= kAmxRows);
}
inline int64_t linear_workspace_bytes(const PackedLinear& w, int64_t m) {
  if (w.format == WeightFormat::bf16) return amx_copied_rows(m) * amx_stride(w) * 2;
  return avx512_vnni::table().linear_workspace_bytes(w, m);
}
inline int64_t linear_prepare_items(const PackedLinear& w, int64_t m) {
  return w.format == WeightFormat::bf16 ? amx_copied_rows(m) : avx512_vnni::table().linear_prepare_items(w, m);
}
inline void linear_prepare(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  if (a.weight->format == WeightFormat::bf16) return amx_round_rows(a, begin, end);
  avx512_vnni::table().linear_prepare(a, begin, end, scratch);
}
inline int64_t linear_items(const PackedLinear& w, int64_t m) {
  return uses_tiles(w, m) ? amx_items(w, m) : avx512_vnni::table().linear_items(w, m);
}
inline int64_t linear_scratch_bytes(const PackedLinear& w, int64_t m) {
  return uses_tiles(w, m) ? kAmxScratchBytes : avx512_vnni::table().linear_scratch_bytes(w, m);
}
inline void linear(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  if (!uses_tiles(*a.weight, a.m)) return avx512_vnni::table().linear(a, begin, end, scratch);
  if (a.weight->format == WeightFormat::bf16) return amx_bf16_items(a, begin, end);
  amx_quantized(a, begin, end, static_cast<float*>(scratch));
}

const KernelTable& table() {
  static const KernelTable kernels = [] {
    KernelTable t = avx512_vnni::table();
    t.isa = QUIRE_TEXT(QUIRE_ISA);
    t.linear_workspace_bytes = linear_workspace_bytes;
    t.linear_prepare_items = linear_prepare_items;
    t.linear_prepare = linear_prepare;
    t.linear_items = linear_items;
    t.linear_scratch_bytes = linear_scratch_bytes;
    t.linear = linear;
    return t;
  }();
  return kernels;
}

}  // namespace quire::QUIRE_ISA
