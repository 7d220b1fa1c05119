// y = x @ W^T for f32, bf16 and f16 weights.
//
// Every output element is one chain of fused multiply-adds over the inputs in order, in all paths, so a row
// has the same bits whatever M is. Two paths: *direct* (few rows; weights are converted in registers and read
// once per four rows) and *blocked* (many rows; a panel is widened to f32 once per row block, x is packed).
#pragma once

#include "linear/pack_float.h"
#include "linear/portable/cut.h"
#include "linear/portable/store_tile.h"
#include "vec/vec.h"

namespace quire::QUIRE_ISA {

// Weight vectors of one step of a panel's half h (columns 8h .. 8h+7): v[0] for input k, v[1] for input k + 1.
template <WeightFormat F>
struct StepLoad;
template <>
struct StepLoad<WeightFormat::f32> {
  static QUIRE_INLINE F32x8 at(const uint8_t* p, int h) { return load(reinterpret_cast<const float*>(p) + h * 8); }
};
template <>
struct StepLoad<WeightFormat::f16> {
  static QUIRE_INLINE F32x8 at(const uint8_t* p, int h) {
    return load_f16(reinterpret_cast<const uint16_t*>(p) + h * 8);
  }
};
QUIRE_INLINE F32x8 bf16_even(I32x8 pair) { return as_f32(pair << 16); }
QUIRE_INLINE F32x8 bf16_odd(I32x8 pair) { return as_f32(pair & broadcast_i32(static_cast<int32_t>(0xffff0000u))); }

// c[r][v] += x[r] * w[v]. The order of loads is chosen so that MR * NV sums, and what is loaded, fit 16 registers.
template <int MR, int NV, class X, class W>
QUIRE_INLINE void multiply_add(F32x8* c, X&& x_at, W&& w_at) {
  if constexpr (MR <= 2) {
    F32x8 x[MR];
    unroll<MR>([&](auto r) { x[r] = broadcast(x_at(r)); });
    unroll<NV>([&](auto v) {
      const F32x8 w = w_at(v);
      unroll<MR>([&](auto r) { c[r * NV + v] = fma(x[r], w, c[r * NV + v]); });
    });
  } else {
    F32x8 w[NV];
    unroll<NV>([&](auto v) { w[v] = w_at(v); });
    unroll<MR>([&](auto r) {
      const F32x8 x = broadcast(x_at(r));
      unroll<NV>([&](auto v) { c[r * NV + v] = fma(x, w[v], c[r * NV + v]); });
    });
  }
}

// The same for two inputs whose bf16 weights share a load.
template <int MR, int NV, class X, class W>
QUIRE_INLINE void multiply_add_pair(F32x8* c, X&& x_at, W&& raw_at) {
  if constexpr (MR <= 2) {
    F32x8 x0[MR], x1[MR];
    unroll<MR>([&](auto r) {
      x0[r] = broadcast(x_at(r)[0]);
      x1[r] = broadcast(x_at(r)[1]);
    });
    unroll<NV>([&](auto v) {
      const I32x8 raw = raw_at(v);
      const F32x8 even = bf16_even(raw), odd = bf16_odd(raw);
      unroll<MR>([&](auto r) { c[r * NV + v] = fma(x0[r], even, c[r * NV + v]); });
      unroll<MR>([&](auto r) { c[r * NV + v] = fma(x1[r], odd, c[r * NV + v]); });
    });
  } else {
    F32x8 even[NV], odd[NV];
    unroll<NV>([&](auto v) {
      const I32x8 raw = raw_at(v);
      even[v] = bf16_even(raw);
      odd[v] = bf16_odd(raw);
    });
    unroll<MR>([&](auto r) {
      const F32x8 x0 = broadcast(x_at(r)[0]);
      unroll<NV>([&](auto v) { c[r * NV + v] = fma(x0, even[v], c[r * NV + v]); });
      const F32x8 x1 = broadcast(x_at(r)[1]);
      unroll<NV>([&](auto v) { c[r * NV + v] = fma(x1, odd[v], c[r * NV + v]); });
    });
  }
}

// MR rows x NP panels over k inputs, added to out [MR][NP * 16] unless that is to be started.
template <WeightFormat F, int MR, int NP, bool Start>
__attribute__((noinline)) void direct_tile(const float* x, int64_t x_stride, int64_t k, const uint8_t* panels,
                                           int64_t panel_bytes, float* out) {
  constexpr int NV = NP * 2;
  constexpr int64_t step_bytes = FloatPanel<F>::kStepBytes, steps_per_line = 64 / step_bytes;
  constexpr int64_t inputs_per_line = steps_per_line * FloatPanel<F>::kStep;
  F32x8 c[MR * NV];
  unroll<MR * NV>([&](auto i) { c[i] = Start ? zero() : load(out + i * 8); });
  const float* row[MR];
  unroll<MR>([&](auto r) { row[r] = x + r * x_stride; });
  const uint8_t* base[NP];
  unroll<NP>([&](auto p) { base[p] = panels + p * panel_bytes; });
  int64_t i = 0, at = 0;
  for (; i + inputs_per_line <= k; i += inputs_per_line, at += 64) {
    if constexpr (kAheadBytes<NP> > 0) unroll<NP>([&](auto p) { prefetch(base[p] + at + kAheadBytes<NP>); });
    if constexpr (F == WeightFormat::bf16)
      multiply_add_pair<MR, NV>(
          c, [&](int r) { return row[r] + i; }, [&](int v) { return load_i32(base[v / 2] + at + (v % 2) * 32); });
    else
      unroll<steps_per_line>([&](auto step) {
        multiply_add<MR, NV>(
            c, [&](int r) { return row[r][i + step]; },
            [&](int v) { return StepLoad<F>::at(base[v / 2] + at + step * step_bytes, v % 2); });
      });
  }
  if (i < k) {  // one input is left; the pad beside it is not multiplied: -0 + 0 * 0 would be +0
    if constexpr (F == WeightFormat::bf16)
      multiply_add<MR, NV>(
          c, [&](int r) { return row[r][i]; },
          [&](int v) { return bf16_even(load_i32(base[v / 2] + at + (v % 2) * 32)); });
    else
      multiply_add<MR, NV>(
          c, [&](int r) { return row[r][i]; }, [&](int v) { return StepLoad<F>::at(base[v / 2] + at, v % 2); });
  }
  unroll<MR * NV>([&](auto j) { store(out + j * 8, c[j]); });
}

template <WeightFormat F, int MR, int NP>
void direct_panels(const LinearArgs& a, int64_t row0, int64_t panel) {
  alignas(32) float tile[MR * NP * kPanelColumns];
  const PackedLinear& w = *a.weight;
  direct_tile<F, MR, NP, true>(a.x + row0 * a.x_stride, a.x_stride, w.k, panel_at(w, panel), w.panel_bytes, tile);
  const int64_t column0 = panel * kPanelColumns;
  store_tile(a, row0, MR, column0, min_of(NP * kPanelColumns, w.n - column0), tile, NP * kPanelColumns);
}

// Two rows leave registers for two panels: the pairs of an item take turns every kTurn inputs, so that memory
// still sees four streams.
constexpr int64_t kTurn = 32;
template <WeightFormat F>
void direct_two_rows(const LinearArgs& a, int64_t row0, int64_t panel) {
  constexpr int64_t columns = 2 * kPanelColumns;
  alignas(32) float tile[kItemPanels / 2][2 * columns];
  const PackedLinear& w = *a.weight;
  for (int64_t k = 0; k < w.k; k += kTurn) {
    const int64_t count = min_of(kTurn, w.k - k);
    const float* x = a.x + row0 * a.x_stride + k;
    for (int64_t p = 0; p < kItemPanels / 2; ++p) {
      const uint8_t* base = panel_at(w, panel + p * 2) + k * FloatPanel<F>::kStepBytes / FloatPanel<F>::kStep;
      if (k == 0) direct_tile<F, 2, 2, true>(x, a.x_stride, count, base, w.panel_bytes, tile[p]);
      else direct_tile<F, 2, 2, false>(x, a.x_stride, count, base, w.panel_bytes, tile[p]);
    }
  }
  for (int64_t p = 0; p < kItemPanels / 2; ++p) {
    const int64_t column0 = panel * kPanelColumns + p * columns;
    store_tile(a, row0, 2, column0, min_of(columns, w.n - column0), tile[p], columns);
  }
}

// One row group (MR rows) over the panels of an item.
template <WeightFormat F, int MR>
void direct_rows(const LinearArgs& a, int64_t row0, int64_t panel, int64_t panel_end) {
  if (panel + kItemPanels == panel_end) {
    if constexpr (MR == 1) return direct_panels<F, 1, kItemPanels>(a, row0, panel);
    if constexpr (MR == 2) return direct_two_rows<F>(a, row0, panel);
  }
  for (; panel < panel_end; ++panel) direct_panels<F, MR, 1>(a, row0, panel);
}

template <WeightFormat F>
void direct_item(const LinearArgs& a, int64_t item) {
  const int64_t panel = item * kItemPanels, panel_end = min_of(a.weight->num_panels, panel + kItemPanels);
  for_row_groups<5>(a.m,
                    [&](auto rows, int64_t row0) { direct_rows<F, decltype(rows)::value>(a, row0, panel, panel_end); });
}

// Inputs [k0, k0 + depth) of a panel as f32 [depth][16]. k0 is even.
template <WeightFormat F>
const float* widen_panel(const uint8_t* panel, int64_t k0, int64_t depth, float* out) {
  if constexpr (F == WeightFormat::f32) {
    return reinterpret_cast<const float*>(panel) + k0 * kPanelColumns;
  } else if constexpr (F == WeightFormat::f16) {
    const uint16_t* in = reinterpret_cast<const uint16_t*>(panel) + k0 * kPanelColumns;
    for (int64_t i = 0; i < depth * kPanelColumns; i += 8) store(out + i, load_f16(in + i));
  } else {
    const uint8_t* in = panel + (k0 / 2) * 64;
    for (int64_t i = 0; i < depth; i += 2) {  // an odd end writes one row more: scratch has room
      const I32x8 a = load_i32(in + i * 32), b = load_i32(in + i * 32 + 32);
      store(out + i * 16, bf16_even(a));
      store(out + i * 16 + 8, bf16_even(b));
      store(out + i * 16 + 16, bf16_odd(a));
      store(out + i * 16 + 24, bf16_odd(b));
    }
  }
  return out;
}

// Packs row groups of x as [group][K][kTileRows], missing rows as zeros.
inline void pack_rows(const LinearArgs& a, int64_t begin, int64_t end, void*) {
  const int64_t k = a.weight->k;
  for (int64_t g = begin; g < end; ++g) {
    float* out = static_cast<float*>(a.workspace) + g * k * kTileRows;
    for (int64_t r = 0; r < kTileRows; ++r) {
      const int64_t row = g * kTileRows + r;
      if (row < a.m) {
        const float* x = a.x + row * a.x_stride;
        for (int64_t i = 0; i < k; ++i) out[i * kTileRows + r] = x[i];
      } else {
        for (int64_t i = 0; i < k; ++i) out[i * kTileRows + r] = 0.0f;
      }
    }
  }
}

template <WeightFormat F, class Gemm>
void blocked_item(const LinearArgs& a, int64_t item, float* scratch) {
  const PackedLinear& w = *a.weight;
  const BlockedShape s = blocked_shape(w, a.m);
  const int64_t block = item % s.row_blocks, column_item = item / s.row_blocks;
  const int64_t group0 = block * s.groups_per_block;
  const int64_t groups = min_of(s.groups_per_block, s.row_groups - group0);
  const int64_t panel0 = column_item * kItemPanels;
  const int64_t panels = min_of(kItemPanels, w.num_panels - panel0);
  float* sums = scratch;  // [panel][group][6][16]
  float* wide = scratch + kSumFloats;
  for (int64_t i = 0; i < panels * groups * kTileFloats; i += 8) store(sums + i, zero());
  const float* x = static_cast<const float*>(a.workspace) + group0 * w.k * kTileRows;
  for (int64_t k0 = 0; k0 < w.k; k0 += kDepth) {
    const int64_t depth = min_of(kDepth, w.k - k0);
    for (int64_t p = 0; p < panels; ++p) {
      const float* b = widen_panel<F>(panel_at(w, panel0 + p), k0, depth, wide);
      for (int64_t g = 0; g < groups; ++g)
        Gemm::run(depth, x + (g * w.k + k0) * kTileRows, b, sums + (p * groups + g) * kTileFloats);
    }
  }
  for (int64_t p = 0; p < panels; ++p) {
    const int64_t column0 = (panel0 + p) * kPanelColumns, row0 = group0 * kTileRows;
    store_tile(a, row0, min_of(groups * kTileRows, a.m - row0), column0, min_of(kPanelColumns, w.n - column0),
               sums + p * groups * kTileFloats, kPanelColumns);
  }
}

inline int64_t packed_rows_bytes(const PackedLinear& w, int64_t m) {
  return m < kBlockedRows ? 0 : round_up(m, kTileRows) * w.k * 4;
}
inline int64_t packed_row_groups(const PackedLinear&, int64_t m) {
  return m < kBlockedRows ? 0 : ceil_div(m, kTileRows);
}
inline int64_t packed_together(const PackedLinear&, int64_t m) { return m < kBlockedRows ? 1 : kTileRows; }

template <WeightFormat F, class Gemm>
void float_items(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  for (int64_t item = begin; item < end; ++item) {
    if (a.m < kBlockedRows) direct_item<F>(a, item);
    else blocked_item<F, Gemm>(a, item, static_cast<float*>(scratch));
  }
}

template <WeightFormat F, class Gemm>
constexpr LinearKernels float_kernels() {
  LinearKernels kernels = packed_floats<F>();
  kernels.workspace_bytes = packed_rows_bytes;
  kernels.prepare_items = packed_row_groups;
  kernels.prepare = pack_rows;
  kernels.prepare_rows = packed_together;
  kernels.items = blocked_items;
  kernels.scratch_bytes = blocked_scratch_bytes;
  kernels.run = float_items<F, Gemm>;
  return kernels;
}

}  // namespace quire::QUIRE_ISA
