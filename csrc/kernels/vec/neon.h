// Eight float lanes on NEON, two registers each.
#pragma once

#include <arm_neon.h>

#include "vec/lanes.h"

namespace quire::QUIRE_ISA {

QUIRE_INLINE F32x8 fma(F32x8 a, F32x8 b, F32x8 c) { return {vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi)}; }
QUIRE_INLINE F32x8 maximum(F32x8 a, F32x8 b) { return select(a > b, a, b); }  // b when either is NaN
QUIRE_INLINE F32x8 minimum(F32x8 a, F32x8 b) { return select(a < b, a, b); }
QUIRE_INLINE F32x8 square_root(F32x8 v) { return {vsqrtq_f32(v.lo), vsqrtq_f32(v.hi)}; }
QUIRE_INLINE float fma_scalar(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
QUIRE_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

// The first `count` lanes; the rest of memory is not touched.
QUIRE_INLINE F32x8 load_part(const float* p, int64_t count) {
  alignas(16) float lanes[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
}
QUIRE_INLINE void store_part(float* p, F32x8 v, int64_t count) {
  alignas(16) float lanes[8];
  store(lanes, v);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}

QUIRE_INLINE F32x8 load_bf16(const uint16_t* p) {
  const uint16x8_t v = vld1q_u16(p);
  return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(v), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(v, 16))};
}
QUIRE_INLINE F32x8 load_f16(const uint16_t* p) {
  const float16x8_t v = vreinterpretq_f16_u16(vld1q_u16(p));
  return {vcvt_f32_f16(vget_low_f16(v)), vcvt_high_f32_f16(v)};
}
QUIRE_INLINE F32x8 load_i8(const int8_t* p) {
  const int16x8_t v = vmovl_s8(vld1_s8(p));
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(v))), vcvtq_f32_s32(vmovl_high_s16(v))};
}
QUIRE_INLINE uint16x4_t narrow_bf16(float32x4_t v) {  // nearest even; NaN stays NaN
  const uint32x4_t u = vreinterpretq_u32_f32(v);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t quiet = vorrq_u32(u, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(v, v), rounded, quiet), 16);
}
QUIRE_INLINE void store_bf16(uint16_t* p, F32x8 v) { vst1q_u16(p, vcombine_u16(narrow_bf16(v.lo), narrow_bf16(v.hi))); }
QUIRE_INLINE void store_f16(uint16_t* p, F32x8 v) {
  vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(v.lo), v.hi)));
}
QUIRE_INLINE bool any_lane(I32x8 mask) { return vmaxvq_u32(vreinterpretq_u32_s32(mask.lo | mask.hi)) != 0; }

}  // namespace quire::QUIRE_ISA
