// How the 512-bit linears cut their work.
//
// A work item is a few neighbouring panels times a block of rows. Few rows (at most kTileRowsMax) are one tile that
// runs through all inputs with its sums in registers: the weights are read once, as several streams. More rows take
// the inputs in chunks, so that a chunk of the panels stays in the first-level cache while the rows pass over it;
// sums wait in `scratch` between chunks. Tiles are of all heights up to the largest, and no row is padded: a group's
// height is what divides the rows most evenly.
#pragma once

#include "linear/gate_tile.h"
#include "linear/layout.h"
#include "linear/row_cut.h"
#include "vec/avx512.h"

namespace quire::QUIRE_ISA {

inline int64_t one_row(const PackedLinear&, int64_t) { return 1; }
template <class Shape>
int64_t cut_scratch_bytes(const PackedLinear&, int64_t) {
  return (Shape::kBlockRows + Shape::kRows) * Shape::kPanels * kPanelColumns * 4;
}

// y = sums (* factors) (+ bias) (+ residual) for a tile [rows][stride] of sums; factors: one per column, or nullptr.
// Row by row: rows of y are a power of two apart as a rule, and lines of one column of panels would meet in a few cache sets.
// Gated, the result is made in the place of the sums first.
inline void finish_tile(const LinearArgs& a, int64_t row0, int64_t rows, int64_t panel, int64_t panels, float* sums,
                        int64_t stride, bool factors) {
  const PackedLinear& w = *a.weight;
  const int64_t column0 = panel * kPanelColumns;
  float* const y = a.y + row0 * a.y_stride + column0;
  float* const out = a.gate ? sums : y;
  const int64_t out_stride = a.gate ? stride : a.y_stride;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t column = column0 + p * kPanelColumns;
      const __mmask16 lanes = lanes16(w.n - column);
      F32x16 v = load16(sums + r * stride + p * kPanelColumns);
      if (factors) v = v * load16(column_factors(w, panel + p));
      if (a.bias) v = v + load16_part(a.bias + column, lanes);
      if (a.residual) v = v + load16_part(a.residual + (row0 + r) * a.residual_stride + column, lanes);
      store16_part(out + r * out_stride + p * kPanelColumns, v, lanes);
    }
  }
  if (a.gate) gate_tile(a, rows, min_of(panels * kPanelColumns, w.n - column0), sums, stride, y);
}

}  // namespace quire::QUIRE_ISA
