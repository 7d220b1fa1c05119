// Paged attention with online softmax.
//
// The order of operations of a row is fixed by its position alone: keys are visited in spans of fixed
// positions; a span starts from an empty state (max, sum, weighted values) and goes through the cache's
// blocks; span states are merged in order. So decode, prefill, any chunking and any split agree bit for bit.
// Online softmax: Milakov and Gimelshein, arXiv:1805.02867; split over keys: Dao et al., FlashDecoding (2023).
#pragma once

#include "attention/plan.h"
#include "attention/product.h"
#include "attention/scratch_cut.h"
#include "attention/state.h"
#include "vec/typed.h"

namespace quire::QUIRE_ISA {

// Per-thread buffers of an item, carved from scratch.
struct AttentionScratch {
  float* q;         // [rows][head_dim], scaled
  float* scores;    // [rows][block_size]
  float* values;    // [rows][padded v_head_dim], weighted sum of the span
  float* all;       // the same, merged over spans
  float* max;       // [rows]
  float* sum;
  float* all_max;
  float* all_sum;
  KeyRange* seen;   // [rows], of the sequence
  KeyRange* in_block;  // [rows], of the block at hand
  float* wide_k;    // [head_dim][block_size]
  float* wide_v;    // [block_size][v_head_dim]
};
inline int64_t carve_scratch(void* base, int64_t rows, int64_t head_dim, int64_t v_head_dim, int64_t block_size,
                             AttentionScratch& out) {
  ScratchCut cut{static_cast<uint8_t*>(base)};
  out.q = cut.take<float>(rows * head_dim);
  out.scores = cut.take<float>(rows * block_size);
  out.values = cut.take<float>(rows * padded(v_head_dim));
  out.all = cut.take<float>(rows * padded(v_head_dim));
  out.max = cut.take<float>(rows);
  out.sum = cut.take<float>(rows);
  out.all_max = cut.take<float>(rows);
  out.all_sum = cut.take<float>(rows);
  out.seen = cut.take<KeyRange>(rows);
  out.in_block = cut.take<KeyRange>(rows);
  out.wide_k = cut.take<float>(head_dim * block_size);
  out.wide_v = cut.take<float>(block_size * v_head_dim);
  return cut.used;
}
inline int64_t attention_scratch_bytes(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t v_head_dim,
                                       int64_t block_size) {
  AttentionScratch unused;
  alignas(64) static uint8_t origin[64];
  const int64_t group = heads / kv_heads;
  return carve_scratch(origin, rows_per_item(group) * group, head_dim, v_head_dim, block_size, unused);
}

template <DType T>
void widen(const void* in, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) store(out + i, load_typed<T>(in, i));
  for (; i < count; ++i) out[i] = element_to_f32(in, T, i);
}

// Weighted values of the rows whose range in this block is seen[r]: the part that all rows of a group
// see is one product; what only some see is added row by row before and after, so that the order of keys of
// each row stays ascending and a masked value is never touched.
template <DType T>
void add_values(int64_t rows, const KeyRange* in_block, const float* weights, int64_t block_size, const void* v,
                int64_t v_head_dim, float* values, int64_t ahead) {
  const uint8_t* bytes = static_cast<const uint8_t*>(v);
  const int64_t stride = padded(v_head_dim);
  for (int64_t r0 = 0; r0 < rows; r0 += kProductRows) {
    const int64_t count = min_of(kProductRows, rows - r0);
    int64_t first = 0, last = block_size;
    for (int64_t r = r0; r < r0 + count; ++r) {
      first = max_of(first, in_block[r].first);
      last = min_of(last, in_block[r].last);
    }
    if (first >= last) first = last = block_size;  // nothing in common
    auto single = [&](int64_t r, int64_t from, int64_t to) {
      if (from < to)
        multiply<T, true>(1, to - from, v_head_dim, weights + r * block_size + from, block_size,
                          bytes + from * v_head_dim * dtype_bytes(T), v_head_dim, values + r * stride, stride, ahead);
    };
    for (int64_t r = r0; r < r0 + count; ++r) single(r, in_block[r].first, min_of(first, in_block[r].last));
    multiply<T, true>(count, last - first, v_head_dim, weights + r0 * block_size + first, block_size,
                      bytes + first * v_head_dim * dtype_bytes(T), v_head_dim, values + r0 * stride, stride, ahead);
    for (int64_t r = r0; r < r0 + count; ++r) single(r, max_of(last, in_block[r].first), in_block[r].last);
  }
}

