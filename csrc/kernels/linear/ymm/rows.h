// How the 256-bit linears lay out rows and write results.
//
// Rows are packed by tile: inputs one after the other, each with the tile's rows side by side, so that a tile reads one
// stream. All tiles of a linear are of one height, at most YmmShape::kRows, but the last, which has the rest: no row is padded.
#pragma once

#include "linear/gate_tile.h"
#include "linear/layout.h"
#include "linear/row_cut.h"
#include "vec/avx2.h"
#include "vec/math.h"

namespace quire::QUIRE_ISA {

struct YmmShape {
  static constexpr int kRows = 6;  // 12 sums, two vectors of weights, one of x and one to spare
  static constexpr int64_t kBlockRows = 192;
  static constexpr int kPanels = 4, kFewRows = 6, kFewPanels = 4;
};
constexpr int64_t kFetchNear = 2048;  // bytes ahead in a panel to be fetched where no later panel is known

// The tile of a row: its first row and its height.
struct TileRows {
  int64_t first, count;
};
QUIRE_INLINE int64_t tile_height(int64_t m) { return ceil_div(m, row_cut<YmmShape>(m).groups); }
QUIRE_INLINE TileRows tile_rows(int64_t group, int64_t m) {
  const int64_t height = tile_height(m), first = group * height;
  return {first, min_of(height, m - first)};
}

// 32-bit lanes of a tile's rows, count of each, side by side: out[lane][rows].
inline void pack_lanes(const void* const* rows, int64_t num_rows, int64_t count, int32_t* out) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    I32x8 v[8] = {};
    for (int64_t r = 0; r < num_rows; ++r) v[r] = load_i32(static_cast<const uint8_t*>(rows[r]) + i * 4);
    transpose(v);
    for (int64_t lane = 0; lane < 8; ++lane, out += num_rows) {
      // Whole vectors where the excess is overwritten by the next lanes of these eight.
      if ((lane * num_rows) + 8 <= 8 * num_rows) store_i32(out, v[lane]);
      else store_part(reinterpret_cast<float*>(out), as_f32(v[lane]), num_rows);
    }
  }
  for (; i < count; ++i, out += num_rows)
    for (int64_t r = 0; r < num_rows; ++r) out[r] = static_cast<const int32_t*>(rows[r])[i];
}

// Where a tile reads weights and what it asks for meanwhile: the same place of the panels that come later.
struct TileWeights {
  const uint8_t* panels;
  int64_t panel_bytes;
  const uint8_t* fetch;  // of the first panel, the others panel_bytes apart
  int64_t fetch_bytes;  // of each panel
  const uint8_t* wide;  // the panels as they were widened before, wide_bytes apart; or nullptr
  int64_t wide_bytes;
};

// Asks for line after line of what a tile shall fetch, in the end for the last one again and again: a branch costs more.
struct LineFetch {
  const uint8_t* at;
  const uint8_t* last;
  int64_t panel_bytes;
  explicit LineFetch(const TileWeights& t)
      : at(t.fetch_bytes ? t.fetch : t.panels), last(at + max_of(t.fetch_bytes - 64, 0)), panel_bytes(t.panel_bytes) {}
  template <int NP>
  QUIRE_INLINE void line() {
    for (int p = 0; p < NP; ++p) prefetch(at + p * panel_bytes);
    at = at < last ? at + 64 : at;
  }
};

// y = sums (* column factors) (* row scales) (+ bias) (+ residual) for a tile of sums [rows][panels * 16]. Gated, the
// result is made in the place of the sums first.
inline void finish_tile(const LinearArgs& a, const TileRows& rows, int64_t panel, int64_t panels, float* sums,
                        bool factors, const float* row_scales) {
  const PackedLinear& w = *a.weight;
  const int64_t column0 = panel * kPanelColumns, width = panels * kPanelColumns, columns = min_of(width, w.n - column0);
  float* const y = a.y + rows.first * a.y_stride + column0;
  float* const out = a.gate ? sums : y;
  const int64_t out_stride = a.gate ? width : a.y_stride;
  for (int64_t r = 0; r < rows.count; ++r) {
    const int64_t row = rows.first + r;
    const F32x8 row_factor = broadcast(row_scales ? row_scales[row] : 1.0f);
    for_lanes(columns, [&](int64_t i, int64_t count) {
      F32x8 v = load(sums + r * width + i);
      if (factors) v = v * load(column_factors(w, panel + i / kPanelColumns) + i % kPanelColumns) * row_factor;
      if (a.bias) v = v + load_some(a.bias + column0 + i, count);
      if (a.residual) v = v + load_some(a.residual + row * a.residual_stride + column0 + i, count);
      store_some(out + r * out_stride + i, v, count);
    });
  }
  if (a.gate) gate_tile(a, rows.count, columns, sums, width, y);
}

// Asks for the lines of y that a tile will write: they lie far apart, and the stores would wait for them.
QUIRE_INLINE void expect_results(const LinearArgs& a, const TileRows& rows, int64_t panel, int64_t panels) {
  for (int64_t r = rows.first; r < rows.first + rows.count; ++r)
    for (int64_t p = panel; p < panel + panels; ++p) __builtin_prefetch(a.y + r * a.y_stride + p * kPanelColumns, 1, 3);
}

}  // namespace quire::QUIRE_ISA
