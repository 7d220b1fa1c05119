// The results of the portable integer linears.
#pragma once

#include "linear/layout.h"
#include "linear/portable/store_tile.h"

namespace quire::QUIRE_ISA {

// Applies the column factors and row scales, then bias and residual: sums [rows][stride] -> y.
inline void finish_quantized(const LinearArgs& a, int64_t row0, int64_t rows, int64_t panel, int64_t panels,
                             float* sums, int64_t stride, const float* row_scales, int64_t row_scale_stride) {
  const PackedLinear& w = *a.weight;
  for (int64_t r = 0; r < rows; ++r) {
    const F32x8 row_factor = broadcast(row_scales ? row_scales[r * row_scale_stride] : 1.0f);
    for (int64_t p = 0; p < panels; ++p)
      for (int64_t h = 0; h < kPanelColumns; h += 8) {
        float* at = sums + r * stride + p * kPanelColumns + h;
        store(at, load(at) * load(column_factors(w, panel + p) + h) * row_factor);
      }
  }
  const int64_t column0 = panel * kPanelColumns;
  store_tile(a, row0, rows, column0, min_of(panels * kPanelColumns, w.n - column0), sums, stride);
}

}  // namespace quire::QUIRE_ISA
