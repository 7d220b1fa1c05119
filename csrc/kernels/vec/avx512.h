// Sixteen float lanes on AVX-512 (F, BW, DQ, VL), beside the eight of vec/avx2.h.
#pragma once

#include <immintrin.h>

#include "vec/avx2.h"

namespace quire::QUIRE_ISA {

typedef float F32x16 __attribute__((vector_size(64)));
typedef int32_t I32x16 __attribute__((vector_size(64)));

QUIRE_INLINE void prefetch_to_write(const void* p) { __builtin_prefetch(p, 1, 3); }
QUIRE_INLINE F32x16 load16(const float* p) { return _mm512_loadu_ps(p); }
QUIRE_INLINE I32x16 load16_i32(const void* p) { return (I32x16)_mm512_loadu_si512(p); }
QUIRE_INLINE void store16(float* p, F32x16 v) { _mm512_storeu_ps(p, v); }
QUIRE_INLINE F32x16 load16_f16(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
QUIRE_INLINE __mmask16 lanes16(int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xffff : (1u << count) - 1);
}
QUIRE_INLINE F32x16 load16_part(const float* p, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, p); }
QUIRE_INLINE void store16_part(float* p, F32x16 v, __mmask16 lanes) { _mm512_mask_storeu_ps(p, lanes, v); }
QUIRE_INLINE F32x16 zero16() { return F32x16{}; }
QUIRE_INLINE F32x16 fma16(F32x16 a, F32x16 b, F32x16 c) { return _mm512_fmadd_ps(a, b, c); }

// sum += a * b, in the register of the sum: left to choose, the compiler lets sums wander over the other operands'
// registers, and a tile that fills all 32 spills.
QUIRE_INLINE F32x16 accumulate16(F32x16 sum, F32x16 a, F32x16 b) {
  __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}

// sum += a * (b in all lanes), without a register for b.
QUIRE_INLINE F32x16 accumulate16(F32x16 sum, F32x16 a, const float* b) {
  __asm__("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(a), "m"(*b));
  return sum;
}

QUIRE_INLINE F32x16 multiply16(F32x16 a, const float* b) {
  __asm__("vmulps %1%{1to16%}, %0, %0" : "+v"(a) : "m"(*b));
  return a;
}
QUIRE_INLINE F32x16 subtract_product16(F32x16 sum, F32x16 a, const float* b) {
  __asm__("vfnmadd231ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(a), "m"(*b));
  return sum;
}

// A broadcast that stays in a register: compilers fold it into every product that uses it, and then loads, of which
// there are two a cycle, bound a tile instead of its arithmetic.
QUIRE_INLINE F32x16 broadcast16(float x) {
  F32x16 v = _mm512_set1_ps(x);
  __asm__("" : "+v"(v));
  return v;
}
QUIRE_INLINE I32x16 broadcast16_i32(const void* p) {
  int32_t x;
  __builtin_memcpy(&x, p, 4);
  I32x16 v = (I32x16)_mm512_set1_epi32(x);
  __asm__("" : "+v"(v));
  return v;
}
// Zeros that do not wait in a register of their own.
QUIRE_INLINE I32x16 fresh_zero16_i32() {
  I32x16 v;
  __asm__("vpxord %0, %0, %0" : "=v"(v));
  return v;
}
// The low half of every byte; the mask stays in memory.
constexpr int32_t kLowNibbles = 0x0f0f0f0f;
QUIRE_INLINE I32x16 low_nibbles16(I32x16 v) {
  __asm__("vpandd %1%{1to16%}, %0, %0" : "+v"(v) : "m"(kLowNibbles));
  return v;
}

}  // namespace quire::QUIRE_ISA