template <DType T>
void attend_block(const AttentionArgs& a, const AttentionItem& item, const AttentionScratch& s, int64_t rows,
                  int64_t key0, const uint8_t* k, int64_t ahead) {
  const KvCache& c = a.cache;
  const int64_t group = a.heads / c.kv_heads, stride = padded(c.v_head_dim);
  const int64_t index0 =
      a.seq_lens[item.seq] - (a.query_start_loc[item.seq + 1] - a.query_start_loc[item.seq]) + item.row;
  int64_t first = c.block_size, last = 0;
  KeyRange* in_block = s.in_block;
  for (int64_t r = 0; r < rows; ++r) {
    in_block[r] = {max_of(0, s.seen[r].first - key0), min_of(c.block_size, s.seen[r].last - key0)};
    if (in_block[r].first >= in_block[r].last) {
      in_block[r] = {0, 0};
      continue;
    }
    first = min_of(first, in_block[r].first);
    last = max_of(last, in_block[r].last);
  }
  if (first >= last) return;
  const uint8_t* v = k + c.head_dim * c.block_size * dtype_bytes(T);
  if (T == DType::i8 && ahead)
    for (int64_t at = kv_block_head_elements(c); at < kv_block_head_bytes(c); at += 64) prefetch(k + ahead + at);
  const int64_t column0 = first / 16 * 16, columns = round_up(last, 16) - column0;
  const bool widened = T != DType::f32 && rows > kDirectRows;
  if (widened) {
    widen<T>(k, c.head_dim * c.block_size, s.wide_k);
    widen<T>(v + first * c.v_head_dim * dtype_bytes(T), (last - first) * c.v_head_dim, s.wide_v + first * c.v_head_dim);
    multiply<DType::f32, false>(rows, c.head_dim, columns, s.q, c.head_dim, s.wide_k + column0, c.block_size,
                                s.scores + column0, c.block_size, 0);
  } else {
    multiply<T, false>(rows, c.head_dim, columns, s.q, c.head_dim, k + column0 * dtype_bytes(T), c.block_size,
                       s.scores + column0, c.block_size, ahead);
  }
  for (int64_t r = 0; r < rows; ++r) {
    if (in_block[r].first >= in_block[r].last) continue;
    const int64_t head = item.kv_head * group + r % group;
    ScoreRule rule;
    rule.softcap = a.softcap;
    rule.slope = a.alibi_slopes ? a.alibi_slopes[head] : 0.0f;
    rule.first_offset = static_cast<float>(key0 - (index0 + r / group));
    if constexpr (T == DType::i8) {
      rule.k_scales = reinterpret_cast<const float*>(k + kv_block_head_elements(c));
      rule.v_scales = rule.k_scales + c.block_size;
    }
    const float factor = softmax_block(s.scores + r * c.block_size, in_block[r], rule, s.max[r], s.sum[r]);
    float* values = s.values + r * stride;
    for (int64_t d = 0; d < stride; d += 8) store(values + d, load(values + d) * broadcast(factor));
  }
  if (widened) add_values<DType::f32>(rows, in_block, s.scores, c.block_size, s.wide_v, c.v_head_dim, s.values, 0);
  else add_values<T>(rows, in_block, s.scores, c.block_size, v, c.v_head_dim, s.values, ahead);
}

