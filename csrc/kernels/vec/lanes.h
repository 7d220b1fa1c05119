// What every ISA's vector header shares: eight float lanes (F32x8, I32x8, I16x16, U8x32 and their loads, stores and
// conversions come from vec/extension.h, or from vec/pairs.h where QUIRE_VECTOR_PAIRS is defined).
// The ISA's header adds: fma, maximum, minimum, square_root, load_part, store_part, load_bf16,
// load_f16, load_i8, store_bf16, store_f16, any_lane, prefetch, and the integer products
// widen_i8, multiply_add_i16, multiply_add_u8, add_pairs.
#pragma once

#include "isa.h"
#include "vec/scalar.h"
#ifdef QUIRE_VECTOR_PAIRS
#include "vec/pairs.h"
#else
#include "vec/extension.h"
#endif

namespace quire::QUIRE_ISA {

QUIRE_INLINE F32x8 absolute(F32x8 v) { return as_f32(as_i32(v) & broadcast_i32(0x7fffffff)); }

// Fixed order, so that a sum's bits depend on nothing but its lanes.
QUIRE_INLINE float sum_lanes(F32x8 v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }
QUIRE_INLINE float max_lanes(F32x8 v) {
  const auto larger = [](float a, float b) { return a > b ? a : b; };
  return larger(larger(larger(v[0], v[4]), larger(v[2], v[6])), larger(larger(v[1], v[5]), larger(v[3], v[7])));
}

}  // namespace quire::QUIRE_ISA
