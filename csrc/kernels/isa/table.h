// The kernels of one ISA.
#pragma once

#include "attention/attention.h"
#include "attention/kv_write.h"
#include "kernel_types.h"
#include "linear/pack.h"
#include "rows/activation.h"
#include "rows/draw.h"
#include "rows/norms.h"
#include "rows/rotary.h"
#include "rows/rowwise.h"
#include QUIRE_LINEARS

namespace quire::QUIRE_ISA {

#define QUIRE_TEXT_OF(x) #x
#define QUIRE_TEXT(x) QUIRE_TEXT_OF(x)

const KernelTable& table() {
  static constexpr KernelTable kernels = {
      .isa = QUIRE_TEXT(QUIRE_ISA),
      .linear_layout = linear_layout,
      .linear_pack = linear_pack,
      .linear_unpack = linear_unpack,
      .linear_workspace_bytes = linear_workspace_bytes,
      .linear_prepare_items = linear_prepare_items,
      .linear_prepare = linear_prepare,
      .linear_prepare_rows = linear_prepare_rows,
      .linear_items = linear_items,
      .linear_scratch_bytes = linear_scratch_bytes,
      .linear = linear,
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
      .attention_item_capacity = attention_item_capacity,
      .attention_partial_floats = attention_partial_floats,
      .attention_plan = attention_plan,
      .attention_scratch_bytes = attention_scratch_bytes,
      .attention = attention,
      .attention_merge = attention_merge,
      .block_maxima = block_maxima,
      .noise_bits = noise_bits,
      .score_masses = score_masses,
      .masses_above = masses_above,
  };
  return kernels;
}

}  // namespace quire::QUIRE_ISA
