// Eight float lanes as two 128-bit halves. Where registers have 128 bits, compilers keep a 256-bit vector of the
// extension in memory; two halves they keep in registers.
#pragma once

#include <stdint.h>

#include "vec/unroll.h"

namespace quire::QUIRE_ISA {

typedef float F32x4 __attribute__((vector_size(16)));
typedef int32_t I32x4 __attribute__((vector_size(16)));
typedef int16_t I16x8 __attribute__((vector_size(16)));
typedef uint8_t U8x16 __attribute__((vector_size(16)));

template <class Half, class Element>
struct VectorPair {
  static constexpr int kHalf = 16 / sizeof(Element);
  Half lo, hi;
  VectorPair() = default;
  QUIRE_INLINE VectorPair(Half l, Half h) : lo(l), hi(h) {}
  template <class... E>
    requires(sizeof...(E) == 32 / sizeof(Element))
  QUIRE_INLINE VectorPair(E... elements) {
    const Element all[] = {static_cast<Element>(elements)...};
    __builtin_memcpy(&lo, all, 16);
    __builtin_memcpy(&hi, all + kHalf, 16);
  }
  QUIRE_INLINE Element operator[](int i) const { return i < kHalf ? lo[i] : hi[i - kHalf]; }
};
typedef VectorPair<F32x4, float> F32x8;
typedef VectorPair<I32x4, int32_t> I32x8;
typedef VectorPair<I16x8, int16_t> I16x16;
typedef VectorPair<U8x16, uint8_t> U8x32;

#define QUIRE_PAIR_OPERATOR(OP)                                                               \
  template <class H, class E>                                                                 \
  QUIRE_INLINE VectorPair<H, E> operator OP(VectorPair<H, E> a, VectorPair<H, E> b) {         \
    return {a.lo OP b.lo, a.hi OP b.hi};                                                      \
  }                                                                                           \
  template <class H, class E>                                                                 \
  QUIRE_INLINE VectorPair<H, E>& operator OP## = (VectorPair<H, E> & a, VectorPair<H, E> b) { \
    return a = a OP b;                                                                        \
  }
QUIRE_PAIR_OPERATOR(+)
QUIRE_PAIR_OPERATOR(-)
QUIRE_PAIR_OPERATOR(*)
QUIRE_PAIR_OPERATOR(/)
QUIRE_PAIR_OPERATOR(&)
QUIRE_PAIR_OPERATOR(|)
#undef QUIRE_PAIR_OPERATOR
QUIRE_INLINE F32x8 operator-(F32x8 v) { return {-v.lo, -v.hi}; }
QUIRE_INLINE I32x8 operator+(I32x8 v, int x) { return {v.lo + x, v.hi + x}; }
QUIRE_INLINE I32x8 operator<<(I32x8 v, int bits) { return {v.lo << bits, v.hi << bits}; }
QUIRE_INLINE I32x8 operator>>(I32x8 v, int bits) { return {v.lo >> bits, v.hi >> bits}; }

#define QUIRE_PAIR_COMPARISON(OP) \
  QUIRE_INLINE I32x8 operator OP(F32x8 a, F32x8 b) { return {a.lo OP b.lo, a.hi OP b.hi}; }
QUIRE_PAIR_COMPARISON(==)
QUIRE_PAIR_COMPARISON(!=)
QUIRE_PAIR_COMPARISON(<)
QUIRE_PAIR_COMPARISON(>)
QUIRE_PAIR_COMPARISON(<=)
QUIRE_PAIR_COMPARISON(>=)
#undef QUIRE_PAIR_COMPARISON

