// Small matrix products of attention and the softmax of one row over one block, eight lanes wide.
//
#pragma once

#include "attention/types.h"
#include "vec/math.h"
#include "vec/typed.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kProductRows = 6;  // rows of a product: 12 sums, two vectors of b and one of a fill 15 registers
constexpr int64_t kDirectRows = 4;   // up to so many rows 16- and 8-bit elements are widened in the product itself

// c[MR][NV * 8] (+)= a[MR][depth] * b[depth][NV * 8], one chain of multiply-adds per element in order of depth,
// whatever MR and NV are. PF: also prefetches what lies `ahead` bytes on, which
// is the same place in the sequence's next block.
template <DType T, int MR, int NV, bool PF>
__attribute__((noinline)) void multiply_tile(int64_t depth, const float* a, int64_t a_stride, const uint8_t* line,
                                             int64_t line_bytes, float* c, int64_t c_stride, bool accumulate,
                                             int64_t ahead) {
  F32x8 sum[MR * NV];
  unroll<MR>([&](auto r) {
    unroll<NV>([&](auto v) { sum[r * NV + v] = accumulate ? load(c + r * c_stride + v * 8) : zero(); });
  });
  constexpr int kLines = (NV * 8 * static_cast<int>(dtype_bytes(T)) + 63) / 64;
  for (int64_t k = 0; k < depth; ++k, line += line_bytes) {
    if constexpr (PF)  // a plain loop: gcc takes a lambda that only prefetches for one without effects, and drops it
      for (int l = 0; l < kLines; ++l) prefetch(line + l * 64 + ahead);
    if constexpr (MR <= 2) {
      F32x8 x[MR];
      unroll<MR>([&](auto r) { x[r] = broadcast(a[r * a_stride + k]); });
      unroll<NV>([&](auto v) {
        const F32x8 w = load_typed<T>(line, v * 8);
        unroll<MR>([&](auto r) { sum[r * NV + v] = fma(x[r], w, sum[r * NV + v]); });
      });
    } else {
      F32x8 w[NV];
      unroll<NV>([&](auto v) { w[v] = load_typed<T>(line, v * 8); });
      unroll<MR>([&](auto r) {
        const F32x8 x = broadcast(a[r * a_stride + k]);
        unroll<NV>([&](auto v) { sum[r * NV + v] = fma(x, w[v], sum[r * NV + v]); });
      });
    }
  }
  unroll<MR>([&](auto r) { unroll<NV>([&](auto v) { store(c + r * c_stride + v * 8, sum[r * NV + v]); }); });
}

// All columns of a product of MR rows.
template <DType T, int MR, bool PF>
void multiply_columns(int64_t depth, int64_t columns, const float* a, int64_t a_stride, const uint8_t* b,
                      int64_t line_bytes, float* c, int64_t c_stride, bool accumulate, int64_t ahead) {
  constexpr int64_t kBytes = dtype_bytes(T);
  int64_t j = 0;
  if constexpr (MR == 1)
    for (; j + 64 <= columns; j += 64)
      multiply_tile<T, MR, 8, PF>(depth, a, a_stride, b + j * kBytes, line_bytes, c + j, c_stride, accumulate, ahead);
  if constexpr (MR <= 2)
    for (; j + 32 <= columns; j += 32)
      multiply_tile<T, MR, 4, PF>(depth, a, a_stride, b + j * kBytes, line_bytes, c + j, c_stride, accumulate, ahead);
  for (; j + 16 <= columns; j += 16)
    multiply_tile<T, MR, 2, PF>(depth, a, a_stride, b + j * kBytes, line_bytes, c + j, c_stride, accumulate, ahead);
  for (; j + 8 <= columns; j += 8)
    multiply_tile<T, MR, 1, PF>(depth, a, a_stride, b + j * kBytes, line_bytes, c + j, c_stride, accumulate, ahead);
  for (; j < columns; ++j)
    for (int64_t r = 0; r < MR; ++r) {
      float sum = accumulate ? c[r * c_stride + j] : 0.0f;
      for (int64_t k = 0; k < depth; ++k)
        sum = fma_scalar(a[r * a_stride + k], element_to_f32(b + k * line_bytes, T, j), sum);
      c[r * c_stride + j] = sum;
    }
}

QUIRE_INLINE F32x8 final_scores(const float* s, int64_t j, const KeyRange& seen, const ScoreRule& rule) {
  const F32x8 iota = {0, 1, 2, 3, 4, 5, 6, 7};
  F32x8 v = load(s + j);
  if (rule.k_scales) v = v * load(rule.k_scales + j);
  if (rule.softcap > 0.0f) v = broadcast(rule.softcap) * tanh_v(v / broadcast(rule.softcap));
  const F32x8 index = broadcast(static_cast<float>(j)) + iota;
  if (rule.slope != 0.0f) v = fma(broadcast(rule.slope), broadcast(rule.first_offset) + index, v);
  const I32x8 in =
      (index >= broadcast(static_cast<float>(seen.first))) & (index < broadcast(static_cast<float>(seen.last)));
  return select(in, v, broadcast(-__builtin_inff()));  // a masked NaN dies here
}

// exp(x) for x <= 0; exactly 0 from -87.7 down, so that what is masked weighs nothing. NaN stays.
QUIRE_INLINE F32x8 exp_of_negative(F32x8 x) {
  x = maximum(broadcast(-88.0f), x);
  const F32x8 magic = broadcast(12582912.0f);
  const F32x8 shifted = fma(x, broadcast(1.44269504f), magic), n = shifted - magic;
  F32x8 r = fma(n, broadcast(-0.693359375f), x);
  r = fma(n, broadcast(2.12194440e-4f), r);
  F32x8 p = broadcast(1.3950478693e-3f);  // the polynomial of exp_v
  p = fma(p, r, broadcast(8.3688822489e-3f));
  p = fma(p, r, broadcast(4.1666205988e-2f));
  p = fma(p, r, broadcast(1.6666518899e-1f));
  p = fma(p, r, broadcast(5.0000000951e-1f));
  p = fma(p, r * r, r) + broadcast(1.0f);
  return p * as_f32((as_i32(shifted) << 23) + 0x3f800000);  // n is in the low bits
}

// One step of the online softmax: turns scores into weights (0 where masked), updates max and sum, and
// returns the factor for what was summed before. Weights of quantized values carry the values' scales, the sum does not.
inline float softmax_block(float* s, const KeyRange& seen, const ScoreRule& rule, float& max, float& sum) {
  const int64_t from = seen.first / 8 * 8;
  const bool plain = !(rule.softcap > 0.0f) && rule.slope == 0.0f;
  F32x8 best = broadcast(max);
  for (int64_t j = from; j < seen.last; j += 8) {
    F32x8 v;
    if (plain && j >= seen.first && j + 8 <= seen.last) {
      v = load(s + j);
      if (rule.k_scales) v = v * load(rule.k_scales + j);
    } else {
      v = final_scores(s, j, seen, rule);
    }
    store(s + j, v);
    best = maximum(v, best);
  }
  const float new_max = max_lanes(best);
  const F32x8 shift = broadcast(new_max);
  const float factor = exp_of_negative(broadcast(max) - shift)[0];
  F32x8 total = zero();
  for (int64_t j = from; j < seen.last; j += 8) {
    const F32x8 p = exp_of_negative(load(s + j) - shift);
    store(s + j, rule.v_scales ? p * load(rule.v_scales + j) : p);
    total = total + p;
  }
  sum = fma_scalar(sum, factor, sum_lanes(total));
  max = new_max;
  return factor;
}

}  // namespace quire::QUIRE_ISA
