// dot_tile with four products a lane: sdot where the table has it, widening multiplications otherwise; both exact. Weights: [inputs / 4][16][4] bytes, int4 two inputs a byte (linear/layout.h).
#pragma once

#include "vec/neon.h"

namespace quire::QUIRE_ISA {

// c[i] + sum over j < 4 of w[4i + j] * x[4 * Lane + j].
template <int Lane>
QUIRE_INLINE int32x4_t dot_quads(int32x4_t c, int8x16_t w, int8x16_t x) {
#ifdef __ARM_FEATURE_DOTPROD
  return vdotq_laneq_s32(c, w, x, Lane);
#else
  const int8x16_t quad = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), Lane));
  const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(quad)), high = vmull_high_s8(w, quad);
  return vpadalq_s16(c, vpaddq_s16(low, high));  // pairs: at most 2 * 127 * 127 < 2^15
#endif
}

// c[MR][16] = values of MR rows from input `at` on times `Inputs` inputs of a panel.
template <bool Int4, int MR, int Inputs>
QUIRE_INLINE void dot_tile(const int8_t* const* x, int64_t at, const uint8_t* panel, int32x4_t* c) {
  unroll<MR * 4>([&](auto i) { c[i] = vdupq_n_s32(0); });
  unroll<Inputs / 16>([&](auto half) {
    int8x16_t rows[MR];
    unroll<MR>([&](auto r) { rows[r] = vld1q_s8(x[r] + at + half * 16); });
    if constexpr (Int4) {
      unroll<2>([&](auto line) {
        const uint8_t* from = panel + (half * 2 + line) * 64;
        prefetch(from + 1024);
        unroll<4>([&](auto v) {
          const uint8x16_t raw = vld1q_u8(from + v * 16);
          const int8x16_t low = vreinterpretq_s8_u8(vandq_u8(raw, vdupq_n_u8(15)));
          const int8x16_t high = vreinterpretq_s8_u8(vshrq_n_u8(raw, 4));
          unroll<MR>([&](auto r) {
            c[r * 4 + v] = dot_quads<line * 2>(c[r * 4 + v], low, rows[r]);
            c[r * 4 + v] = dot_quads<line * 2 + 1>(c[r * 4 + v], high, rows[r]);
          });
        });
      });
    } else {
      unroll<4>([&](auto line) {
        const uint8_t* from = panel + (half * 4 + line) * 64;
        prefetch(from + 1024);
        unroll<4>([&](auto v) {
          const int8x16_t w = vreinterpretq_s8_u8(vld1q_u8(from + v * 16));
          unroll<MR>([&](auto r) { c[r * 4 + v] = dot_quads<line>(c[r * 4 + v], w, rows[r]); });
        });
      });
    }
  });
}

}  // namespace quire::QUIRE_ISA
