// The scores of a block on sixteen lanes (AVX-512 F, BW, DQ, VL).
#pragma once

#include "attention/types.h"
#include "vec/avx512.h"
#include "vec/math.h"

namespace quire::QUIRE_ISA {

QUIRE_INLINE __m512 tanh_wide(__m512 x) {
  const F32x8 low = tanh_v((F32x8)_mm512_castps512_ps256(x)), high = tanh_v((F32x8)_mm512_extractf32x8_ps(x, 1));
  return _mm512_insertf32x8(_mm512_castps256_ps512((__m256)low), (__m256)high, 1);
}

QUIRE_INLINE __m512 final_scores(const float* s, int64_t j, const KeyRange& seen, const ScoreRule& rule) {
  const __m512i iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i index = _mm512_add_epi32(iota, _mm512_set1_epi32(static_cast<int>(j)));
  __m512 v = _mm512_loadu_ps(s + j);
  if (rule.k_scales) v = _mm512_mul_ps(v, _mm512_loadu_ps(rule.k_scales + j));
  if (rule.softcap > 0.0f) {
    const __m512 cap = _mm512_set1_ps(rule.softcap);
    v = _mm512_mul_ps(cap, tanh_wide(_mm512_div_ps(v, cap)));
  }
  if (rule.slope != 0.0f) {
    const __m512 offset = _mm512_add_ps(_mm512_set1_ps(rule.first_offset), _mm512_cvtepi32_ps(index));
    v = _mm512_fmadd_ps(_mm512_set1_ps(rule.slope), offset, v);
  }
  const __mmask16 in = _mm512_cmpge_epi32_mask(index, _mm512_set1_epi32(static_cast<int>(seen.first))) &
                       _mm512_cmplt_epi32_mask(index, _mm512_set1_epi32(static_cast<int>(seen.last)));
  return _mm512_mask_mov_ps(_mm512_set1_ps(-__builtin_inff()), in, v);  // a masked NaN dies here
}

}  // namespace quire::QUIRE_ISA
