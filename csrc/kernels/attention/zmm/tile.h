// Small matrix products of attention and the softmax of one row over one block, sixteen lanes wide (AVX-512 F, BW, DQ,
// VL). Takes the place of attention/tile.h.
#pragma once

#include "attention/zmm/scores.h"
#include "vec/avx512_exp.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kProductRows = 6;  // 24 sums, four vectors of b and one of a
constexpr int64_t kDirectRows = 12;  // up to so many rows 16- and 8-bit elements are widened in the product itself

template <DType T>
QUIRE_INLINE __m512 load_wide(const void* p) {
  if constexpr (T == DType::f32) return _mm512_loadu_ps(p);
  else if constexpr (T == DType::bf16)
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))), 16));
  else if constexpr (T == DType::f16) return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  else return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}
// The lanes of `lanes`, 0 in the others; the rest of memory is not touched.
template <DType T>
QUIRE_INLINE __m512 load_wide_part(const void* p, __mmask16 lanes) {
  if constexpr (T == DType::f32) return _mm512_maskz_loadu_ps(lanes, p);
  else if constexpr (T == DType::bf16)
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, p)), 16));
  else if constexpr (T == DType::f16) return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, p));
  else return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(lanes, p)));
}

// c[MR][NV * 16] (+)= a[MR][depth] * b[depth][NV * 16], one chain of multiply-adds per element in order of depth,
// whatever MR and NV are. PF: also prefetches what lies `ahead` bytes on, which
// is the same place in the sequence's next block.
template <DType T, int MR, int NV, bool PF>
__attribute__((noinline)) void multiply_tile(int64_t depth, const float* a, int64_t a_stride, const uint8_t* line,
                                             int64_t line_bytes, float* c, int64_t c_stride, bool accumulate,
                                             int64_t ahead) {
  constexpr int kVectorBytes = 16 * static_cast<int>(dtype_bytes(T)), kLines = (NV * kVectorBytes + 63) / 64;
  __m512 sum[MR * NV];
  unroll<MR>([&](auto r) {
    unroll<NV>([&](auto v) {
      sum[r * NV + v] = accumulate ? _mm512_loadu_ps(c + r * c_stride + v * 16) : _mm512_setzero_ps();
    });
  });
  for (int64_t k = 0; k < depth; ++k, line += line_bytes) {
    if constexpr (PF)  // a plain loop: gcc takes a lambda that only prefetches for one without effects, and drops it
      for (int l = 0; l < kLines; ++l) prefetch(line + l * 64 + ahead);
    if constexpr (MR <= 2) {
      __m512 x[MR];
      unroll<MR>([&](auto r) { x[r] = _mm512_set1_ps(a[r * a_stride + k]); });
      unroll<NV>([&](auto v) {
        const __m512 w = load_wide<T>(line + v * kVectorBytes);
        unroll<MR>([&](auto r) { sum[r * NV + v] = _mm512_fmadd_ps(x[r], w, sum[r * NV + v]); });
      });
    } else {
      __m512 w[NV];
      unroll<NV>([&](auto v) { w[v] = load_wide<T>(line + v * kVectorBytes); });
      unroll<MR>([&](auto r) {
        __m512 x = _mm512_set1_ps(a[r * a_stride + k]);
        __asm__("" : "+v"(x));  // kept in a register: folded into the products it would be loaded NV times
        unroll<NV>([&](auto v) { sum[r * NV + v] = _mm512_fmadd_ps(x, w[v], sum[r * NV + v]); });
      });
    }
  }
  unroll<MR>(
      [&](auto r) { unroll<NV>([&](auto v) { _mm512_storeu_ps(c + r * c_stride + v * 16, sum[r * NV + v]); }); });
}

// The last columns, fewer than 16.
template <DType T, int MR>
__attribute__((noinline)) void multiply_tail(int64_t depth, int64_t columns, const float* a, int64_t a_stride,
                                             const uint8_t* line, int64_t line_bytes, float* c, int64_t c_stride,
                                             bool accumulate) {
  const auto lanes = static_cast<__mmask16>((1u << columns) - 1);
  __m512 sum[MR];
  unroll<MR>(
      [&](auto r) { sum[r] = accumulate ? _mm512_maskz_loadu_ps(lanes, c + r * c_stride) : _mm512_setzero_ps(); });
  for (int64_t k = 0; k < depth; ++k, line += line_bytes) {
    const __m512 w = load_wide_part<T>(line, lanes);
    unroll<MR>([&](auto r) { sum[r] = _mm512_fmadd_ps(_mm512_set1_ps(a[r * a_stride + k]), w, sum[r]); });
  }
  unroll<MR>([&](auto r) { _mm512_mask_storeu_ps(c + r * c_stride, lanes, sum[r]); });
}

// All columns of a product of MR rows.
template <DType T, int MR, bool PF>
void multiply_columns(int64_t depth, int64_t columns, const float* a, int64_t a_stride, const uint8_t* b,
                      int64_t line_bytes, float* c, int64_t c_stride, bool accumulate, int64_t ahead) {
  constexpr int64_t kBytes = dtype_bytes(T);
  int64_t j = 0;
  if constexpr (MR <= 2)
    for (; j + 128 <= columns; j += 128)
      multiply_tile<T, MR, 8, PF>(depth, a, a_stride, b + j * kBytes, line_bytes, c + j, c_stride, accumulate, ahead);
  for (; j + 64 <= columns; j += 64)
    multiply_tile<T, MR, 4, PF>(depth, a, a_stride, b + j * kBytes, line_bytes, c + j, c_stride, accumulate, ahead);
  for (; j + 16 <= columns; j += 16)
    multiply_tile<T, MR, 1, PF>(depth, a, a_stride, b + j * kBytes, line_bytes, c + j, c_stride, accumulate, ahead);
  if (j < columns)
    multiply_tail<T, MR>(depth, columns - j, a, a_stride, b + j * kBytes, line_bytes, c + j, c_stride, accumulate);
}

// One step of the online softmax: turns scores into weights (0 where masked), updates max and sum, and
// returns the factor for what was summed before. Weights of quantized values carry the values' scales, the sum does not.
inline float softmax_block(float* s, const KeyRange& seen, const ScoreRule& rule, float& max, float& sum) {
  const int64_t from = seen.first / 16 * 16;
  __m512 best = _mm512_set1_ps(max);
  for (int64_t j = from; j < seen.last; j += 16) {
    const __m512 v = final_scores(s, j, seen, rule);
    _mm512_storeu_ps(s + j, v);
    best = _mm512_max_ps(v, best);
  }
  const float new_max = _mm512_reduce_max_ps(best);
  const __m512 shift = _mm512_set1_ps(new_max);
  __m512 total = _mm512_setzero_ps();
  for (int64_t j = from; j < seen.last; j += 16) {
    const __m512 p = exp_wide(_mm512_sub_ps(_mm512_loadu_ps(s + j), shift));
    _mm512_storeu_ps(s + j, rule.v_scales ? _mm512_mul_ps(p, _mm512_loadu_ps(rule.v_scales + j)) : p);
    total = _mm512_add_ps(total, p);
  }
  const float factor = _mm512_cvtss_f32(exp_wide(_mm512_sub_ps(_mm512_set1_ps(max), shift)));
  sum = fma_scalar(sum, factor,
                   sum_lanes((F32x8)_mm256_add_ps(_mm512_castps512_ps256(total), _mm512_extractf32x8_ps(total, 1))));
  max = new_max;
  return factor;
}

}  // namespace quire::QUIRE_ISA
