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

QUIRE_INLINE bool is_float_format(WeightFormat f) { return f <= WeightFormat::f16; }
QUIRE_INLINE int64_t num_groups(const PackedLinear& w) { return w.group_size ? ceil_div(w.k, w.group_size) : 1; }
// Inputs covered by the packed quantized values, zero-padded.
QUIRE_INLINE int64_t padded_inputs(const PackedLinear& w) {
  return w.group_size ? round_up(w.k, w.group_size) : round_up(w.k, 32);
}
QUIRE_INLINE int64_t group_inputs(const PackedLinear& w) { return w.group_size ? w.group_size : padded_inputs(w); }
QUIRE_INLINE int64_t group_bytes(const PackedLinear& w) {
  const int64_t values = group_inputs(w) * kPanelColumns;
  if (w.format == WeightFormat::int8) return values + (w.group_size ? kPanelColumns * 2 : 0);
  return values / 2 + kPanelColumns * (w.has_zeros ? 4 : 2);
}

inline PackedLinear linear_layout(WeightFormat format, int64_t n, int64_t k, int64_t group_size, bool has_zeros) {
  if (format == WeightFormat::int8 && group_size &&
      (group_size % 16 || (group_size > 16 && group_size % 32) || group_size > kInt8Block))
    __builtin_trap();
  if (format == WeightFormat::int4 && group_size != 32 && group_size != 64 && group_size != 128) __builtin_trap();
  PackedLinear w;
  w.format = format;
  w.n = n;
  w.k = k;
  w.group_size = is_float_format(format) ? 0 : group_size;
  w.has_zeros = format == WeightFormat::int4 && has_zeros;
  w.panel_columns = kPanelColumns;
  w.num_panels = ceil_div(n, kPanelColumns);
  if (format == WeightFormat::f32) w.panel_bytes = k * kPanelColumns * 4;
  else if (format == WeightFormat::bf16) w.panel_bytes = round_up(k, 2) * kPanelColumns * 2;
  else if (format == WeightFormat::f16) w.panel_bytes = k * kPanelColumns * 2;
  else w.panel_bytes = num_groups(w) * group_bytes(w) + kFactorBytes;
  w.bytes = w.num_panels * w.panel_bytes;
  return w;
}

QUIRE_INLINE uint8_t* panel_at(const PackedLinear& w, int64_t panel) {
  return static_cast<uint8_t*>(w.data) + panel * w.panel_bytes;
}
QUIRE_INLINE const float* column_factors(const PackedLinear& w, int64_t panel) {
  return reinterpret_cast<const float*>(panel_at(w, panel) + w.panel_bytes - kFactorBytes);
}

}  // namespace quire::QUIRE_ISA
