// y = x @ W^T for int8 weights and rows in 16 bits with 256-bit vectors.
//
// Products are summed exactly in int32 over a block of inputs (a scale group, or kInt8Block of them), blocks in f32 in
// order, in every tile.
#pragma once

#include "linear/ymm/quantize.h"
#include "linear/ymm/registers.h"

namespace quire::QUIRE_ISA {

// One step of two inputs: 16-bit lanes of eight columns.
template <bool kWide>
QUIRE_INLINE I16x16 int8_weights(const uint8_t* p) {
  if constexpr (kWide) return (I16x16)load_i32(p);
  else return widen_i8(p);
}
// Four inputs: a line of bytes, two when widened.
template <int MR, int NP, bool kWide>
QUIRE_INLINE void int8_step(I32x8* c, const int32_t* x, const uint8_t* const* panels, int64_t at) {
  constexpr int kVectorBytes = kWide ? 32 : 16;
  unroll<2>([&](auto pair) QUIRE_INLINED {
    const int32_t* inputs = x + pair * MR;
    if constexpr (MR <= 2) {
      I32x8 xs[MR];
      unroll<MR>([&](auto r) QUIRE_INLINED { xs[r] = fresh_broadcast(inputs + r); });
      unroll<NP * 2>([&](auto v) QUIRE_INLINED {
        const I16x16 w = int8_weights<kWide>(panels[v / 2] + at + (pair * 2 + v % 2) * kVectorBytes);
        unroll<MR>([&](auto r) QUIRE_INLINED { c[r * NP * 2 + v] = multiply_add_i16(w, xs[r], c[r * NP * 2 + v]); });
      });
    } else {
      unroll<NP>([&](auto p) QUIRE_INLINED {
        const uint8_t* in = panels[p] + at + pair * 2 * kVectorBytes;
        const I16x16 w0 = int8_weights<kWide>(in), w1 = int8_weights<kWide>(in + kVectorBytes);
        unroll<MR>([&](auto r) QUIRE_INLINED {
          const I32x8 xs = fresh_broadcast(inputs + r);
          c[(r * NP + p) * 2] = multiply_add_i16(w0, xs, c[(r * NP + p) * 2]);
          c[(r * NP + p) * 2 + 1] = multiply_add_i16(w1, xs, c[(r * NP + p) * 2 + 1]);
        });
      });
    }
  });
}

// sums[MR][NP * 16] over `inputs` in blocks; grouped: each block has scales behind it, else weights have none.
template <int MR, int NP, bool kWide>
__attribute__((noinline, flatten)) void int8_tile(const int32_t* x, int64_t inputs, int64_t block, bool grouped,
                                                  const TileWeights& t, float* sums) {
  const TileWeights w = t;
  const uint8_t* panels[NP];
  const uint8_t* raw = w.panels;
  unroll<NP>([&](auto p)
                 QUIRE_INLINED { panels[p] = kWide ? w.wide + p * w.wide_bytes : w.panels + p * w.panel_bytes; });
  LineFetch fetch(t);
  for (int64_t i = 0; i < MR * NP * 16; i += 8) store(sums + i, zero());
  for (int64_t k = 0; k < inputs; k += block) {
    const int64_t count = min_of(block, inputs - k), line = kWide ? 128 : 64;
    I32x8 c[MR * NP * 2];
    unroll<MR * NP * 2>([&](auto i) QUIRE_INLINED { c[i] = fresh_zero<I32x8>(); });
    int64_t at = 0;
    for (const int64_t end = count / 4 * line; at < end; at += line, x += 2 * MR) {
      fetch.line<NP>();
      int8_step<MR, NP, kWide>(c, x, panels, at);
    }
    raw += count * kPanelColumns;
    unroll<NP * 2>([&](auto v) QUIRE_INLINED {
      F32x8 scale = broadcast(1.0f);
      if (grouped) scale = load_f16(reinterpret_cast<const uint16_t*>(raw + v / 2 * w.panel_bytes) + v % 2 * 8);
      unroll<MR>([&](auto r) QUIRE_INLINED {
        float* out = sums + (r * NP * 2 + v) * 8;
        store(out, fma(to_f32(c[r * NP * 2 + v]), scale, load(out)));
      });
    });
    const int64_t scale_bytes = grouped ? kPanelColumns * 2 : 0;
    raw += scale_bytes;
    unroll<NP>([&](auto p) QUIRE_INLINED { panels[p] += at + (kWide ? 0 : scale_bytes); });
  }
}

struct Int8Tiles {
  static constexpr int64_t kWideBytes = kPanelColumns * 2;
  static constexpr int panels_at_once(int mr) { return mr == 1 ? 4 : mr == 2 ? 2 : 1; }
  YmmRows rows;
  int64_t block;
  bool grouped;
  explicit Int8Tiles(const LinearArgs& a)
      : rows(ymm_rows<WeightFormat::int8>(*a.weight, a.m, a.workspace)),
        block(a.weight->group_size ? a.weight->group_size : kInt8Block),
        grouped(a.weight->group_size) {}
  template <int MR, int NP, bool kWide>
  QUIRE_INLINE void tile(const TileRows& at, const TileWeights& weights, float* sums) const {
    int8_tile<MR, NP, kWide>(rows.values + at.first * rows.lanes, rows.lanes * 2, block, grouped, weights, sums);
  }
  void widen(const PackedLinear& w, int64_t panel, uint8_t* out) const {
    const uint8_t* in = panel_at(w, panel);
    for (int64_t k = 0; k < rows.lanes * 2; k += block, in += grouped ? kPanelColumns * 2 : 0)
      for (const uint8_t* end = in + min_of(block, rows.lanes * 2 - k) * kPanelColumns; in < end; in += 16, out += 32) {
        const I16x16 v = widen_i8(in);
        __builtin_memcpy(out, &v, sizeof v);
      }
  }
  QUIRE_INLINE void finish(const LinearArgs& a, const TileRows& at, int64_t panel, int64_t panels, float* sums) const {
    finish_tile(a, at, panel, panels, sums, true, rows.scales);
  }
};

constexpr LinearKernels int8_kernels() {
  LinearKernels kernels = quantized_kernels<WeightFormat::int8, Int8Tiles>();
  kernels.run = tiled_items<Int8Tiles>;
  return kernels;
}

}  // namespace quire::QUIRE_ISA
