// y = x @ W^T for int8 and int4 weights on NEON.
//
// Rows are rounded to signed bytes in blocks of 32 inputs, a scale a block: x = scale * q, |q| <= 127. Products of a dot
// (32 inputs, or 16 when the weights' groups are that small) are summed exactly in int32 by dot_tile, which is what
// the tables differ in; dots are added in f32 in order. One path for every M, so a row has the same bits in all.
#pragma once

#include "linear/pack_quantized.h"
#include "linear/portable/cut.h"
#include "linear/portable/round_row.h"
#include "linear/portable/store_tile.h"
#ifdef __ARM_FEATURE_MATMUL_INT8
#include "linear/neon/matrix.h"
#else
#include "linear/neon/dot.h"
#endif

namespace quire::QUIRE_ISA {

constexpr int64_t kXBlock = 32;

struct ByteRows {
  int8_t* values;  // [M][inputs]
  float* scales;  // [M][blocks]
  int32_t* sums;  // [M][blocks], of the values; int4 only
  int64_t inputs;  // padded to whole blocks
  int64_t blocks;
};
inline ByteRows byte_rows(const PackedLinear& w, int64_t m, void* workspace) {
  ByteRows q;
  q.blocks = ceil_div(padded_inputs(w), kXBlock);
  q.inputs = q.blocks * kXBlock;
  q.values = static_cast<int8_t*>(workspace);
  q.scales = reinterpret_cast<float*>(q.values + m * q.inputs);
  q.sums = reinterpret_cast<int32_t*>(q.scales + m * q.blocks);
  return q;
}
template <WeightFormat F>
int64_t byte_rows_bytes(const PackedLinear& w, int64_t m) {
  const ByteRows q = byte_rows(w, m, nullptr);
  return m * (q.inputs + q.blocks * (F == WeightFormat::int4 ? 8 : 4));
}

// Items: rows.
template <WeightFormat F>
void quantize_byte_rows(const LinearArgs& a, int64_t begin, int64_t end, void*) {
  const PackedLinear& w = *a.weight;
  const ByteRows q = byte_rows(w, a.m, a.workspace);
  for (int64_t row = begin; row < end; ++row)
    for (int64_t b = 0; b < q.blocks; ++b) {
      const float* x = a.x + row * a.x_stride + b * kXBlock;
      const int64_t count = max_of(0, min_of(kXBlock, w.k - b * kXBlock));
      int8_t* values = q.values + row * q.inputs + b * kXBlock;
      const float scale = row_scale(x, count, 127.0f);
      round_scaled(x, count, inverse_scale(scale), kXBlock, values);
      q.scales[row * q.blocks + b] = scale;
      if constexpr (F != WeightFormat::int4) continue;
      const int16x8_t pairs = vpadalq_s8(vpaddlq_s8(vld1q_s8(values)), vld1q_s8(values + 16));
      q.sums[row * q.blocks + b] = vaddlvq_s16(pairs);
    }
}

enum class Scales { none, group16, group, zeros };  // per channel; per group; with zero points of their own

// MR rows from row0 on times one panel, over all inputs: sums [MR][16].
template <WeightFormat F, Scales S, int MR>
__attribute__((noinline)) void quantized_tile(const PackedLinear& w, const ByteRows& q, int64_t row0,
                                              const uint8_t* panel, float* sums) {
  constexpr bool int4 = F == WeightFormat::int4;
  constexpr int kInputs = S == Scales::group16 ? 16 : 32;  // of a dot
  constexpr int kBytes = kInputs * 16 / (int4 ? 2 : 1);
  const int64_t dots_per_group = group_inputs(w) / kInputs, groups = num_groups(w);
  const int8_t* x[MR];
  unroll<MR>([&](auto r) { x[r] = q.values + (row0 + r) * q.inputs; });
  alignas(16) float group[MR * 16];
  float* const into = S == Scales::none ? sums : group;
  unroll<MR * 2>([&](auto i) { store(sums + i * 8, zero()); });
  int64_t dot = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const uint16_t* scales = reinterpret_cast<const uint16_t*>(panel + dots_per_group * kBytes);
    if constexpr (S != Scales::none) unroll<MR * 2>([&](auto i) { store(group + i * 8, zero()); });
    for (int64_t d = 0; d < dots_per_group; ++d, ++dot, panel += kBytes) {
      const int64_t block = S == Scales::group16 ? dot / 2 : dot;
      const int32_t* block_sums = q.sums + row0 * q.blocks + block;
      int32x4_t c[MR * 4];
      dot_tile<int4, MR, kInputs>(x, dot * kInputs, panel, c);
      unroll<MR>([&](auto r) {
        const float x_scale = q.scales[(row0 + r) * q.blocks + block];
        unroll<4>([&](auto v) {
          float32x4_t value;
          if constexpr (!int4) {
            value = vcvtq_f32_s32(c[r * 4 + v]);
          } else if constexpr (S == Scales::zeros) {
            const float32x4_t zero_point = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(scales + kPanelColumns + v * 4)));
            value = vfmsq_n_f32(vcvtq_f32_s32(c[r * 4 + v]), zero_point, static_cast<float>(block_sums[r * q.blocks]));
          } else {
            value = vcvtq_f32_s32(vsubq_s32(c[r * 4 + v], vdupq_n_s32(8 * block_sums[r * q.blocks])));
          }
          float* at = into + r * 16 + v * 4;
          vst1q_f32(at, vfmaq_n_f32(vld1q_f32(at), value, x_scale));
        });
      });
    }
    if constexpr (S != Scales::none) {
      unroll<2>([&](auto h) {
        const F32x8 scale = load_f16(scales + h * 8);
        unroll<MR>([&](auto r) {
          float* at = sums + r * 16 + h * 8;
          store(at, fma(load(group + r * 16 + h * 8), scale, load(at)));
        });
      });
      panel += kPanelColumns * (S == Scales::zeros ? 4 : 2);
    }
  }
}

