// Eight float lanes in plain C++; the compiler maps them to whatever the baseline has.
//
#pragma once

#include "vec/lanes.h"

namespace quire::QUIRE_ISA {

QUIRE_INLINE F32x8 fma(F32x8 a, F32x8 b, F32x8 c) { return a * b + c; }  // two roundings
QUIRE_INLINE F32x8 maximum(F32x8 a, F32x8 b) { return a > b ? a : b; }    // b when either is NaN
QUIRE_INLINE F32x8 minimum(F32x8 a, F32x8 b) { return a < b ? a : b; }
QUIRE_INLINE F32x8 square_root(F32x8 v) {
  for (int i = 0; i < 8; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
}
QUIRE_INLINE float fma_scalar(float a, float b, float c) { return a * b + c; }
QUIRE_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

QUIRE_INLINE F32x8 load_part(const float* p, int64_t count) {
  alignas(32) float lanes[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
}
QUIRE_INLINE void store_part(float* p, F32x8 v, int64_t count) {
  alignas(32) float lanes[8];
  store(lanes, v);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}

QUIRE_INLINE F32x8 load_bf16(const uint16_t* p) {
  F32x8 v;
  for (int i = 0; i < 8; ++i) v[i] = bf16_to_f32(p[i]);
  return v;
}
QUIRE_INLINE F32x8 load_f16(const uint16_t* p) {
  F32x8 v;
  for (int i = 0; i < 8; ++i) v[i] = f16_to_f32(p[i]);
  return v;
}
QUIRE_INLINE F32x8 load_i8(const int8_t* p) {
  F32x8 v;
  for (int i = 0; i < 8; ++i) v[i] = static_cast<float>(p[i]);
  return v;
}
QUIRE_INLINE void store_bf16(uint16_t* p, F32x8 v) {
  for (int i = 0; i < 8; ++i) p[i] = f32_to_bf16(v[i]);
}
QUIRE_INLINE void store_f16(uint16_t* p, F32x8 v) {
  for (int i = 0; i < 8; ++i) p[i] = f32_to_f16(v[i]);
}
QUIRE_INLINE bool any_lane(I32x8 mask) {
  int32_t any = 0;
  for (int i = 0; i < 8; ++i) any |= mask[i];
  return any != 0;
}

// 16 signed bytes as 16-bit lanes.
QUIRE_INLINE I16x16 widen_i8(const void* p) {
  I16x16 v;
  for (int i = 0; i < 16; ++i) v[i] = static_cast<const int8_t*>(p)[i];
  return v;
}
// sum[i] + w[2i] * x[2i] + w[2i + 1] * x[2i + 1]; x is a broadcast pair of 16-bit values.
QUIRE_INLINE I32x8 multiply_add_i16(I16x16 w, I32x8 x, I32x8 sum) {
  const I16x16 pair = (I16x16)x;
  for (int i = 0; i < 8; ++i) sum[i] += w[2 * i] * pair[2 * i] + w[2 * i + 1] * pair[2 * i + 1];
  return sum;
}
// 16-bit lane i: sum[i] + w[2i] * x[2i] + w[2i + 1] * x[2i + 1]; w unsigned, x a broadcast quad of signed bytes.
QUIRE_INLINE I16x16 multiply_add_u8(U8x32 w, I32x8 x, I16x16 sum) {
  typedef int8_t I8x32 __attribute__((vector_size(32)));
  const I8x32 quad = (I8x32)x;
  for (int i = 0; i < 16; ++i)
    sum[i] = static_cast<int16_t>(sum[i] + w[2 * i] * quad[2 * i] + w[2 * i + 1] * quad[2 * i + 1]);
  return sum;
}
QUIRE_INLINE I32x8 add_pairs(I16x16 v) {
  I32x8 sum;
  for (int i = 0; i < 8; ++i) sum[i] = v[2 * i] + v[2 * i + 1];
  return sum;
}
QUIRE_INLINE U8x32 low_nibbles(U8x32 v) { return v & 15; }
QUIRE_INLINE U8x32 high_nibbles(U8x32 v) { return v >> 4; }

}  // namespace quire::QUIRE_ISA
