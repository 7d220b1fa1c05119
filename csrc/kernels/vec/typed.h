// Eight elements of any dtype as float lanes.
#pragma once

#include "kernel_types.h"
#include "vec/vec.h"

namespace quire::QUIRE_ISA {

template <DType T>
QUIRE_INLINE F32x8 load_typed(const void* row, int64_t i) {
  if constexpr (T == DType::f32) return load(static_cast<const float*>(row) + i);
  else if constexpr (T == DType::bf16) return load_bf16(static_cast<const uint16_t*>(row) + i);
  else if constexpr (T == DType::i8) return load_i8(static_cast<const int8_t*>(row) + i);
  else return load_f16(static_cast<const uint16_t*>(row) + i);
}

}  // namespace quire::QUIRE_ISA
