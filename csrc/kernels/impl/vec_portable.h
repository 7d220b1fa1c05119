// Eight float lanes in plain C++; the compiler maps them to whatever the baseline has.
// Included inside namespace quire::portable.

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
