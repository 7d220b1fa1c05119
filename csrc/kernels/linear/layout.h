// Layout of packed weights: panels of 16 output columns.
//
//   f32   [K][16] f32
//   bf16  [K/2][16][2] bf16: a 32-bit lane holds two consecutive inputs of one column
//   f16   [K][16] f16
//   int8  groups of { [g/u][16][u] bytes of value ^ kInt8Flip; [16] f16 scale unless per channel }, then [16] f32
//         column factor; u is the ISA's kInt8Unit
//   int4  groups of { g/32 x [4][16][4] bytes, each byte inputs i (low) and i + 4 (high) of 8; [16] f16 scale;
//         [16] f16 zero point if has_zeros }, then [16] f32 column factor
// The column factor is a power of two that brings the largest group scale of the column near 1, so that f16
// scales neither overflow nor lose digits to denormals; per channel it is the scale itself.
#pragma once

#include "isa.h"
#include "kernel_types.h"
#include "vec/scalar.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kPanelColumns = 16;
constexpr int64_t kInt8Block = 512;     // inputs whose products fit an int32 sum: 512 * 127 * 32767 < 2^31
constexpr int64_t kInt4Block = 32;      // inputs that share one activation scale
constexpr int64_t kFactorBytes = kPanelColumns * 4;
QUIRE_INLINE int64_t int8_index(int64_t i, int64_t column) {
  return i / kInt8Unit * kInt8Unit * kPanelColumns + column * kInt8Unit + i % kInt8Unit;
}

QUIRE_INLINE int64_t num_groups(const PackedLinear& w) { return w.group_size ? ceil_div(w.k, w.group_size) : 1; }
// Inputs covered by the packed quantized values, zero-padded.
QUIRE_INLINE int64_t padded_inputs(const PackedLinear& w) {
  return w.group_size ? round_up(w.k, w.group_size) : round_up(w.k, 32);
}
QUIRE_INLINE int64_t group_inputs(const PackedLinear& w) { return w.group_size ? w.group_size : padded_inputs(w); }
template <WeightFormat F>
QUIRE_INLINE int64_t group_bytes(const PackedLinear& w) {
  const int64_t values = group_inputs(w) * kPanelColumns;
  if constexpr (F == WeightFormat::int8) return values + (w.group_size ? kPanelColumns * 2 : 0);
  else return values / 2 + kPanelColumns * (w.has_zeros ? 4 : 2);
}

// A matrix in panels of `panel_bytes`.
inline PackedLinear panels_of(WeightFormat format, int64_t n, int64_t k, int64_t panel_bytes) {
  PackedLinear w;
  w.format = format;
  w.n = n;
  w.k = k;
  w.panel_columns = kPanelColumns;
  w.num_panels = ceil_div(n, kPanelColumns);
  w.panel_bytes = panel_bytes;
  w.bytes = w.num_panels * panel_bytes;
  return w;
}

QUIRE_INLINE uint8_t* panel_at(const PackedLinear& w, int64_t panel) {
  return static_cast<uint8_t*>(w.data) + panel * w.panel_bytes;
}
QUIRE_INLINE const float* column_factors(const PackedLinear& w, int64_t panel) {
  return reinterpret_cast<const float*>(panel_at(w, panel) + w.panel_bytes - kFactorBytes);
}

}  // namespace quire::QUIRE_ISA
