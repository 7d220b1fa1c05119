// A row's state of the online softmax (max, sum, weighted values): merging, and the output.
#pragma once

#include "kernel_types.h"
#include "vec/math.h"

namespace quire::QUIRE_ISA {

// Merges a span's state into the running one.
QUIRE_INLINE void merge_state(float max, float sum, const float* values, int64_t dim, float& all_max, float& all_sum,
                              float* all) {
  if (max == -__builtin_inff()) return;  // the row saw nothing in this span
  if (all_max == -__builtin_inff()) {
    all_max = max;
    all_sum = sum;
    for (int64_t d = 0; d < dim; ++d) all[d] = values[d];
    return;
  }
  const float new_max = max > all_max ? max : all_max;
  const float old_factor = exp_v(broadcast(all_max - new_max))[0], factor = exp_v(broadcast(max - new_max))[0];
  all_sum = fma_scalar(sum, factor, all_sum * old_factor);
  for_lanes(dim, [&](int64_t d, int64_t count) {
    store_some(all + d,
               fma(load_some(values + d, count), broadcast(factor), load_some(all + d, count) * broadcast(old_factor)),
               count);
  });
  all_max = new_max;
}

// Keeps what row r of an item summed over one span: in the item's partials, or merged into the running state.
QUIRE_INLINE void keep_span(const AttentionArgs& a, const AttentionItem& item, int64_t span, int64_t rows, int64_t r,
                            float max, float sum, const float* values, float& all_max, float& all_sum, float* all) {
  const int64_t dim = a.cache.v_head_dim;
  if (item.partial < 0) return merge_state(max, sum, values, dim, all_max, all_sum, all);
  float* state = a.partials + item.partial + ((span - item.span_begin) * rows + r) * (dim + 2);
  state[0] = max;
  state[1] = sum;
  for (int64_t d = 0; d < dim; ++d) state[2 + d] = values[d];
}

QUIRE_INLINE void write_output(const AttentionArgs& a, int64_t token, int64_t head, float max, float sum,
                               const float* values) {
  float* out = a.out + token * a.out_stride + head * a.cache.v_head_dim;
  float factor = 1.0f;
  if (a.sinks) {
    const float sink = a.sinks[head], top = max > sink ? max : sink;
    factor = exp_v(broadcast(max - top))[0];
    sum = fma_scalar(sum, factor, exp_v(broadcast(sink - top))[0]);
  }
  const bool empty = max == -__builtin_inff();  // no visible key: zeros
  const F32x8 scale_v = broadcast(empty ? 0.0f : factor / sum);
  for_lanes(a.cache.v_head_dim, [&](int64_t d, int64_t count) {
    store_some(out + d, empty ? zero() : load_some(values + d, count) * scale_v, count);
  });
}

}  // namespace quire::QUIRE_ISA
