// Rows of any length in eight lanes; exp, tanh, erf and the activations on eight lanes, within a few ulp.
// Coefficients: weighted least-squares fits toward the minimax error, made for these ranges.
#pragma once

#include "kernel_types.h"
#include "vec/vec.h"

namespace quire::QUIRE_ISA {

// body(i, count): count is 8, or what is left.
template <class Body>
QUIRE_INLINE void for_lanes(int64_t dim, Body&& body) {
  int64_t i = 0;
  for (; i + 8 <= dim; i += 8) body(i, int64_t{8});
  if (i < dim) body(i, dim - i);
}
QUIRE_INLINE F32x8 load_some(const float* p, int64_t count) { return count == 8 ? load(p) : load_part(p, count); }
QUIRE_INLINE void store_some(float* p, F32x8 v, int64_t count) {
  if (count == 8) store(p, v);
  else store_part(p, v, count);
}

QUIRE_INLINE float row_max(const float* x, int64_t dim) {
  F32x8 best = broadcast(-__builtin_inff());
  int64_t i = 0;
  for (; i + 8 <= dim; i += 8) best = maximum(load(x + i), best);  // NaN in x keeps best
  float m = max_lanes(best);
  for (; i < dim; ++i) m = x[i] > m ? x[i] : m;
  return m;
}

// exp(x) = 2^n * exp(r), |r| <= ln(2)/2. Two factors of 2^n, so that denormal and infinite results come out right.
QUIRE_INLINE F32x8 exp_v(F32x8 x) {
  x = select(x > broadcast(89.0f), broadcast(89.0f), x);  // written so that NaN passes through
  x = select(x < broadcast(-104.0f), broadcast(-104.0f), x);
  const F32x8 magic = broadcast(12582912.0f);
  const F32x8 n = fma(x, broadcast(1.44269504f), magic) - magic;
  F32x8 r = fma(n, broadcast(-0.693359375f), x);
  r = fma(n, broadcast(2.12194440e-4f), r);
  F32x8 p = broadcast(1.3950478693e-3f);
  p = fma(p, r, broadcast(8.3688822489e-3f));
  p = fma(p, r, broadcast(4.1666205988e-2f));
  p = fma(p, r, broadcast(1.6666518899e-1f));
  p = fma(p, r, broadcast(5.0000000951e-1f));
  p = fma(p, r * r, r) + broadcast(1.0f);
  const I32x8 whole = to_i32(n);
  const I32x8 half = whole >> 1;
  const F32x8 scale_a = as_f32((half + 127) << 23);
  const F32x8 scale_b = as_f32((whole - half + 127) << 23);
  return p * scale_a * scale_b;
}

QUIRE_INLINE F32x8 tanh_v(F32x8 x) {
  const F32x8 a = absolute(x), z = x * x;
  F32x8 p = broadcast(-5.6039137913e-3f);
  p = fma(p, z, broadcast(2.0551719203e-2f));
  p = fma(p, z, broadcast(-5.3714107283e-2f));
  p = fma(p, z, broadcast(1.3331152807e-1f));
  p = fma(p, z, broadcast(-3.3333272083e-1f));
  const F32x8 near_zero = fma(p * z, x, x);
  const F32x8 far = broadcast(1.0f) - broadcast(2.0f) / (exp_v(a + a) + broadcast(1.0f));
  const F32x8 signed_far = as_f32(as_i32(far) | (as_i32(x) & broadcast_i32(static_cast<int32_t>(0x80000000u))));
  return select(a < broadcast(0.625f), near_zero, signed_far);
}

QUIRE_INLINE F32x8 erf_v(F32x8 x) {
  const F32x8 a = absolute(x), z = x * x;
  F32x8 p = broadcast(7.8891228014e-5f);
  p = fma(p, z, broadcast(-8.0208422586e-4f));
  p = fma(p, z, broadcast(5.1895354492e-3f));
  p = fma(p, z, broadcast(-2.6854444649e-2f));
  p = fma(p, z, broadcast(1.1283600178e-1f));
  p = fma(p, z, broadcast(-3.7612627136e-1f));
  p = fma(p, z, broadcast(1.1283791659f));
  const F32x8 near_zero = p * x;
  const F32x8 t = select(a > broadcast(4.0f), broadcast(4.0f), a);
  F32x8 q = broadcast(-1.8557407123e-4f);  // -log(erfc(t)) on [1, 4]
  q = fma(q, t, broadcast(2.9396078884e-3f));
  q = fma(q, t, broadcast(-2.1805320601e-2f));
  q = fma(q, t, broadcast(1.0303737336e-1f));
  q = fma(q, t, broadcast(6.3822567209e-1f));
  q = fma(q, t, broadcast(1.1270400391f));
  q = fma(q, t, broadcast(3.5371875952e-4f));
  const F32x8 far = broadcast(1.0f) - exp_v(-q);
  const F32x8 signed_far = as_f32(as_i32(far) | (as_i32(x) & broadcast_i32(static_cast<int32_t>(0x80000000u))));
  return select(a < broadcast(1.0f), near_zero, signed_far);
}

QUIRE_INLINE F32x8 sigmoid_v(F32x8 x) { return broadcast(1.0f) / (broadcast(1.0f) + exp_v(-x)); }

template <Activation A>
QUIRE_INLINE F32x8 activate(F32x8 x) {
  if constexpr (A == Activation::silu) return x / (broadcast(1.0f) + exp_v(-x));
  if constexpr (A == Activation::relu) return select(x < zero(), zero(), x);
  if constexpr (A == Activation::quick_gelu) return x * sigmoid_v(x * broadcast(1.702f));
  const F32x8 half = x * broadcast(0.5f);
  if constexpr (A == Activation::gelu) return fma(half, erf_v(x * broadcast(0.70710678f)), half);
  const F32x8 cube = x * x * x;
  const F32x8 inner = fma(cube, broadcast(0.044715f), x) * broadcast(0.79788456f);
  return fma(half, tanh_v(inner), half);
}

}  // namespace quire::QUIRE_ISA
