// Scalar arithmetic and conversions: sizes, tails of vectors, the portable table.
#pragma once

#include <stdint.h>

#include "kernel_types.h"
#include "vec/unroll.h"

namespace quire::QUIRE_ISA {

QUIRE_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
QUIRE_INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
QUIRE_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
QUIRE_INLINE int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

QUIRE_INLINE float bits_to_f32(uint32_t u) {
  float f;
  __builtin_memcpy(&f, &u, 4);
  return f;
}
QUIRE_INLINE uint32_t f32_to_bits(float f) {
  uint32_t u;
  __builtin_memcpy(&u, &f, 4);
  return u;
}
QUIRE_INLINE float bf16_to_f32(uint16_t h) { return bits_to_f32(static_cast<uint32_t>(h) << 16); }
QUIRE_INLINE uint16_t f32_to_bf16(float f) {  // nearest even; NaN stays NaN
  const uint32_t u = f32_to_bits(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 0x1fu, fraction = h & 0x3ffu;
  if (exponent == 31) return bits_to_f32(sign | 0x7f800000u | (fraction << 13));
  if (exponent == 0) {
    const float f = static_cast<float>(fraction) * (1.0f / 16777216.0f);
    return sign ? -f : f;
  }
  return bits_to_f32(sign | ((exponent + 112) << 23) | (fraction << 13));
}
inline uint16_t f32_to_f16(float f) {  // nearest even
  const uint32_t u = f32_to_bits(f), sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // denormal result: let float addition do the rounding
    const float shifted = bits_to_f32(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (f32_to_bits(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}
QUIRE_INLINE float element_to_f32(const void* p, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::f32: return static_cast<const float*>(p)[i];
    case DType::bf16: return bf16_to_f32(static_cast<const uint16_t*>(p)[i]);
    case DType::f16: return f16_to_f32(static_cast<const uint16_t*>(p)[i]);
    case DType::i8: return static_cast<float>(static_cast<const int8_t*>(p)[i]);
    default: return static_cast<float>(static_cast<const int32_t*>(p)[i]);
  }
}

}  // namespace quire::QUIRE_ISA
