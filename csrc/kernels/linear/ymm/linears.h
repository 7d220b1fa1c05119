// The linears of the AVX2 table, by format.
#pragma once

#include "linear/ymm/float.h"
#include "linear/ymm/int4.h"
#include "linear/ymm/int8.h"

namespace quire::QUIRE_ISA {

constexpr void set_linears(LinearKernels* linear) {
  linear[index_of(WeightFormat::f32)] = float_kernels<WeightFormat::f32>();
  linear[index_of(WeightFormat::bf16)] = float_kernels<WeightFormat::bf16>();
  linear[index_of(WeightFormat::f16)] = float_kernels<WeightFormat::f16>();
  linear[index_of(WeightFormat::int8)] = int8_kernels();
  linear[index_of(WeightFormat::int4)] = int4_kernels();
}

}  // namespace quire::QUIRE_ISA
