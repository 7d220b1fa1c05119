// y = x @ W^T for f32, bf16 and f16 weights with 256-bit vectors.
//
// Every output element is one chain of fused multiply-adds over the inputs in order, in every tile, so a row has the same
// bits whatever M is.
#pragma once

#include "linear/pack_float.h"
#include "linear/ymm/registers.h"
#include "linear/ymm/tiled.h"

namespace quire::QUIRE_ISA {

// The even and the odd inputs of pairs of bf16, each from memory, as no register is free for the pairs; nor for the mask.
QUIRE_INLINE F32x8 load_even_bf16(const void* pairs) {
  F32x8 v;
  __asm__("vmovdqu %1, %0\n\tvpslld $16, %0, %0" : "=x"(v) : "m"(*static_cast<const F32x8Unaligned*>(pairs)));
  return v;
}
constexpr U32x8 kOddMask = {0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u,
                            0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u};
QUIRE_INLINE F32x8 load_odd_bf16(const void* pairs) {
  F32x8 v;
  __asm__("vmovaps %2, %0\n\tvandps %1, %0, %0"
          : "=x"(v)
          : "m"(*static_cast<const F32x8Unaligned*>(pairs)), "m"(kOddMask));
  return v;
}
// What a format does with one step of a panel: kInputs inputs of 16 columns, kBytes. weights(p, input, half) gives eight
// columns of one of the inputs.
template <WeightFormat F>
struct FloatStep;
template <>
struct FloatStep<WeightFormat::f32> {
  static constexpr int kInputs = 1, kBytes = 64;
  static QUIRE_INLINE F32x8 weights(const uint8_t* p, int, int half) {
    return load(reinterpret_cast<const float*>(p) + half * 8);
  }
};
template <>
struct FloatStep<WeightFormat::f16> {
  static constexpr int kInputs = 1, kBytes = 32;
  static QUIRE_INLINE F32x8 weights(const uint8_t* p, int, int half) {
    return load_f16(reinterpret_cast<const uint16_t*>(p) + half * 8);
  }
};
template <>
struct FloatStep<WeightFormat::bf16> {
  static constexpr int kInputs = 2, kBytes = 64;
  static QUIRE_INLINE F32x8 weights(const uint8_t* p, int input, int half) {
    if (input) return load_odd_bf16(p + half * 32);
    return load_even_bf16(p + half * 32);
  }
};

// c += MR rows x NP panels, `Inputs` inputs at `panels`.
template <WeightFormat F, int MR, int NP, int Inputs>
QUIRE_INLINE void float_step(F32x8* c, const float* x, const uint8_t* const* panels, int64_t at) {
  using S = FloatStep<F>;
  unroll<Inputs>([&](auto input) QUIRE_INLINED {
    const float* inputs = x + input * MR;
    if constexpr (MR <= 2) {
      F32x8 xs[MR];
      unroll<MR>([&](auto r) QUIRE_INLINED { xs[r] = fresh_broadcast(inputs + r); });
      unroll<NP * 2>([&](auto v) QUIRE_INLINED {
        const F32x8 w = S::weights(panels[v / 2] + at + input / S::kInputs * S::kBytes, input % S::kInputs, v % 2);
        unroll<MR>([&](auto r) QUIRE_INLINED { c[r * NP * 2 + v] = accumulate(c[r * NP * 2 + v], xs[r], w); });
      });
    } else {
      unroll<NP>([&](auto p) QUIRE_INLINED {
        const uint8_t* in = panels[p] + at + input / S::kInputs * S::kBytes;
        const F32x8 w0 = S::weights(in, input % S::kInputs, 0), w1 = S::weights(in, input % S::kInputs, 1);
        unroll<MR>([&](auto r) QUIRE_INLINED {
          const F32x8 xs = fresh_broadcast(inputs + r);
          c[(r * NP + p) * 2] = accumulate(c[(r * NP + p) * 2], xs, w0);
          c[(r * NP + p) * 2 + 1] = accumulate(c[(r * NP + p) * 2 + 1], xs, w1);
        });
      });
    }
  });
}

// sums[MR][NP * 16] = x[k][MR]^T times NP panels.
template <WeightFormat F, int MR, int NP>
__attribute__((noinline, flatten)) void float_tile(const float* x, int64_t k, const TileWeights& t, float* sums) {
  using S = FloatStep<F>;
  F32x8 c[MR * NP * 2];
  unroll<MR * NP * 2>([&](auto i) QUIRE_INLINED { c[i] = fresh_zero<F32x8>(); });
  const uint8_t* panels[NP];
  unroll<NP>([&](auto p) QUIRE_INLINED { panels[p] = t.panels + p * t.panel_bytes; });
  LineFetch fetch(t);
  int64_t i = 0, at = 0;
  constexpr int inputs = 64 / S::kBytes * S::kInputs;  // of a cache line
  for (; i + inputs <= k; i += inputs, x += inputs * MR, at += 64) {
    fetch.line<NP>();
    float_step<F, MR, NP, inputs>(c, x, panels, at);
  }
  if (i < k) float_step<F, MR, NP, 1>(c, x, panels, at);
  unroll<MR * NP * 2>([&](auto j) QUIRE_INLINED { store(sums + j * 8, c[j]); });
}

// Items: tiles.
inline void pack_float_rows(const LinearArgs& a, int64_t begin, int64_t end, void*) {
  const int64_t k = a.weight->k;
  for (int64_t g = begin; g < end; ++g) {
    const TileRows rows = tile_rows(g, a.m);
    const void* x[YmmShape::kRows] = {};
    for (int64_t r = 0; r < rows.count; ++r) x[r] = a.x + (rows.first + r) * a.x_stride;
    pack_lanes(x, rows.count, k, static_cast<int32_t*>(a.workspace) + rows.first * k);
  }
}

template <WeightFormat F>
struct FloatTiles {
  static constexpr int64_t kWideBytes = 0;  // of an input of a panel, were it widened before the tiles
  static constexpr int panels_at_once(int mr) { return mr == 1 ? 4 : mr == 2 ? 2 : 1; }
  const float* x;
  int64_t k;
  explicit FloatTiles(const LinearArgs& a)
      : x(a.m == 1 ? a.x : static_cast<const float*>(a.workspace)), k(a.weight->k) {}
  template <int MR, int NP, bool kWide>
  QUIRE_INLINE void tile(const TileRows& rows, const TileWeights& weights, float* sums) const {
    float_tile<F, MR, NP>(x + rows.first * k, k, weights, sums);
  }
  QUIRE_INLINE void finish(const LinearArgs& a, const TileRows& rows, int64_t panel, int64_t panels,
                           float* sums) const {
    finish_tile(a, rows, panel, panels, sums, false, nullptr);
  }
};

inline int64_t float_rows_bytes(const PackedLinear& w, int64_t m) { return m == 1 ? 0 : m * w.k * 4; }
inline int64_t float_tiles(const PackedLinear& w, int64_t m) { return m == 1 ? 0 : tile_count(w, m); }
inline int64_t no_scratch(const PackedLinear&, int64_t) { return 0; }

template <WeightFormat F>
constexpr LinearKernels float_kernels() {
  LinearKernels kernels = packed_floats<F>();
  kernels.workspace_bytes = float_rows_bytes;
  kernels.prepare_items = float_tiles;
  kernels.prepare = pack_float_rows;
  kernels.prepare_rows = rows_of_tile;
  kernels.items = cut_items<YmmShape>;
  kernels.scratch_bytes = no_scratch;
  kernels.run = tiled_items<FloatTiles<F>>;
  return kernels;
}

}  // namespace quire::QUIRE_ISA
