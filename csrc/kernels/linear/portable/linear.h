// Chooses the path of a linear by weight format and number of rows.
#pragma once

#include "linear/portable/float.h"
#include "linear/portable/gemm.h"
#include "linear/portable/int4.h"
#include "linear/portable/int8.h"

namespace quire::QUIRE_ISA {

inline int64_t linear_workspace_bytes(const PackedLinear& w, int64_t m) {
  if (!is_float_format(w.format)) return quantized_rows_bytes(w, m);
  return m < kBlockedRows ? 0 : round_up(m, kTileRows) * w.k * 4;
}
inline int64_t linear_prepare_items(const PackedLinear& w, int64_t m) {
  if (!is_float_format(w.format)) return m < kBlockedRows ? m : round_up(m, kTileRows);
  return m < kBlockedRows ? 0 : ceil_div(m, kTileRows);
}
inline int64_t linear_prepare_rows(const PackedLinear& w, int64_t m) {
  return is_float_format(w.format) && m >= kBlockedRows ? kTileRows : 1;
}
inline void linear_prepare(const LinearArgs& a, int64_t begin, int64_t end, void*) {
  if (is_float_format(a.weight->format)) pack_rows(a, begin, end);
  else quantize_rows(a, begin, end);
}

inline int64_t linear_items(const PackedLinear& w, int64_t m) {
  const BlockedShape s = blocked_shape(w, m);
  return m < kBlockedRows ? s.column_items : s.column_items * s.row_blocks;
}
inline int64_t linear_scratch_bytes(const PackedLinear&, int64_t m) {
  return m < kBlockedRows ? 0 : (kSumFloats + kDepth * kPanelColumns) * 4;
}

template <WeightFormat F>
void linear_float(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  for (int64_t item = begin; item < end; ++item) {
    if (a.m < kBlockedRows) direct_item<F>(a, item);
    else blocked_item<F, PortableGemm>(a, item, static_cast<float*>(scratch));
  }
}

inline void linear(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  switch (a.weight->format) {
    case WeightFormat::f32: return linear_float<WeightFormat::f32>(a, begin, end, scratch);
    case WeightFormat::bf16: return linear_float<WeightFormat::bf16>(a, begin, end, scratch);
    case WeightFormat::f16: return linear_float<WeightFormat::f16>(a, begin, end, scratch);
    case WeightFormat::int8:
      for (int64_t item = begin; item < end; ++item)
        if (a.m < kBlockedRows) int8_direct_item(a, item);
        else int8_blocked_item(a, item, static_cast<float*>(scratch));
      return;
    case WeightFormat::int4:
      for (int64_t item = begin; item < end; ++item)
        if (a.m < kBlockedRows) int4_direct_item(a, item);
        else int4_blocked_item(a, item, static_cast<float*>(scratch));
      return;
  }
}

}  // namespace quire::QUIRE_ISA