template <DType T>
void attend_span(const AttentionArgs& a, const AttentionItem& item, const AttentionScratch& s, int64_t rows,
                 int64_t span) {
  const KvCache& c = a.cache;
  for (int64_t r = 0; r < rows; ++r) {
    s.max[r] = -__builtin_inff();
    s.sum[r] = 0.0f;
  }
  __builtin_memset(s.values, 0, static_cast<size_t>(rows * padded(c.v_head_dim)) * sizeof(float));
  for_each_block(a, item, span, rows, s.seen, [&](int64_t key0, const uint8_t* data, int64_t ahead) {
    attend_block<T>(a, item, s, rows, key0, data, ahead);
  });
}

template <DType T>
void attention_item(const AttentionArgs& a, const AttentionItem& item, void* scratch) {
  const KvCache& c = a.cache;
  const int64_t group = a.heads / c.kv_heads, rows = item.num_rows * group, stride = padded(c.v_head_dim);
  AttentionScratch s;
  carve_scratch(scratch, rows, c.head_dim, c.v_head_dim, c.block_size, s);
  const int64_t token0 = a.query_start_loc[item.seq] + item.row;
  for (int64_t r = 0; r < rows; ++r) {
    const float* q = a.q + (token0 + r / group) * a.q_stride + (item.kv_head * group + r % group) * c.head_dim;
    for (int64_t d = 0; d < c.head_dim; ++d) s.q[r * c.head_dim + d] = q[d] * a.scale;
    s.seen[r] = visible_keys(a, item.seq, item.row + r / group);
    s.all_max[r] = -__builtin_inff();
    s.all_sum[r] = 0.0f;
  }
  for (int64_t span = item.span_begin; span < item.span_end; ++span) {
    attend_span<T>(a, item, s, rows, span);
    for (int64_t r = 0; r < rows; ++r)
      keep_span(a, item, span, rows, r, s.max[r], s.sum[r], s.values + r * stride, s.all_max[r], s.all_sum[r],
                s.all + r * stride);
  }
  if (item.partial >= 0) return;
  for (int64_t r = 0; r < rows; ++r)
    write_output(a, token0 + r / group, item.kv_head * group + r % group, s.all_max[r], s.all_sum[r],
                 s.all + r * stride);
}

inline void attention_merge(const AttentionArgs& a, int64_t begin, int64_t end, void*) {
  const int64_t group = a.heads / a.cache.kv_heads, dim = a.cache.v_head_dim;
  for (int64_t i = begin; i < end; ++i) {
    const AttentionItem& item = a.items[a.num_items + i];
    const int64_t rows = item.num_rows * group, spans = item.span_end - item.span_begin;
    const int64_t token0 = a.query_start_loc[item.seq] + item.row;
    for (int64_t r = 0; r < rows; ++r) {
      float* all = a.partials + item.partial + r * (dim + 2);  // the first span's state is merged into
      for (int64_t span = 1; span < spans; ++span) {
        const float* state = all + span * rows * (dim + 2);
        merge_state(state[0], state[1], state + 2, dim, all[0], all[1], all + 2);
      }
      write_output(a, token0 + r / group, item.kv_head * group + r % group, all[0], all[1], all + 2);
    }
  }
}

template <DType T>
void attention(const AttentionArgs& a, int64_t begin, int64_t end, void* scratch) {
  for (int64_t i = begin; i < end; ++i) attention_item<T>(a, a.items[i], scratch);
}

template <DType T>
constexpr AttentionKernels attention_kernels() {
  AttentionKernels kernels{};
  kernels.item_capacity = attention_item_capacity;
  kernels.partial_floats = attention_partial_floats;
  kernels.plan = attention_plan;
  kernels.scratch_bytes = attention_scratch_bytes;
  kernels.run = attention<T>;
  kernels.merge = attention_merge;
  return kernels;
}

}  // namespace quire::QUIRE_ISA
