// RMS norm, layer norm, residual add + RMS norm.
#pragma once

#include "kernel_types.h"
#include "vec/math.h"

namespace quire::QUIRE_ISA {

// Sum of f(vector) over a row with four independent accumulators; the order depends on dim only.
template <class F>
QUIRE_INLINE float sum_row(const float* x, int64_t dim, F f) {
  F32x8 s0 = zero(), s1 = zero(), s2 = zero(), s3 = zero();
  int64_t i = 0;
  for (; i + 32 <= dim; i += 32) {
    s0 = f(load(x + i), s0);
    s1 = f(load(x + i + 8), s1);
    s2 = f(load(x + i + 16), s2);
    s3 = f(load(x + i + 24), s3);
  }
  for (; i + 8 <= dim; i += 8) s0 = f(load(x + i), s0);
  float tail = 0.0f;
  for (; i < dim; ++i) tail += f(broadcast(x[i]), zero())[0];
  return sum_lanes((s0 + s1) + (s2 + s3)) + tail;
}

QUIRE_INLINE void rms_norm_row(const float* x, const float* weight, float offset, float eps, int64_t dim, float* y) {
  const float squares = sum_row(x, dim, [](F32x8 v, F32x8 s) { return fma(v, v, s); });
  const float inverse = 1.0f / __builtin_sqrtf(squares / static_cast<float>(dim) + eps);
  const F32x8 r = broadcast(inverse), o = broadcast(offset), one = broadcast(1.0f);
  for_lanes(dim, [&](int64_t i, int64_t count) {
    const F32x8 w = weight ? load_some(weight + i, count) : one;
    store_some(y + i, load_some(x + i, count) * r * (w + o), count);
  });
}

inline void rms_norm(const RmsNormArgs& a, int64_t begin, int64_t end, void*) {
  for (int64_t t = begin; t < end; ++t)
    for (int64_t g = 0; g < a.groups; ++g)
      rms_norm_row(a.x + t * a.x_stride + g * a.dim, a.weight, a.weight_offset, a.eps, a.dim,
                   a.y + t * a.y_stride + g * a.dim);
}

inline void add_rms_norm(const AddRmsNormArgs& a, int64_t begin, int64_t end, void*) {
  for (int64_t t = begin; t < end; ++t) {
    const float* x = a.x + t * a.x_stride;
    const float* residual = a.residual + t * a.residual_stride;
    float* sum = a.sum + t * a.sum_stride;
    for_lanes(a.dim, [&](int64_t i, int64_t count) {
      store_some(sum + i, load_some(x + i, count) + load_some(residual + i, count), count);
    });
    rms_norm_row(sum, a.weight, a.weight_offset, a.eps, a.dim, a.y + t * a.y_stride);
  }
}

inline void layer_norm(const LayerNormArgs& a, int64_t begin, int64_t end, void*) {
  for (int64_t t = begin; t < end; ++t) {
    const float* x = a.x + t * a.x_stride;
    float* y = a.y + t * a.y_stride;
    const float count_f = static_cast<float>(a.dim);
    const float mean = sum_row(x, a.dim, [](F32x8 v, F32x8 s) { return s + v; }) / count_f;
    const F32x8 center = broadcast(mean);
    const float squares = sum_row(x, a.dim, [center](F32x8 v, F32x8 s) { return fma(v - center, v - center, s); });
    const F32x8 r = broadcast(1.0f / __builtin_sqrtf(squares / count_f + a.eps));
    for_lanes(a.dim, [&](int64_t i, int64_t count) {
      const F32x8 w = a.weight ? load_some(a.weight + i, count) : broadcast(1.0f);
      const F32x8 b = a.bias ? load_some(a.bias + i, count) : zero();
      store_some(y + i, fma((load_some(x + i, count) - center) * r, w, b), count);
    });
  }
}

}  // namespace quire::QUIRE_ISA
