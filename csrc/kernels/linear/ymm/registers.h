// 256-bit vectors that stay in the registers meant for them.
#pragma once

#include "vec/avx2.h"

namespace quire::QUIRE_ISA {

// For a lambda: inlined before the optimizer asks which arrays can be registers.
#define QUIRE_INLINED __attribute__((always_inline))

typedef uint32_t U32x8 __attribute__((vector_size(32)));

// sum += a * b, in the register of the sum: left to choose, the compiler lets sums wander, and a tile that fills all
// registers spills.
QUIRE_INLINE F32x8 accumulate(F32x8 sum, F32x8 a, F32x8 b) {
  __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  return sum;
}
QUIRE_INLINE F32x8 subtract_product(F32x8 sum, F32x8 a, F32x8 b) {
  __asm__("vfnmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  return sum;
}

// A broadcast for one place: compilers share it between places, and run out of registers.
QUIRE_INLINE F32x8 fresh_broadcast(const float* p) {
  F32x8 v;
  __asm__("vbroadcastss %1, %0" : "=x"(v) : "m"(*p));
  return v;
}
QUIRE_INLINE I32x8 fresh_broadcast(const int32_t* p) {
  I32x8 v;
  __asm__("vpbroadcastd %1, %0" : "=x"(v) : "m"(*p));
  return v;
}

// Zeros that begin as a register: an array of plain ones may stay in memory.
template <class V>
QUIRE_INLINE V fresh_zero() {
  V v;
  __asm__ volatile("vpxor %x0, %x0, %x0" : "=x"(v));  // volatile: not one for all, which a tile has no register for
  return v;
}

}  // namespace quire::QUIRE_ISA
