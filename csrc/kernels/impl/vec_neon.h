// Eight float lanes on NEON, two registers each. Included inside namespace quire::neon*.

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

// 16 signed bytes as 16-bit lanes.
QUIRE_INLINE I16x16 widen_i8(const void* p) {
  const int8x16_t v = vld1q_s8(static_cast<const int8_t*>(p));
  return {vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v)};
}
QUIRE_INLINE int32x4_t multiply_pairs_i16(int16x8_t w, int32x4_t x) {
  const int16x8_t pair = vreinterpretq_s16_s32(x);
  return vpaddq_s32(vmull_s16(vget_low_s16(w), vget_low_s16(pair)), vmull_high_s16(w, pair));
}
// sum[i] + w[2i] * x[2i] + w[2i + 1] * x[2i + 1]; x is a broadcast pair of 16-bit values.
QUIRE_INLINE I32x8 multiply_add_i16(I16x16 w, I32x8 x, I32x8 sum) {
  return {vaddq_s32(sum.lo, multiply_pairs_i16(w.lo, x.lo)), vaddq_s32(sum.hi, multiply_pairs_i16(w.hi, x.hi))};
}
QUIRE_INLINE int16x8_t multiply_pairs_i8(uint8x16_t w, int32x4_t x) {  // w < 128
  const int8x16_t s = vreinterpretq_s8_u8(w), quad = vreinterpretq_s8_s32(x);
  return vpaddq_s16(vmull_s8(vget_low_s8(s), vget_low_s8(quad)), vmull_high_s8(s, quad));
}
// 16-bit lane i: sum[i] + w[2i] * x[2i] + w[2i + 1] * x[2i + 1]; w below 128, x a broadcast quad of signed bytes.
QUIRE_INLINE I16x16 multiply_add_u8(U8x32 w, I32x8 x, I16x16 sum) {
  return {vaddq_s16(sum.lo, multiply_pairs_i8(w.lo, x.lo)), vaddq_s16(sum.hi, multiply_pairs_i8(w.hi, x.hi))};
}
QUIRE_INLINE I32x8 add_pairs(I16x16 v) { return {vpaddlq_s16(v.lo), vpaddlq_s16(v.hi)}; }
QUIRE_INLINE U8x32 low_nibbles(U8x32 v) { return {vandq_u8(v.lo, vdupq_n_u8(15)), vandq_u8(v.hi, vdupq_n_u8(15))}; }
QUIRE_INLINE U8x32 high_nibbles(U8x32 v) { return {vshrq_n_u8(v.lo, 4), vshrq_n_u8(v.hi, 4)}; }
