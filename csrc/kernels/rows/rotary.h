// Rotary position encoding.
#pragma once

#include "kernel_types.h"
#include "vec/math.h"

namespace quire::QUIRE_ISA {

QUIRE_INLINE void rotate_head(const float* x, float* y, const float* cos, const float* sin, int64_t dims,
                              int64_t head_dim, RotaryStyle style) {
  const int64_t half = dims / 2;
  if (style == RotaryStyle::neox) {
    for_lanes(half, [&](int64_t i, int64_t count) {
      const F32x8 c = load_some(cos + i, count), s = load_some(sin + i, count);
      const F32x8 a = load_some(x + i, count), b = load_some(x + half + i, count);
      store_some(y + i, a * c - b * s, count);
      store_some(y + half + i, b * c + a * s, count);
    });
  } else {
    for (int64_t i = 0; i < half; ++i) {
      const float a = x[2 * i], b = x[2 * i + 1];
      y[2 * i] = a * cos[i] - b * sin[i];
      y[2 * i + 1] = b * cos[i] + a * sin[i];
    }
  }
  if (x != y)
    for (int64_t i = dims; i < head_dim; ++i) y[i] = x[i];
}

inline void rotary(const RotaryArgs& a, int64_t begin, int64_t end, void*) {
  const int64_t half = a.dims / 2;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t position = a.positions[t];
    for (int64_t h = 0; h < a.heads; ++h)
      rotate_head(a.x + t * a.x_stride + h * a.head_dim, a.y + t * a.y_stride + h * a.head_dim, a.cos + position * half,
                  a.sin + position * half, a.dims, a.head_dim, a.style);
  }
}

}  // namespace quire::QUIRE_ISA
