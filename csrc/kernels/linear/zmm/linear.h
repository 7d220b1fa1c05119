// The linears of an AVX-512 table.
#pragma once

#include "linear/zmm/float.h"
#include "linear/zmm/quantized.h"

namespace quire::QUIRE_ISA {

inline int64_t linear_workspace_bytes(const PackedLinear& w, int64_t m) {
  switch (w.format) {
    case WeightFormat::f32: return float_workspace_bytes<WeightFormat::f32>(w, m);
    case WeightFormat::bf16: return float_workspace_bytes<WeightFormat::bf16>(w, m);
    case WeightFormat::f16: return float_workspace_bytes<WeightFormat::f16>(w, m);
    default: return zmm_rows_bytes(w, m);
  }
}
inline int64_t linear_prepare_items(const PackedLinear& w, int64_t m) { return linear_workspace_bytes(w, m) ? m : 0; }
inline int64_t linear_prepare_rows(const PackedLinear&, int64_t) { return 1; }
inline void linear_prepare(const LinearArgs& a, int64_t begin, int64_t end, void*) {
  switch (a.weight->format) {
    case WeightFormat::f32: return copy_rows<WeightFormat::f32>(a, begin, end);
    case WeightFormat::bf16: return copy_rows<WeightFormat::bf16>(a, begin, end);
    case WeightFormat::f16: return copy_rows<WeightFormat::f16>(a, begin, end);
    default: return zmm_quantize_rows(a, begin, end);
  }
}
inline int64_t linear_items(const PackedLinear& w, int64_t m) {
  return is_float_format(w.format) ? cut_items<FloatShape>(w, m) : cut_items<QuantizedShape>(w, m);
}
inline int64_t linear_scratch_bytes(const PackedLinear& w, int64_t) {
  return is_float_format(w.format) ? cut_scratch_bytes<FloatShape>() : cut_scratch_bytes<QuantizedShape>();
}
inline void linear(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  float* sums = static_cast<float*>(scratch);
  switch (a.weight->format) {
    case WeightFormat::f32: return float_items<WeightFormat::f32>(a, begin, end, sums);
    case WeightFormat::bf16: return float_items<WeightFormat::bf16>(a, begin, end, sums);
    case WeightFormat::f16: return float_items<WeightFormat::f16>(a, begin, end, sums);
    default: return quantized_linear(a, begin, end, sums);
  }
}

}  // namespace quire::QUIRE_ISA
