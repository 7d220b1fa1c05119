// Sixteen float lanes on AVX-512 (F, BW, DQ, VL), beside the eight of vec_avx2.h. Included inside namespace
// quire::QUIRE_ISA of the AVX-512 units.

typedef float F32x16 __attribute__((vector_size(64)));
typedef int32_t I32x16 __attribute__((vector_size(64)));

QUIRE_INLINE F32x16 load16(const float* p) { return _mm512_loadu_ps(p); }
QUIRE_INLINE I32x16 load16_i32(const void* p) { return (I32x16)_mm512_loadu_si512(p); }
QUIRE_INLINE void store16(float* p, F32x16 v) { _mm512_storeu_ps(p, v); }
QUIRE_INLINE F32x16 load16_f16(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
QUIRE_INLINE __mmask16 lanes16(int64_t count) { return static_cast<__mmask16>(count >= 16 ? 0xffff : (1u << count) - 1); }
QUIRE_INLINE F32x16 load16_part(const float* p, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, p); }
QUIRE_INLINE void store16_part(float* p, F32x16 v, __mmask16 lanes) { _mm512_mask_storeu_ps(p, lanes, v); }
QUIRE_INLINE F32x16 zero16() { return F32x16{}; }
QUIRE_INLINE F32x16 fma16(F32x16 a, F32x16 b, F32x16 c) { return _mm512_fmadd_ps(a, b, c); }

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