template <WeightFormat F, Scales S, int MR>
void quantized_rows_of(const LinearArgs& a, const ByteRows& q, int64_t row0, int64_t panel) {
  const PackedLinear& w = *a.weight;
  alignas(64) float sums[MR * kPanelColumns];
  quantized_tile<F, S, MR>(w, q, row0, panel_at(w, panel), sums);
  const float* factors = column_factors(w, panel);
  for (int64_t i = 0; i < MR * kPanelColumns; i += 8)
    store(sums + i, load(sums + i) * load(factors + i % kPanelColumns));
  const int64_t column0 = panel * kPanelColumns;
  store_tile(a, row0, MR, column0, min_of(kPanelColumns, w.n - column0), sums, kPanelColumns);
}

// Items: kItemPanels panels times a block of rows.
template <WeightFormat F, Scales S>
void quantized_items(const LinearArgs& a, int64_t begin, int64_t end) {
  const ByteRows q = byte_rows(*a.weight, a.m, a.workspace);
  const int64_t row_blocks = ceil_div(a.m, kRowBlock);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row_begin = item % row_blocks * kRowBlock, row_end = min_of(a.m, row_begin + kRowBlock);
    const int64_t panel_begin = item / row_blocks * kItemPanels;
    const int64_t panel_end = min_of(a.weight->num_panels, panel_begin + kItemPanels);
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
      int64_t row = row_begin;
      for (; row + 4 <= row_end; row += 4) quantized_rows_of<F, S, 4>(a, q, row, panel);
      switch (row_end - row) {
        case 3: quantized_rows_of<F, S, 3>(a, q, row, panel); break;
        case 2: quantized_rows_of<F, S, 2>(a, q, row, panel); break;
        case 1: quantized_rows_of<F, S, 1>(a, q, row, panel); break;
        default: break;
      }
    }
  }
}

template <WeightFormat F>
void quantized_linear(const LinearArgs& a, int64_t begin, int64_t end, void*) {
  const PackedLinear& w = *a.weight;
  if constexpr (F == WeightFormat::int4) {
    if (w.has_zeros) return quantized_items<F, Scales::zeros>(a, begin, end);
    return quantized_items<F, Scales::group>(a, begin, end);
  } else {
    if (w.group_size == 0) return quantized_items<F, Scales::none>(a, begin, end);
    if (w.group_size == 16) return quantized_items<F, Scales::group16>(a, begin, end);
    return quantized_items<F, Scales::group>(a, begin, end);
  }
}

inline int64_t each_row(const PackedLinear&, int64_t m) { return m; }
inline int64_t quantized_item_count(const PackedLinear& w, int64_t m) {
  return ceil_div(w.num_panels, kItemPanels) * ceil_div(m, kRowBlock);
}
inline int64_t no_scratch(const PackedLinear&, int64_t) { return 0; }

template <WeightFormat F>
constexpr LinearKernels quantized_kernels() {
  LinearKernels kernels = packed_integers<F>();
  kernels.workspace_bytes = byte_rows_bytes<F>;
  kernels.prepare_items = each_row;
  kernels.prepare = quantize_byte_rows<F>;
  kernels.prepare_rows = one_row;
  kernels.items = quantized_item_count;
  kernels.scratch_bytes = no_scratch;
  kernels.run = quantized_linear<F>;
  return kernels;
}

}  // namespace quire::QUIRE_ISA
