// The linears of the AVX-512 table, by format.
#pragma once

#include "linear/pack_float.h"
#include "linear/pack_quantized.h"
#include "linear/zmm/float.h"
#include "linear/zmm/quantized.h"

namespace quire::QUIRE_ISA {

template <WeightFormat F>
constexpr LinearKernels float_kernels() {
  LinearKernels kernels = packed_floats<F>();
  set_float_products<F>(kernels);
  return kernels;
}

template <WeightFormat F>
constexpr LinearKernels quantized_kernels() {
  LinearKernels kernels = packed_integers<F>();
  kernels.workspace_bytes = zmm_rows_bytes;
  kernels.prepare_items = each_row;
  kernels.prepare = zmm_quantize_rows<F>;
  kernels.prepare_rows = one_row;
  set_quantized_products<F>(kernels);
  return kernels;
}

constexpr void set_linears(LinearKernels* linear) {
  linear[index_of(WeightFormat::f32)] = float_kernels<WeightFormat::f32>();
  linear[index_of(WeightFormat::bf16)] = float_kernels<WeightFormat::bf16>();
  linear[index_of(WeightFormat::f16)] = float_kernels<WeightFormat::f16>();
  linear[index_of(WeightFormat::int8)] = quantized_kernels<WeightFormat::int8>();
  linear[index_of(WeightFormat::int4)] = quantized_kernels<WeightFormat::int4>();
}

}  // namespace quire::QUIRE_ISA
