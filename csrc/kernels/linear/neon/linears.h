// The linears of the NEON tables, by format.
#pragma once

#include "linear/neon/gemm.h"
#include "linear/neon/quantized.h"
#include "linear/portable/float.h"

namespace quire::QUIRE_ISA {

constexpr void set_linears(LinearKernels* linear) {
  linear[index_of(WeightFormat::f32)] = float_kernels<WeightFormat::f32, NeonGemm>();
  linear[index_of(WeightFormat::bf16)] = float_kernels<WeightFormat::bf16, NeonGemm>();
  linear[index_of(WeightFormat::f16)] = float_kernels<WeightFormat::f16, NeonGemm>();
  linear[index_of(WeightFormat::int8)] = quantized_kernels<WeightFormat::int8>();
  linear[index_of(WeightFormat::int4)] = quantized_kernels<WeightFormat::int4>();
}

}  // namespace quire::QUIRE_ISA
