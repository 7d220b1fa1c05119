// Activations of rows, eight lanes at a time.
#pragma once

#include "vec/math.h"

namespace quire::QUIRE_ISA {

template <Activation A>
void activation_rows(const ActivationArgs& a, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const float* x = a.x + t * a.x_stride;
    const float* up = a.up ? a.up + t * a.up_stride : nullptr;
    float* y = a.y + t * a.y_stride;
    for_lanes(a.dim, [&](int64_t i, int64_t count) {
      F32x8 v = activate<A>(load_some(x + i, count));
      if (up) v = v * load_some(up + i, count);
      store_some(y + i, v, count);
    });
  }
}

}  // namespace quire::QUIRE_ISA
