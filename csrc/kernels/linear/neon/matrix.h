// dot_tile on smmla, which multiplies two rows by two columns, eight inputs at once.
// Weights: int8 [inputs / 8][16][8], int4 as in linear/layout.h.
#pragma once

#include "vec/neon.h"

namespace quire::QUIRE_ISA {

// c[MR][16] = values of MR rows from input `at` on times `Inputs` inputs of a panel.
template <bool Int4, int MR, int Inputs>
QUIRE_INLINE void dot_tile(const int8_t* const* x, int64_t at, const uint8_t* panel, int32x4_t* c) {
  constexpr int kPairs = (MR + 1) / 2;
  int32x4_t square[kPairs * 8];  // {row 0 column 0, row 0 column 1, row 1 column 0, row 1 column 1}
  unroll<kPairs * 8>([&](auto i) { square[i] = vdupq_n_s32(0); });
  unroll<Inputs / 8>([&](auto step) {
    int8x16_t rows[kPairs];
    unroll<kPairs>([&](auto p) {
      constexpr int second = decltype(p)::value * 2 + 1 < MR ? decltype(p)::value * 2 + 1 : decltype(p)::value * 2;
      rows[p] = vcombine_s8(vld1_s8(x[p * 2] + at + step * 8), vld1_s8(x[second] + at + step * 8));
    });
    if constexpr (Int4) {
      const uint8_t* from = panel + step * 64;
      prefetch(from + 1024);
      unroll<4>([&](auto v) {
        const uint8x16_t raw = vld1q_u8(from + v * 16);
        const int32x4_t low = vreinterpretq_s32_u8(vandq_u8(raw, vdupq_n_u8(15)));
        const int32x4_t high = vreinterpretq_s32_u8(vshrq_n_u8(raw, 4));
        const int8x16_t w0 = vreinterpretq_s8_s32(vzip1q_s32(low, high)),
                        w1 = vreinterpretq_s8_s32(vzip2q_s32(low, high));
        unroll<kPairs>([&](auto p) {
          square[p * 8 + v * 2] = vmmlaq_s32(square[p * 8 + v * 2], rows[p], w0);
          square[p * 8 + v * 2 + 1] = vmmlaq_s32(square[p * 8 + v * 2 + 1], rows[p], w1);
        });
      });
    } else {
      const uint8_t* from = panel + step * 128;
      prefetch(from + 1024);
      prefetch(from + 1088);
      unroll<8>([&](auto v) {
        const int8x16_t w = vreinterpretq_s8_u8(vld1q_u8(from + v * 16));
        unroll<kPairs>([&](auto p) { square[p * 8 + v] = vmmlaq_s32(square[p * 8 + v], rows[p], w); });
      });
    }
  });
  unroll<MR>([&](auto r) {
    unroll<4>([&](auto v) {
      const int64x2_t a = vreinterpretq_s64_s32(square[r / 2 * 8 + v * 2]),
                      b = vreinterpretq_s64_s32(square[r / 2 * 8 + v * 2 + 1]);
      c[r * 4 + v] = vreinterpretq_s32_s64(r % 2 ? vzip2q_s64(a, b) : vzip1q_s64(a, b));
    });
  });
}

}  // namespace quire::QUIRE_ISA
