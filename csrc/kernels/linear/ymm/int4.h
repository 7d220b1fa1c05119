// y = x @ W^T for int4 weights and activations in blocks of 32 signed bytes with 256-bit vectors.
//
// A block's products are exact: a 16-bit sum holds 16 of them, at most 16 * 127 * 15 with what it starts at. Blocks are
// added in f32 in order, each with the activations' and the weights' scale.
#pragma once

#include "linear/ymm/quantize.h"
#include "linear/ymm/registers.h"

namespace quire::QUIRE_ISA {

// Constants that stay in memory: there is no register for them.
constexpr U32x8 kLowNibbles = {0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f,
                               0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f};
constexpr U32x8 kOnes = {0x00010001, 0x00010001, 0x00010001, 0x00010001,
                         0x00010001, 0x00010001, 0x00010001, 0x00010001};
QUIRE_INLINE U8x32 load_nibbles(const uint8_t* p, bool high) {
  U8x32 v = load_u8(p);
  if (high) v = (U8x32)_mm256_srli_epi16((__m256i)v, 4);
  __asm__("vpand %1, %0, %0" : "+x"(v) : "m"(kLowNibbles));
  return v;
}
QUIRE_INLINE I32x8 sum_pairs(I16x16 v) {
  __asm__("vpmaddwd %1, %0, %0" : "+x"(v) : "m"(kOnes));
  return (I32x8)v;
}

constexpr int64_t kInt4BlockBytes = kInt4Block * kPanelColumns / 2;

// Dot products of a block: c[MR][NP * 2], four lines of nibbles or eight of bytes.
template <int MR, int NP, bool kWide>
QUIRE_INLINE void int4_block(I16x16* c, const int32_t* x, const uint8_t* const* panels, int64_t at) {
  unroll<4>([&](auto line) QUIRE_INLINED {
    unroll<2>([&](auto high) QUIRE_INLINED {
      const int32_t* quads = x + (line * 2 + high) * MR;
      unroll<NP>([&](auto p) QUIRE_INLINED {
        U8x32 w[2];
        unroll<2>([&](auto h) QUIRE_INLINED {
          if constexpr (kWide) w[h] = load_u8(panels[p] + at + line * 128 + high * 64 + h * 32);
          else w[h] = load_nibbles(panels[p] + at + line * 64 + h * 32, high);
        });
        unroll<MR>([&](auto r) QUIRE_INLINED {
          const I32x8 xs = fresh_broadcast(quads + r);
          c[(r * NP + p) * 2] = multiply_add_u8(w[0], xs, c[(r * NP + p) * 2]);
          c[(r * NP + p) * 2 + 1] = multiply_add_u8(w[1], xs, c[(r * NP + p) * 2 + 1]);
        });
      });
    });
  });
}

// sums[MR][NP * 16] over all blocks; as much room again is behind them.
template <int MR, int NP, bool kWide, bool kZeros>
__attribute__((noinline, flatten)) void int4_tile(const int32_t* x, const float* x_scales, const int32_t* starts,
                                                  int64_t groups, int64_t blocks_per_group, const TileWeights& t,
                                                  float* sums) {
  constexpr int NV = NP * 2;
  constexpr bool kRunning = MR * NV <= 4 && !kZeros;  // sums stay in registers
  constexpr int64_t block_bytes = kWide ? kInt4BlockBytes * 2 : kInt4BlockBytes;
  const TileWeights w = t;
  const uint8_t* panels[NP];
  const uint8_t* scales = w.panels;
  unroll<NP>([&](auto p)
                 QUIRE_INLINED { panels[p] = kWide ? w.wide + p * w.wide_bytes : w.panels + p * w.panel_bytes; });
  LineFetch fetch(t);
  int64_t at = 0;
  F32x8 total[MR * NV];
  if constexpr (kRunning) unroll<MR * NV>([&](auto i) QUIRE_INLINED { total[i] = fresh_zero<F32x8>(); });
  else unroll<MR * NV>([&](auto i) QUIRE_INLINED { store(sums + i * 8, zero()); });
  for (int64_t g = 0; g < groups; ++g) {
    scales += blocks_per_group * kInt4BlockBytes;
    for (int64_t b = 0; b < blocks_per_group; ++b) {
      for (int l = 0; l < 4; ++l) fetch.line<NP>();
      I16x16 c[MR * NV];
      unroll<MR>([&](auto r) QUIRE_INLINED {
        unroll<NV>([&](auto v) QUIRE_INLINED {
          c[r * NV + v] = kZeros ? fresh_zero<I16x16>() : (I16x16)fresh_broadcast(starts + r);
        });
      });
      int4_block<MR, NP, kWide>(c, x, panels, at);
      // With zero points there are too few registers for what follows: the dot products wait behind the sums.
      float* dots = sums + MR * NV * 8;
      if constexpr (kZeros)
        unroll<MR * NV>([&](auto i)
                            QUIRE_INLINED { store_i32(reinterpret_cast<int32_t*>(dots + i * 8), (I32x8)c[i]); });
      unroll<NP>([&](auto p) QUIRE_INLINED {
        unroll<2>([&](auto h) QUIRE_INLINED {
          const uint16_t* factors = reinterpret_cast<const uint16_t*>(scales + p * w.panel_bytes) + h * 8;
          const F32x8 scale = load_f16(factors);
          F32x8 zeros;
          if constexpr (kZeros) zeros = load_f16(factors + kPanelColumns);
          unroll<MR>([&](auto r) QUIRE_INLINED {
            constexpr int i = (decltype(r)::value * NP + decltype(p)::value) * 2 + decltype(h)::value;
            if constexpr (kZeros) c[i] = (I16x16)load_i32(dots + i * 8);
            F32x8 v = to_f32(sum_pairs(c[i]));
            if constexpr (kZeros)
              v = subtract_product(v, zeros, fresh_broadcast(reinterpret_cast<const float*>(starts) + r));
            v = v * fresh_broadcast(x_scales + r);
            if constexpr (kRunning) total[i] = accumulate(total[i], v, scale);
            else store(sums + i * 8, fma(v, scale, load(sums + i * 8)));
          });
        });
      });
      at += block_bytes;
      x += 8 * MR;
      x_scales += MR;
      starts += MR;
    }
    scales += kPanelColumns * (kZeros ? 4 : 2);
    if constexpr (!kWide) at += kPanelColumns * (kZeros ? 4 : 2);
  }
  if constexpr (kRunning) unroll<MR * NV>([&](auto i) QUIRE_INLINED { store(sums + i * 8, total[i]); });
}

template <bool kZeros>
struct Int4Tiles {
  static constexpr int64_t kWideBytes = kPanelColumns;
  static constexpr int panels_at_once(int) { return 1; }
  YmmRows rows;
  int64_t per_group;
  explicit Int4Tiles(const LinearArgs& a)
      : rows(ymm_rows<WeightFormat::int4>(*a.weight, a.m, a.workspace)), per_group(a.weight->group_size / kInt4Block) {}
  template <int MR, int NP, bool kWide>
  QUIRE_INLINE void tile(const TileRows& at, const TileWeights& weights, float* sums) const {
    int4_tile<MR, NP, kWide, kZeros>(rows.values + at.first * rows.lanes, rows.scales + at.first * rows.blocks,
                                     rows.starts + at.first * rows.blocks, rows.blocks / per_group, per_group, weights,
                                     sums);
  }
  void widen(const PackedLinear& w, int64_t panel, uint8_t* out) const {
    const uint8_t* in = panel_at(w, panel);
    for (int64_t b = 0; b < rows.blocks; b += per_group, in += kPanelColumns * (kZeros ? 4 : 2))
      for (const uint8_t* end = in + per_group * kInt4BlockBytes; in < end; in += 64, out += 128)
        for (int64_t h = 0; h < 64; h += 32) {
          const U8x32 raw = load_u8(in + h), low = low_nibbles(raw), high = high_nibbles(raw);
          __builtin_memcpy(out + h, &low, sizeof low);
          __builtin_memcpy(out + 64 + h, &high, sizeof high);
        }
  }
  QUIRE_INLINE void finish(const LinearArgs& a, const TileRows& at, int64_t panel, int64_t panels, float* sums) const {
    finish_tile(a, at, panel, panels, sums, true, nullptr);
  }
};

inline void int4_items(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  if (a.weight->has_zeros) return tiled_items<Int4Tiles<true>>(a, begin, end, scratch);
  tiled_items<Int4Tiles<false>>(a, begin, end, scratch);
}

constexpr LinearKernels int4_kernels() {
  LinearKernels kernels = quantized_kernels<WeightFormat::int4, Int4Tiles<false>>();
  kernels.run = int4_items;
  return kernels;
}

}  // namespace quire::QUIRE_ISA
