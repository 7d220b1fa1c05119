// Activations of rows, sixteen lanes at a time (AVX-512 F, BW, DQ, VL).
#pragma once

#include "vec/avx512_exp.h"
#include "vec/math.h"

namespace quire::QUIRE_ISA {

// f of eight lanes on both halves.
template <class F>
QUIRE_INLINE F32x16 on_halves(F32x16 x, F&& f) {
  const F32x8 low = f((F32x8)_mm512_castps512_ps256((__m512)x)), high = f((F32x8)_mm512_extractf32x8_ps((__m512)x, 1));
  return (F32x16)_mm512_insertf32x8(_mm512_castps256_ps512((__m256)low), (__m256)high, 1);
}

template <Activation A>
QUIRE_INLINE F32x16 activate16(F32x16 x) {
  if constexpr (A == Activation::silu || A == Activation::quick_gelu) {
    const F32x16 scaled = A == Activation::silu ? x : x * (F32x16)_mm512_set1_ps(1.702f);
    const F32x16 one = (F32x16)_mm512_set1_ps(1.0f), denominator = one + (F32x16)exp_wide((__m512)-scaled);
    return A == Activation::silu ? x / denominator : x * (one / denominator);
  } else {
    return on_halves(x, [](F32x8 v) { return activate<A>(v); });
  }
}

template <Activation A>
void activation_rows(const ActivationArgs& a, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const float* x = a.x + t * a.x_stride;
    const float* up = a.up ? a.up + t * a.up_stride : nullptr;
    float* y = a.y + t * a.y_stride;
    for (int64_t i = 0; i < a.dim; i += 16) {
      const __mmask16 lanes = lanes16(a.dim - i);
      F32x16 v = activate16<A>(load16_part(x + i, lanes));
      if (up) v = v * load16_part(up + i, lanes);
      store16_part(y + i, v, lanes);
    }
  }
}

}  // namespace quire::QUIRE_ISA
