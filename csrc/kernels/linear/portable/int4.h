// y = x @ W^T for int4 weights and activations in blocks of 32 signed bytes.
//
// A block's products are exact (16-bit sums of at most 8 steps: 8 * 2 * 15 * 127 < 2^15); blocks are added in f32 in
// order with the product of the weights' and the activations' scale.
#pragma once

#include "linear/portable/cut.h"
#include "linear/portable/finish_quantized.h"
#include "linear/portable/quantize_rows.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kInt4BlockBytes = kInt4Block * kPanelColumns / 2;

QUIRE_INLINE int64_t int4_scale_bytes(const PackedLinear& w) { return kPanelColumns * (w.has_zeros ? 4 : 2); }

// sums + (dot - zero * sum of x) * (weight scale * x scale), for eight columns. Zeros: nullptr means 8.
QUIRE_INLINE F32x8 add_int4_block(F32x8 sums, I32x8 dot, int32_t x_sum, float x_scale, const uint16_t* scales,
                                  const uint16_t* zeros) {
  F32x8 v;
  if (zeros) v = fma(-load_f16(zeros), broadcast(static_cast<float>(x_sum)), to_f32(dot));
  else v = to_f32(dot - broadcast_i32(8 * x_sum));
  return fma(v, load_f16(scales) * broadcast(x_scale), sums);
}

// One block of 32 inputs: sums[6][16] += scaled (a[8][6] (quads of int8)^T * b[8][16][4] (nibbles in bytes)).
inline void gemm_u8_6x16(const int32_t* a, const uint8_t* b, const int32_t* x_sums, const float* x_scales,
                         const uint16_t* scales, const uint16_t* zeros, float* sums) {
  for (int64_t r = 0; r < kTileRows; ++r)
    for (int64_t h = 0; h < kPanelColumns; h += 8) {
      I16x16 dot = {};
      for (int64_t i = 0; i < 8; ++i)
        dot = multiply_add_u8(load_u8(b + i * 64 + h * 4), broadcast_i32(a[i * kTileRows + r]), dot);
      float* at = sums + r * kPanelColumns + h;
      store(at,
            add_int4_block(load(at), add_pairs(dot), x_sums[r], x_scales[r], scales + h, zeros ? zeros + h : nullptr));
    }
}

// MR rows x one panel over all blocks. out: [MR][16].
template <int MR, bool Zeros>
__attribute__((noinline)) void int4_tile(const int8_t* x, int64_t x_stride, const float* x_scales,
                                         const int32_t* x_sums, int64_t blocks, int64_t blocks_per_group,
                                         const uint8_t* panel, float* out) {
  const int32_t* row[MR];  // quads of int8
  unroll<MR>([&](auto r) { row[r] = reinterpret_cast<const int32_t*>(x + r * x_stride); });
  unroll<MR * 2>([&](auto i) { store(out + i * 8, zero()); });
  int64_t b = 0;
  while (b < blocks) {
    const uint16_t* scales = reinterpret_cast<const uint16_t*>(panel + blocks_per_group * kInt4BlockBytes);
    for (int64_t end = b + blocks_per_group; b < end; ++b, panel += kInt4BlockBytes) {
      I16x16 c[MR * 2];
      unroll<MR * 2>([&](auto i) { c[i] = I16x16{}; });
      unroll<4>([&](auto line) {
        prefetch(panel + line * 64 + 1024);
        const U8x32 raw0 = load_u8(panel + line * 64), raw1 = load_u8(panel + line * 64 + 32);
        const U8x32 low0 = low_nibbles(raw0), low1 = low_nibbles(raw1);
        const U8x32 high0 = high_nibbles(raw0), high1 = high_nibbles(raw1);
        unroll<MR>([&](auto r) {
          const I32x8 x0 = broadcast_i32(row[r][b * 8 + line * 2]);
          c[r * 2] = multiply_add_u8(low0, x0, c[r * 2]);
          c[r * 2 + 1] = multiply_add_u8(low1, x0, c[r * 2 + 1]);
          const I32x8 x1 = broadcast_i32(row[r][b * 8 + line * 2 + 1]);
          c[r * 2] = multiply_add_u8(high0, x1, c[r * 2]);
          c[r * 2 + 1] = multiply_add_u8(high1, x1, c[r * 2 + 1]);
        });
      });
      unroll<MR>([&](auto r) {
        unroll<2>([&](auto h) {
          float* at = out + r * 16 + h * 8;
          store(at, add_int4_block(load(at), add_pairs(c[r * 2 + h]), x_sums[r * blocks + b], x_scales[r * blocks + b],
                                   scales + h * 8, Zeros ? scales + kPanelColumns + h * 8 : nullptr));
        });
      });
    }
    panel += kPanelColumns * (Zeros ? 4 : 2);
  }
}

