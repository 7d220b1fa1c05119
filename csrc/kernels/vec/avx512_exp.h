// exp of sixteen lanes (AVX-512 F, BW, DQ, VL).
#pragma once

#include "vec/avx512.h"

namespace quire::QUIRE_ISA {

// exp within a few ulp, as exp_v of vec/math.h.
QUIRE_INLINE __m512 exp_wide(__m512 x) {
  x = _mm512_min_ps(_mm512_set1_ps(89.0f), x);  // the second operand is the result when one is NaN
  x = _mm512_max_ps(_mm512_set1_ps(-104.0f), x);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693359375f), x);
  r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.3950478693e-3f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3688822489e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1666205988e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666518899e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000000951e-1f));
  p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

}  // namespace quire::QUIRE_ISA
