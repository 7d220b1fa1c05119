// Activations of the integer linears, quantized row by row.
//
// The workspace holds, for rounded-up rows: the values, then (64-byte aligned) f32 scales, then for int4 i32 sums.
//   direct path:  values [M][inputs];               scales [M][blocks]
//   blocked path: values [M/6][inputs/unit][6][unit]; scales [M/6][blocks][6]
// int8: values are int16, a unit is 2, one block a row. int4: values are int8, a unit is 4, blocks are 32 inputs.
#pragma once

#include "linear/pack_quantized.h"
#include "linear/portable/cut.h"
#include "linear/portable/round_row.h"

namespace quire::QUIRE_ISA {

struct QuantizedRows {
  void* values;
  float* scales;
  int32_t* sums;         // of the block's values; int4 only
  int64_t inputs;        // padded
  int64_t blocks;        // per row
  bool blocked;
};

template <WeightFormat F>
int64_t quantized_rows_bytes(const PackedLinear& w, int64_t m) {
  const int64_t rows = round_up(m, kTileRows), inputs = padded_inputs(w);
  if constexpr (F == WeightFormat::int8) return round_up(rows * inputs * 2, 64) + round_up(rows * 4, 64);
  const int64_t blocks = rows * (inputs / kInt4Block);
  return round_up(rows * inputs, 64) + 2 * round_up(blocks * 4, 64);
}

template <WeightFormat F>
QuantizedRows quantized_rows(const LinearArgs& a) {
  const PackedLinear& w = *a.weight;
  constexpr bool int8 = F == WeightFormat::int8;
  const int64_t rows = round_up(a.m, kTileRows);
  QuantizedRows q;
  q.inputs = padded_inputs(w);
  q.blocks = int8 ? 1 : q.inputs / kInt4Block;
  q.blocked = a.m >= kBlockedRows;
  q.values = a.workspace;
  uint8_t* at = static_cast<uint8_t*>(a.workspace) + round_up(rows * q.inputs * (int8 ? 2 : 1), 64);
  q.scales = reinterpret_cast<float*>(at);
  q.sums = int8 ? nullptr : reinterpret_cast<int32_t*>(at + round_up(rows * q.blocks * 4, 64));
  return q;
}

// Stores `count` values of a row, a multiple of the unit, where the layout wants them.
template <class Int, int Unit>
QUIRE_INLINE void place_values(const QuantizedRows& q, int64_t row, int64_t first, int64_t count, const Int* values) {
  Int* out = static_cast<Int*>(q.values);
  if (!q.blocked) {
    __builtin_memcpy(out + row * q.inputs + first, values, static_cast<size_t>(count) * sizeof(Int));
    return;
  }
  out += (row / kTileRows * (q.inputs / Unit) + first / Unit) * kTileRows * Unit + row % kTileRows * Unit;
  for (int64_t i = 0; i < count; i += Unit, out += kTileRows * Unit)
    __builtin_memcpy(out, values + i, Unit * sizeof(Int));
}

// Items: rows, in the blocked layout up to a whole tile.
template <WeightFormat F>
void quantize_rows(const LinearArgs& a, int64_t begin, int64_t end, void*) {
  const PackedLinear& w = *a.weight;
  const QuantizedRows q = quantized_rows<F>(a);
  constexpr int64_t kChunk = 512;
  for (int64_t row = begin; row < end; ++row) {
    const float* x = a.x + row * a.x_stride;
    const int64_t inputs = row < a.m ? w.k : 0;
    const int64_t at = q.blocked ? row / kTileRows * q.blocks * kTileRows + row % kTileRows : row * q.blocks;
    const int64_t step = q.blocked ? kTileRows : 1;
    if constexpr (F == WeightFormat::int8) {
      const float scale = row_scale(x, inputs, 32767.0f), inverse = inverse_scale(scale);
      q.scales[at] = scale;
      int16_t values[kChunk];
      for (int64_t k = 0; k < q.inputs; k += kChunk) {
        const int64_t count = min_of(kChunk, q.inputs - k);
        round_scaled(x + k, inputs - k, inverse, count, values);
        place_values<int16_t, 2>(q, row, k, count, values);
      }
    } else {
      for (int64_t b = 0; b < q.blocks; ++b) {
        const int64_t k = b * kInt4Block, count = max_of(0, min_of(kInt4Block, inputs - k));
        const float scale = row_scale(x + k, count, 127.0f);
        int8_t values[kInt4Block];
        round_scaled(x + k, count, inverse_scale(scale), kInt4Block, values);
        place_values<int8_t, 4>(q, row, k, kInt4Block, values);
        int32_t sum = 0;
        for (int64_t i = 0; i < kInt4Block; ++i) sum += values[i];
        q.scales[at + b * step] = scale;
        q.sums[at + b * step] = sum;
      }
    }
  }
}

inline int64_t quantized_row_items(const PackedLinear&, int64_t m) {
  return m < kBlockedRows ? m : round_up(m, kTileRows);
}

// Preparation and cut, without the products.
template <WeightFormat F>
constexpr LinearKernels quantized_kernels() {
  LinearKernels kernels = packed_integers<F>();
  kernels.workspace_bytes = quantized_rows_bytes<F>;
  kernels.prepare_items = quantized_row_items;
  kernels.prepare = quantize_rows<F>;
  kernels.prepare_rows = one_row;
  kernels.items = blocked_items;
  kernels.scratch_bytes = blocked_scratch_bytes;
  return kernels;
}

}  // namespace quire::QUIRE_ISA