template <class Half>
QUIRE_INLINE Half load_half(const void* p) {
  Half v;
  __builtin_memcpy(&v, p, 16);
  return v;
}
template <class Pair>
QUIRE_INLINE Pair load_pair(const void* p) {
  const uint8_t* at = static_cast<const uint8_t*>(p);
  return {load_half<decltype(Pair::lo)>(at), load_half<decltype(Pair::hi)>(at + 16)};
}
QUIRE_INLINE F32x8 load(const float* p) { return load_pair<F32x8>(p); }
QUIRE_INLINE I32x8 load_i32(const void* p) { return load_pair<I32x8>(p); }
QUIRE_INLINE U8x32 load_u8(const void* p) { return load_pair<U8x32>(p); }
QUIRE_INLINE void store(float* p, F32x8 v) {
  __builtin_memcpy(p, &v.lo, 16);
  __builtin_memcpy(p + 4, &v.hi, 16);
}
QUIRE_INLINE void store_i32(int32_t* p, I32x8 v) {
  __builtin_memcpy(p, &v.lo, 16);
  __builtin_memcpy(p + 4, &v.hi, 16);
}
QUIRE_INLINE F32x8 broadcast(float x) {
  const F32x4 v = {x, x, x, x};
  return {v, v};
}
QUIRE_INLINE I32x8 broadcast_i32(int32_t x) {
  const I32x4 v = {x, x, x, x};
  return {v, v};
}
QUIRE_INLINE F32x8 zero() { return F32x8{}; }
QUIRE_INLINE F32x8 as_f32(I32x8 v) { return {reinterpret_cast<F32x4>(v.lo), reinterpret_cast<F32x4>(v.hi)}; }
QUIRE_INLINE I32x8 as_i32(F32x8 v) { return {reinterpret_cast<I32x4>(v.lo), reinterpret_cast<I32x4>(v.hi)}; }
QUIRE_INLINE F32x8 to_f32(I32x8 v) {
  return {__builtin_convertvector(v.lo, F32x4), __builtin_convertvector(v.hi, F32x4)};
}
QUIRE_INLINE I32x8 to_i32(F32x8 v) {
  return {__builtin_convertvector(v.lo, I32x4), __builtin_convertvector(v.hi, I32x4)};
}
QUIRE_INLINE F32x8 select(I32x8 mask, F32x8 yes, F32x8 no) {
  return {mask.lo ? yes.lo : no.lo, mask.hi ? yes.hi : no.hi};
}
QUIRE_INLINE I32x8 larger(I32x8 a, I32x8 b) { return {a.lo > b.lo ? a.lo : b.lo, a.hi > b.hi ? a.hi : b.hi}; }

// The low halves or bytes of the lanes, at any alignment.
template <class Int>
QUIRE_INLINE void store_narrow(Int* p, I32x8 v) {
  typedef Int Narrow __attribute__((vector_size(4 * sizeof(Int))));
  const Narrow lo = __builtin_convertvector(v.lo, Narrow), hi = __builtin_convertvector(v.hi, Narrow);
  __builtin_memcpy(p, &lo, sizeof lo);
  __builtin_memcpy(p + 4, &hi, sizeof hi);
}

// Rows of an 8 x 8 matrix become its columns: four 4 x 4 ones.
QUIRE_INLINE void transpose_4x4(I32x4& a, I32x4& b, I32x4& c, I32x4& d) {
  const I32x4 ab0 = __builtin_shufflevector(a, b, 0, 4, 2, 6), ab1 = __builtin_shufflevector(a, b, 1, 5, 3, 7);
  const I32x4 cd0 = __builtin_shufflevector(c, d, 0, 4, 2, 6), cd1 = __builtin_shufflevector(c, d, 1, 5, 3, 7);
  a = __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab1, cd1, 0, 1, 4, 5);
  c = __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7);
  d = __builtin_shufflevector(ab1, cd1, 2, 3, 6, 7);
}
QUIRE_INLINE void transpose(I32x8* r) {
  transpose_4x4(r[0].lo, r[1].lo, r[2].lo, r[3].lo);
  transpose_4x4(r[0].hi, r[1].hi, r[2].hi, r[3].hi);
  transpose_4x4(r[4].lo, r[5].lo, r[6].lo, r[7].lo);
  transpose_4x4(r[4].hi, r[5].hi, r[6].hi, r[7].hi);
  unroll<4>([&](auto j) {
    const I32x4 upper = r[j].hi;
    r[j].hi = r[j + 4].lo;
    r[j + 4].lo = upper;
  });
}

}  // namespace quire::QUIRE_ISA
