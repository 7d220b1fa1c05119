// Eight float lanes on AVX2 + FMA + F16C.
#pragma once

#include <immintrin.h>

#include "vec/lanes.h"

namespace quire::QUIRE_ISA {

QUIRE_INLINE F32x8 fma(F32x8 a, F32x8 b, F32x8 c) { return _mm256_fmadd_ps(a, b, c); }
QUIRE_INLINE F32x8 maximum(F32x8 a, F32x8 b) { return _mm256_max_ps(a, b); }  // b when either is NaN
QUIRE_INLINE F32x8 minimum(F32x8 a, F32x8 b) { return _mm256_min_ps(a, b); }
QUIRE_INLINE F32x8 square_root(F32x8 v) { return _mm256_sqrt_ps(v); }
QUIRE_INLINE float fma_scalar(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
QUIRE_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

// The first `count` lanes; the rest of memory is not touched.
QUIRE_INLINE __m256i lanes_below(int64_t count) {
  const __m256i iota = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), iota);
}
QUIRE_INLINE F32x8 load_part(const float* p, int64_t count) { return _mm256_maskload_ps(p, lanes_below(count)); }
QUIRE_INLINE void store_part(float* p, F32x8 v, int64_t count) { _mm256_maskstore_ps(p, lanes_below(count), v); }

QUIRE_INLINE F32x8 load_bf16(const uint16_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
QUIRE_INLINE F32x8 load_f16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
QUIRE_INLINE F32x8 load_i8(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
QUIRE_INLINE void store_bf16(uint16_t* p, F32x8 v) {
  const __m256i u = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}
QUIRE_INLINE void store_f16(uint16_t* p, F32x8 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
QUIRE_INLINE bool any_lane(I32x8 mask) { return _mm256_movemask_ps(as_f32(mask)) != 0; }

// 16 signed bytes as 16-bit lanes.
QUIRE_INLINE I16x16 widen_i8(const void* p) {
  return (I16x16)_mm256_cvtepi8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
// Integer sums may be regrouped by the compiler, which then runs out of registers: this forbids it.
template <class V>
QUIRE_INLINE V keep_order(V v) {
  __asm__("" : "+x"(v));
  return v;
}
// sum[i] + w[2i] * x[2i] + w[2i + 1] * x[2i + 1]; x is a broadcast pair of 16-bit values.
QUIRE_INLINE I32x8 multiply_add_i16(I16x16 w, I32x8 x, I32x8 sum) {
  return keep_order((I32x8)_mm256_add_epi32((__m256i)sum, _mm256_madd_epi16((__m256i)w, (__m256i)x)));
}
// 16-bit lane i: sum[i] + w[2i] * x[2i] + w[2i + 1] * x[2i + 1]; w unsigned, x a broadcast quad of signed bytes.
QUIRE_INLINE I16x16 multiply_add_u8(U8x32 w, I32x8 x, I16x16 sum) {
  return keep_order((I16x16)_mm256_add_epi16((__m256i)sum, _mm256_maddubs_epi16((__m256i)w, (__m256i)x)));
}
QUIRE_INLINE I32x8 add_pairs(I16x16 v) { return (I32x8)_mm256_madd_epi16((__m256i)v, _mm256_set1_epi16(1)); }
QUIRE_INLINE U8x32 low_nibbles(U8x32 v) { return (U8x32)_mm256_and_si256((__m256i)v, _mm256_set1_epi8(15)); }
QUIRE_INLINE U8x32 high_nibbles(U8x32 v) {
  return (U8x32)_mm256_and_si256(_mm256_srli_epi16((__m256i)v, 4), _mm256_set1_epi8(15));
}

}  // namespace quire::QUIRE_ISA
