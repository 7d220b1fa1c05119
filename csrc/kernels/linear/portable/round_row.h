// A row of activations rounded to integers with a scale.
#pragma once

#include "vec/math.h"

namespace quire::QUIRE_ISA {

// Scale that maps the largest magnitude of x[0, count) to `limit`; NaN when there is a NaN, so that it shows.
QUIRE_INLINE float row_scale(const float* x, int64_t count, float limit) {
  F32x8 best = zero();
  I32x8 nan = {};
  for_lanes(count, [&](int64_t i, int64_t n) {
    const F32x8 v = load_some(x + i, n);
    best = maximum(absolute(v), best);
    nan |= v != v;
  });
  if (any_lane(nan)) return __builtin_nanf("");
  const float largest = max_lanes(best);
  return largest > 1e-30f ? largest / limit : 0.0f;
}

QUIRE_INLINE float inverse_scale(float scale) { return scale > 0.0f && scale < 1e37f ? 1.0f / scale : 0.0f; }

// out[i] = x[i] * inverse rounded to nearest even, |result| < 2^22; zero for NaN and past `count`.
template <class Int>
QUIRE_INLINE void round_scaled(const float* x, int64_t count, float inverse, int64_t padded_count, Int* out) {
  const F32x8 magic = broadcast(12582912.0f);
  for (int64_t i = 0; i < padded_count; i += 8) {
    const int64_t left = count - i;
    F32x8 v = (left >= 8 ? load(x + i) : left > 0 ? load_part(x + i, left) : zero()) * broadcast(inverse);
    v = select(v == v, v, zero());
    store_narrow(out + i, to_i32((v + magic) - magic));
  }
}

}  // namespace quire::QUIRE_ISA
