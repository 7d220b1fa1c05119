// Products of any number of rows out of an ISA's tiles.
#pragma once

#include "isa.h"
#if QUIRE_LANES == 16
#include "attention/zmm/tile.h"
#else
#include "attention/tile.h"
#endif

namespace quire::QUIRE_ISA {

template <DType T, bool PF>
void multiply_rows(int64_t rows, int64_t depth, int64_t columns, const float* a, int64_t a_stride, const uint8_t* b,
                   int64_t line_bytes, float* c, int64_t c_stride, bool accumulate, int64_t ahead) {
  int64_t r = 0;
  auto some = [&](auto count) {
    multiply_columns<T, count, PF>(depth, columns, a + r * a_stride, a_stride, b, line_bytes, c + r * c_stride,
                                   c_stride, accumulate, ahead);
    r += count;
  };
  while (r + kProductRows <= rows) some(Index<kProductRows>{});
  unroll<kProductRows - 1>([&](auto less) {
    constexpr int kCount = kProductRows - 1 - less;
    if (rows - r == kCount) some(Index<kCount>{});
  });
}

// c[rows][columns] (+)= a[rows][depth] * b[depth][columns]; each element is one chain of multiply-adds in order of
// depth, however the rows and columns are cut. Strides count elements. ahead: bytes from b to what is prefetched
// meanwhile, 0 = nothing.
template <DType T, bool Accumulate>
void multiply(int64_t rows, int64_t depth, int64_t columns, const float* a, int64_t a_stride, const void* b,
              int64_t b_stride, float* c, int64_t c_stride, int64_t ahead) {
  if (depth <= 0 && Accumulate) return;
  const auto* bytes = static_cast<const uint8_t*>(b);
  const int64_t line_bytes = b_stride * dtype_bytes(T);
  if (ahead)
    multiply_rows<T, true>(rows, depth, columns, a, a_stride, bytes, line_bytes, c, c_stride, Accumulate, ahead);
  else multiply_rows<T, false>(rows, depth, columns, a, a_stride, bytes, line_bytes, c, c_stride, Accumulate, 0);
}

}  // namespace quire::QUIRE_ISA
