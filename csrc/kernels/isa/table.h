// The kernels of one ISA, all but the linears.
#pragma once

#include "attention/attention.h"
#include "attention/kv_write.h"
#include "kernel_types.h"
#include "rows/activation.h"
#include "rows/draw.h"
#include "rows/norms.h"
#include "rows/rotary.h"
#include "rows/rowwise.h"

namespace quire::QUIRE_ISA {

constexpr RowKernels row_kernels() {
  return {
      .rms_norm = rms_norm,
      .add_rms_norm = add_rms_norm,
      .layer_norm = layer_norm,
      .activation = activation,
      .add = add,
      .mul = mul,
      .scale = scale,
      .softcap = softcap,
      .embedding = embedding,
      .combine_rows = combine_rows,
      .row_reduce = row_reduce,
      .rotary = rotary,
      .cache_write = cache_write,
  };
}

constexpr DrawKernels draw_kernels() {
  return {
      .block_maxima = block_maxima,
      .noise_bits = noise_bits,
      .score_masses = score_masses,
      .masses_above = masses_above,
  };
}

constexpr KernelTable table_without_linears(const char* isa) {
  KernelTable t{};
  t.isa = isa;
  t.attention[index_of(DType::f32)] = attention_kernels<DType::f32>();
  t.attention[index_of(DType::bf16)] = attention_kernels<DType::bf16>();
  t.attention[index_of(DType::f16)] = attention_kernels<DType::f16>();
  t.attention[index_of(DType::i8)] = attention_kernels<DType::i8>();
  t.rows = row_kernels();
  t.draw = draw_kernels();
  return t;
}

}  // namespace quire::QUIRE_ISA