template <int MR>
void int4_rows(const LinearArgs& a, const QuantizedRows& q, int64_t row0, int64_t panel, int64_t panel_end) {
  const PackedLinear& w = *a.weight;
  const int8_t* x = static_cast<const int8_t*>(q.values) + row0 * q.inputs;
  const float* scales = q.scales + row0 * q.blocks;
  const int32_t* sums = q.sums + row0 * q.blocks;
  alignas(32) float tile[MR * kPanelColumns];
  for (; panel < panel_end; ++panel) {
    const int64_t per_group = w.group_size / kInt4Block;
    if (w.has_zeros) int4_tile<MR, true>(x, q.inputs, scales, sums, q.blocks, per_group, panel_at(w, panel), tile);
    else int4_tile<MR, false>(x, q.inputs, scales, sums, q.blocks, per_group, panel_at(w, panel), tile);
    finish_quantized(a, row0, MR, panel, 1, tile, kPanelColumns, nullptr, 0);
  }
}

inline void int4_direct_item(const LinearArgs& a, int64_t item) {
  const QuantizedRows q = quantized_rows<WeightFormat::int4>(a);
  const int64_t panel = item * kItemPanels, panel_end = min_of(a.weight->num_panels, panel + kItemPanels);
  for_row_groups<4>(a.m,
                    [&](auto rows, int64_t row0) { int4_rows<decltype(rows)::value>(a, q, row0, panel, panel_end); });
}

constexpr int64_t kInt4Depth = 256;  // inputs unpacked at once by the blocked path

inline void int4_blocked_item(const LinearArgs& a, int64_t item, float* scratch) {
  const PackedLinear& w = *a.weight;
  const QuantizedRows q = quantized_rows<WeightFormat::int4>(a);
  const BlockedShape s = blocked_shape(w, a.m);
  const int64_t group0 = item % s.row_blocks * s.groups_per_block;
  const int64_t groups = min_of(s.groups_per_block, s.row_groups - group0);
  const int64_t panel0 = item / s.row_blocks * kItemPanels, panels = min_of(kItemPanels, w.num_panels - panel0);
  float* sums = scratch;  // [panel][group][6][16]
  uint8_t* wide = reinterpret_cast<uint8_t*>(scratch + kSumFloats);  // [depth/4][16][4]
  for (int64_t i = 0; i < panels * groups * kTileFloats; i += 8) store(sums + i, zero());
  const int64_t per_group = w.group_size / kInt4Block, bytes = group_bytes<WeightFormat::int4>(w),
                depth_blocks = kInt4Depth / kInt4Block;
  for (int64_t b0 = 0; b0 < q.blocks; b0 += depth_blocks) {
    const int64_t b1 = min_of(q.blocks, b0 + depth_blocks);
    for (int64_t p = 0; p < panels; ++p) {
      const uint8_t* panel = panel_at(w, panel0 + p);
      for (int64_t b = b0; b < b1; ++b) {
        const uint8_t* in = panel + b / per_group * bytes + b % per_group * kInt4BlockBytes;
        uint8_t* out = wide + (b - b0) * kInt4Block * kPanelColumns;
        for (int64_t line = 0; line < 4; ++line)
          for (int64_t h = 0; h < 64; h += 32) {
            const U8x32 raw = load_u8(in + line * 64 + h), low = low_nibbles(raw), high = high_nibbles(raw);
            __builtin_memcpy(out + line * 128 + h, &low, sizeof low);
            __builtin_memcpy(out + line * 128 + 64 + h, &high, sizeof high);
          }
      }
      for (int64_t g = 0; g < groups; ++g) {
        const int32_t* x = static_cast<const int32_t*>(q.values) + (group0 + g) * (q.inputs / 4) * kTileRows;
        const int64_t at = (group0 + g) * q.blocks * kTileRows;
        for (int64_t b = b0; b < b1; ++b) {
          const uint16_t* scales =
              reinterpret_cast<const uint16_t*>(panel + b / per_group * bytes + per_group * kInt4BlockBytes);
          gemm_u8_6x16(x + b * 8 * kTileRows, wide + (b - b0) * kInt4Block * kPanelColumns, q.sums + at + b * kTileRows,
                       q.scales + at + b * kTileRows, scales, w.has_zeros ? scales + kPanelColumns : nullptr,
                       sums + (p * groups + g) * kTileFloats);
        }
      }
    }
  }
  for (int64_t p = 0; p < panels; ++p) {
    const int64_t row0 = group0 * kTileRows;
    finish_quantized(a, row0, min_of(groups * kTileRows, a.m - row0), panel0 + p, 1, sums + p * groups * kTileFloats,
                     kPanelColumns, nullptr, 0);
  }
}

inline void int4_items(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  for (int64_t item = begin; item < end; ++item) {
    if (a.m < kBlockedRows) int4_direct_item(a, item);
    else int4_blocked_item(a, item, static_cast<float*>(scratch));
  }
}

constexpr LinearKernels int4_kernels() {
  LinearKernels kernels = quantized_kernels<WeightFormat::int4>();
  kernels.run = int4_items;
  return kernels;
}

}  // namespace quire::QUIRE_ISA
