// y = x @ W^T for int8 weights and rows quantized to 16 bits.
//
// Products are summed exactly in int32 over a block of inputs (a scale group, or kInt8Block of them), blocks in
// f32 in order: a row has the same bits in both paths.
#pragma once

#include "linear/portable/cut.h"
#include "linear/portable/finish_quantized.h"
#include "linear/portable/quantize_rows.h"

namespace quire::QUIRE_ISA {

QUIRE_INLINE int64_t int8_block(const PackedLinear& w) { return w.group_size ? w.group_size : kInt8Block; }

// sums += block * scale for one vector of eight columns; scales == nullptr: per channel, scaled at the end.
QUIRE_INLINE void add_block(float* sums, I32x8 block, const uint16_t* scales) {
  const F32x8 v = to_f32(block);
  store(sums, scales ? fma(v, load_f16(scales), load(sums)) : load(sums) + v);
}

// c[6][16] (i32) = a[pairs][6] (pairs of int16)^T * b[pairs][16][2] (int16).
inline void gemm_i16_6x16(int64_t pairs, const int32_t* a, const int16_t* b, int32_t* c) {
  for (int64_t r = 0; r < kTileRows; ++r)
    for (int64_t h = 0; h < kPanelColumns; h += 8) {
      I32x8 sum = {};
      for (int64_t i = 0; i < pairs; ++i) {
        I16x16 w;
        __builtin_memcpy(&w, b + i * 32 + h * 2, sizeof w);
        sum = multiply_add_i16(w, broadcast_i32(a[i * kTileRows + r]), sum);
      }
      store_i32(c + r * kPanelColumns + h, sum);
    }
}

// The hot loop: values of MR rows times NP panels over `pairs` pairs of inputs, added to out [MR][NP * 16] unless
// that is to be started.
template <int MR, int NP, bool Start>
__attribute__((noinline)) void int8_block_tile(const int16_t* x, int64_t x_stride, int64_t pairs, const uint8_t* panels,
                                               int64_t panel_bytes, int32_t* out) {
  constexpr int NV = NP * 2;
  I32x8 c[MR * NV];
  unroll<MR * NV>([&](auto i) { c[i] = Start ? I32x8{} : load_i32(out + i * 8); });
  const uint8_t* base[NP];
  unroll<NP>([&](auto p) { base[p] = panels + p * panel_bytes; });
  const int32_t* row[MR];  // pairs of int16
  unroll<MR>([&](auto r) { row[r] = reinterpret_cast<const int32_t*>(x + r * x_stride); });
  for (int64_t i = 0; i < pairs; i += 2) {  // a block is a multiple of 32 inputs
    if constexpr (kAheadBytes<NP> > 0) prefetch(base[0] + i * 32 + kAheadBytes<NP>);
    unroll<2>([&](auto step) {
      if constexpr (MR <= 2) {
        I32x8 xv[MR];
        unroll<MR>([&](auto r) { xv[r] = broadcast_i32(row[r][i + step]); });
        unroll<NV>([&](auto v) {
          const I16x16 w = widen_i8(base[v / 2] + (i + step) * 32 + (v % 2) * 16);
          unroll<MR>([&](auto r) { c[r * NV + v] = multiply_add_i16(w, xv[r], c[r * NV + v]); });
        });
      } else {
        I16x16 w[NV];
        unroll<NV>([&](auto v) { w[v] = widen_i8(base[v / 2] + (i + step) * 32 + (v % 2) * 16); });
        unroll<MR>([&](auto r) {
          const I32x8 xv = broadcast_i32(row[r][i + step]);
          unroll<NV>([&](auto v) { c[r * NV + v] = multiply_add_i16(w[v], xv, c[r * NV + v]); });
        });
      }
    });
  }
  unroll<MR * NV>([&](auto i) { store_i32(out + i * 8, c[i]); });
}

// MR rows over the panels of an item, NP at once. Where that leaves fewer than four streams, the panels take turns
// every kInt8Turn inputs (see direct_two_rows).
constexpr int64_t kInt8Turn = 64;
template <int MR, int NP, int Panels>
void int8_panels(const LinearArgs& a, const QuantizedRows& q, int64_t row0, int64_t panel) {
  const PackedLinear& w = *a.weight;
  constexpr int64_t columns = NP * kPanelColumns, turns = Panels / NP, sums_per_turn = MR * columns;
  alignas(32) int32_t block_sums[turns * sums_per_turn];
  alignas(32) float sums[turns * sums_per_turn] = {};
  const int16_t* x = static_cast<const int16_t*>(q.values) + row0 * q.inputs;
  const int64_t block = int8_block(w),
                block_bytes = w.group_size ? group_bytes<WeightFormat::int8>(w) : block * kPanelColumns;
  for (int64_t k = 0, b = 0; k < q.inputs; k += block, ++b) {
    const int64_t count = min_of(block, q.inputs - k), turn = turns > 1 ? kInt8Turn : count;
    const uint8_t* base = panel_at(w, panel) + b * block_bytes;
    for (int64_t i = 0; i < count; i += turn)
      for (int64_t p = 0; p < turns; ++p) {
        const uint8_t* values = base + p * NP * w.panel_bytes + i * kPanelColumns;
        const int64_t pairs = min_of(turn, count - i) / 2;
        int32_t* out = block_sums + p * sums_per_turn;
        if (i == 0) int8_block_tile<MR, NP, true>(x + k, q.inputs, pairs, values, w.panel_bytes, out);
        else int8_block_tile<MR, NP, false>(x + k + i, q.inputs, pairs, values, w.panel_bytes, out);
      }
    for (int64_t p = 0; p < Panels; ++p)
      for (int64_t h = 0; h < kPanelColumns; h += 8) {
        const uint8_t* scales = base + p * w.panel_bytes + count * kPanelColumns + h * 2;
        for (int64_t r = 0; r < MR; ++r) {
          const int64_t at = p / NP * sums_per_turn + r * columns + p % NP * kPanelColumns + h;
          add_block(sums + at, load_i32(block_sums + at),
                    w.group_size ? reinterpret_cast<const uint16_t*>(scales) : nullptr);
        }
      }
  }
  for (int64_t p = 0; p < turns; ++p)
    finish_quantized(a, row0, MR, panel + p * NP, NP, sums + p * sums_per_turn, columns, q.scales + row0, 1);
}

template <int MR>
void int8_rows(const LinearArgs& a, const QuantizedRows& q, int64_t row0, int64_t panel, int64_t panel_end) {
  if (panel + kItemPanels == panel_end) {
    if constexpr (MR == 1) return int8_panels<1, kItemPanels, kItemPanels>(a, q, row0, panel);
    if constexpr (MR == 2) return int8_panels<2, 2, kItemPanels>(a, q, row0, panel);
  }
  for (; panel < panel_end; ++panel) int8_panels<MR, 1, 1>(a, q, row0, panel);
}

inline void int8_direct_item(const LinearArgs& a, int64_t item) {
  const QuantizedRows q = quantized_rows<WeightFormat::int8>(a);
  const int64_t panel = item * kItemPanels, panel_end = min_of(a.weight->num_panels, panel + kItemPanels);
  for_row_groups<4>(a.m,
                    [&](auto rows, int64_t row0) { int8_rows<decltype(rows)::value>(a, q, row0, panel, panel_end); });
}

inline void int8_blocked_item(const LinearArgs& a, int64_t item, float* scratch) {
  const PackedLinear& w = *a.weight;
  const QuantizedRows q = quantized_rows<WeightFormat::int8>(a);
  const BlockedShape s = blocked_shape(w, a.m);
  const int64_t group0 = item % s.row_blocks * s.groups_per_block;
  const int64_t groups = min_of(s.groups_per_block, s.row_groups - group0);
  const int64_t panel0 = item / s.row_blocks * kItemPanels, panels = min_of(kItemPanels, w.num_panels - panel0);
  float* sums = scratch;  // [panel][group][6][16]
  int16_t* wide = reinterpret_cast<int16_t*>(scratch + kSumFloats);
  alignas(32) int32_t tile[kTileFloats];
  for (int64_t i = 0; i < panels * groups * kTileFloats; i += 8) store(sums + i, zero());
  const int32_t* x = static_cast<const int32_t*>(q.values) + group0 * (q.inputs / 2) * kTileRows;
  const int64_t block = int8_block(w),
                block_bytes = w.group_size ? group_bytes<WeightFormat::int8>(w) : block * kPanelColumns;
  for (int64_t k = 0, b = 0; k < q.inputs; k += block, ++b) {
    const int64_t count = min_of(block, q.inputs - k);
    for (int64_t p = 0; p < panels; ++p) {
      const uint8_t* values = panel_at(w, panel0 + p) + b * block_bytes;
      for (int64_t i = 0; i < count * kPanelColumns; i += 16) {
        const I16x16 v = widen_i8(values + i);
        __builtin_memcpy(wide + i, &v, sizeof v);
      }
      const uint16_t* scales =
          w.group_size ? reinterpret_cast<const uint16_t*>(values + count * kPanelColumns) : nullptr;
      for (int64_t g = 0; g < groups; ++g) {
        gemm_i16_6x16(count / 2, x + (g * (q.inputs / 2) + k / 2) * kTileRows, wide, tile);
        float* out = sums + (p * groups + g) * kTileFloats;
        for (int64_t i = 0; i < kTileFloats; i += 8)
          add_block(out + i, load_i32(tile + i), scales ? scales + i % 16 : nullptr);
      }
    }
  }
  for (int64_t p = 0; p < panels; ++p) {
    const int64_t row0 = group0 * kTileRows;
    finish_quantized(a, row0, min_of(groups * kTileRows, a.m - row0), panel0 + p, 1, sums + p * groups * kTileFloats,
                     kPanelColumns, q.scales + row0, 1);
  }
}

inline void int8_items(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  for (int64_t item = begin; item < end; ++item) {
    if (a.m < kBlockedRows) int8_direct_item(a, item);
    else int8_blocked_item(a, item, static_cast<float*>(scratch));
  }
}

constexpr LinearKernels int8_kernels() {
  LinearKernels kernels = quantized_kernels<WeightFormat::int8>();
  kernels.run = int8_items;
  return kernels;
}

}  // namespace quire::QUIRE_ISA
