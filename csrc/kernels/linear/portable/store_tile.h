// The results of a tile of the portable and NEON linears.
#pragma once

#include "linear/gate_tile.h"
#include "vec/math.h"

namespace quire::QUIRE_ISA {

// Writes a tile [rows][tile_stride] of sums to y, with bias and residual. columns may end inside a vector. Gated, the
// result is made in the place of the sums first.
inline void store_tile(const LinearArgs& a, int64_t row0, int64_t rows, int64_t column0, int64_t columns, float* tile,
                       int64_t tile_stride) {
  float* const y = a.y + row0 * a.y_stride + column0;
  float* const out = a.gate ? tile : y;
  const int64_t out_stride = a.gate ? tile_stride : a.y_stride;
  for (int64_t r = 0; r < rows; ++r) {
    const float* in = tile + r * tile_stride;
    const float* residual = a.residual ? a.residual + (row0 + r) * a.residual_stride + column0 : nullptr;
    for_lanes(columns, [&](int64_t i, int64_t count) {
      F32x8 v = load(in + i);
      if (a.bias) v = v + load_some(a.bias + column0 + i, count);
      if (residual) v = v + load_some(residual + i, count);
      store_some(out + r * out_stride + i, v, count);
    });
  }
  if (a.gate) gate_tile(a, rows, columns, tile, tile_stride, y);
}

}  // namespace quire::QUIRE_ISA
