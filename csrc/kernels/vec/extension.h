// Eight float lanes in the compiler's vector extension, on which + - * / and comparisons work lane by lane: for
// processors with 256-bit registers, and for plain C++.
#pragma once

#include <stdint.h>

#include "vec/unroll.h"

namespace quire::QUIRE_ISA {

typedef float F32x8 __attribute__((vector_size(32)));
typedef int32_t I32x8 __attribute__((vector_size(32)));
typedef int16_t I16x16 __attribute__((vector_size(32)));
typedef uint8_t U8x32 __attribute__((vector_size(32)));
typedef float F32x8Unaligned __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t I32x8Unaligned __attribute__((vector_size(32), aligned(1), may_alias));
typedef uint8_t U8x32Unaligned __attribute__((vector_size(32), aligned(1), may_alias));

QUIRE_INLINE F32x8 load(const float* p) { return *reinterpret_cast<const F32x8Unaligned*>(p); }
QUIRE_INLINE void store(float* p, F32x8 v) { *reinterpret_cast<F32x8Unaligned*>(p) = v; }
QUIRE_INLINE I32x8 load_i32(const void* p) { return *reinterpret_cast<const I32x8Unaligned*>(p); }
QUIRE_INLINE U8x32 load_u8(const void* p) { return *reinterpret_cast<const U8x32Unaligned*>(p); }
QUIRE_INLINE void store_i32(int32_t* p, I32x8 v) { *reinterpret_cast<I32x8Unaligned*>(p) = v; }
QUIRE_INLINE F32x8 broadcast(float x) { return F32x8{x, x, x, x, x, x, x, x}; }
QUIRE_INLINE I32x8 broadcast_i32(int32_t x) { return I32x8{x, x, x, x, x, x, x, x}; }
QUIRE_INLINE F32x8 zero() { return F32x8{}; }
QUIRE_INLINE F32x8 as_f32(I32x8 v) { return reinterpret_cast<F32x8>(v); }
QUIRE_INLINE I32x8 as_i32(F32x8 v) { return reinterpret_cast<I32x8>(v); }
QUIRE_INLINE F32x8 to_f32(I32x8 v) { return __builtin_convertvector(v, F32x8); }
QUIRE_INLINE I32x8 to_i32(F32x8 v) { return __builtin_convertvector(v, I32x8); }
QUIRE_INLINE F32x8 select(I32x8 mask, F32x8 yes, F32x8 no) { return mask ? yes : no; }
QUIRE_INLINE I32x8 larger(I32x8 a, I32x8 b) { return a > b ? a : b; }

// The low halves or bytes of the lanes, at any alignment.
template <class Int>
QUIRE_INLINE void store_narrow(Int* p, I32x8 v) {
  typedef Int Narrow __attribute__((vector_size(8 * sizeof(Int))));
  const Narrow narrow = __builtin_convertvector(v, Narrow);
  __builtin_memcpy(p, &narrow, sizeof narrow);
}

// Rows of an 8 x 8 matrix become its columns.
QUIRE_INLINE void transpose(I32x8* r) {
  I32x8 pairs[8], quads[8];
  unroll<4>([&](auto j) {
    pairs[j * 2] = __builtin_shufflevector(r[j * 2], r[j * 2 + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    pairs[j * 2 + 1] = __builtin_shufflevector(r[j * 2], r[j * 2 + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  });
  unroll<2>([&](auto j) {
    unroll<2>([&](auto part) {
      const I32x8 a = pairs[j * 4 + part], b = pairs[j * 4 + 2 + part];
      quads[j * 4 + part * 2] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
      quads[j * 4 + part * 2 + 1] = __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    });
  });
  unroll<4>([&](auto j) {
    r[j] = __builtin_shufflevector(quads[j], quads[j + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    r[j + 4] = __builtin_shufflevector(quads[j], quads[j + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  });
}

}  // namespace quire::QUIRE_ISA
