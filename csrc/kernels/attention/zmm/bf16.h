// Paged attention of bf16 caches by vdpbf16ps: queries, and the weights of the softmax, are rounded to bf16; scores,
// sums, maxima and weighted values are f32.
//
// The order of a row's operations is that of attention/attention.h (spans, blocks, merges), with neighbouring keys in pairs by
// position: a pair of which a row sees one key takes that key alone.
#pragma once

#include "attention/plan.h"
#include "attention/scratch_cut.h"
#include "attention/state.h"
#include "attention/zmm/pair_product.h"
#include "attention/zmm/scores.h"
#include "vec/avx512_exp.h"

namespace quire::QUIRE_ISA {

struct PairScratch {
  uint16_t* q;  // [rows][q_stride]
  float* scores;  // [kProductRows][key_stride]
  uint16_t* weights;  // the same
  float* values;  // [rows][value_stride], weighted sum of the span
  float* all;  // the same, merged over spans
  float* sums;  // [rows][16], of the span's weights
  float* max;  // [rows]
  float* all_max;
  float* all_sum;
  KeyRange* seen;  // [rows], of the sequence
  KeyRange* in_block;  // [rows], of the block at hand
  int32_t* k;  // [head_dim / 2][key_stride], interleaved
  int32_t* v;  // [block_size / 2][value_stride]
  int64_t q_stride, key_stride, value_stride;
};
inline int64_t carve_pairs(void* base, int64_t rows, int64_t head_dim, int64_t v_head_dim, int64_t block_size,
                           PairScratch& out) {
  ScratchCut cut{static_cast<uint8_t*>(base)};
  out.q_stride = round_up(head_dim, 16);
  out.key_stride = round_up(block_size, 32);
  out.value_stride = round_up(v_head_dim, 16);
  out.q = cut.take<uint16_t>(rows * out.q_stride);
  out.scores = cut.take<float>(kProductRows * out.key_stride);
  out.weights = cut.take<uint16_t>(kProductRows * out.key_stride);
  out.values = cut.take<float>(rows * out.value_stride);
  out.all = cut.take<float>(rows * out.value_stride);
  out.sums = cut.take<float>(rows * 16);
  out.max = cut.take<float>(rows);
  out.all_max = cut.take<float>(rows);
  out.all_sum = cut.take<float>(rows);
  out.seen = cut.take<KeyRange>(rows);
  out.in_block = cut.take<KeyRange>(rows);
  out.k = cut.take<int32_t>(head_dim / 2 * out.key_stride);
  out.v = cut.take<int32_t>(block_size / 2 * out.value_stride);
  return cut.used;
}
inline int64_t pair_scratch_bytes(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t v_head_dim,
                                  int64_t block_size) {
  PairScratch unused;
  alignas(64) static uint8_t origin[64];
  const int64_t group = heads / kv_heads;
  return carve_pairs(origin, rows_per_item(group) * group, head_dim, v_head_dim, block_size, unused);
}

// 2^x for x <= 0, relative error 1e-4: a weight is rounded to bf16. 0 below -150; NaN stays NaN.
QUIRE_INLINE __m512 weight_of(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-150.0f), x);
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(5.5171669e-2f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4261114e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9326097e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.9992806e-1f));
  return _mm512_scalef_ps(p, n);
}

// Scores of a block become final (-inf where masked, to the ends of 32 keys); returns the largest, scaled. `scale` becomes
// what is left to multiply them by.
inline float finish_scores(float* s, const KeyRange& seen, const ScoreRule& rule, float& scale) {
  const int64_t from = seen.first / 32 * 32, to = round_up(seen.last, 32);
  const bool plain = rule.softcap <= 0.0f && rule.slope == 0.0f && scale > 0.0f;
  __m512 best = _mm512_set1_ps(-__builtin_inff());
  for (int64_t j = from; j < to; j += 16) {
    __m512 v = _mm512_loadu_ps(s + j);
    if (!plain || j < seen.first || j + 16 > seen.last) {
      if (!plain) _mm512_storeu_ps(s + j, _mm512_mul_ps(v, _mm512_set1_ps(scale)));
      v = final_scores(s, j, seen, rule);
      _mm512_storeu_ps(s + j, v);
    }
    best = _mm512_max_ps(v, best);
  }
  if (!plain) scale = 1.0f;
  return _mm512_reduce_max_ps(best) * scale;
}

// Makes weights exp(scale * score - max) of final scores, and adds them, as they are rounded, to the row's sums.
inline void sum_weights(const float* s, uint16_t* weights, const KeyRange& seen, float scale, float max, float factor,
                        float* sums) {
  constexpr float kLog2e = 1.44269504f;
  const __m512 scale_v = _mm512_set1_ps(scale * kLog2e), shift = _mm512_set1_ps(max * kLog2e);
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  __m512 total = _mm512_mul_ps(_mm512_loadu_ps(sums), _mm512_set1_ps(factor));
  for (int64_t j = seen.first / 32 * 32; j < seen.last; j += 32) {
    __m512 p[2];
    unroll<2>([&](auto i) { p[i] = weight_of(_mm512_fmsub_ps(_mm512_loadu_ps(s + j + i * 16), scale_v, shift)); });
    const __m512bh rounded = _mm512_cvtne2ps_pbh(p[1], p[0]);
    _mm512_storeu_si512(weights + j, (__m512i)rounded);
    total = _mm512_dpbf16_ps(total, rounded, ones);
  }
  _mm512_storeu_ps(sums, total);
}

// One block's work of the tiles: where its keys and values lie, and where interleaved when they are.
struct PairBlock {
  const uint16_t* k;
  const uint16_t* v;
  bool interleaved;
  int64_t ahead;
};

// Adds weighted values of `count` rows from r0 to what was summed before, times its factors. Pairs that all rows see whole
// are one product; what only some see, or half of a pair, is added row by row before and after, so that the order of keys
// of each row stays ascending and a masked value is never touched.
inline void add_pair_values(const KvCache& c, const PairScratch& s, const PairBlock& block, int64_t r0, int64_t count,
                            const float* factors) {
  const int64_t dim = c.v_head_dim, stride = s.value_stride;
  int64_t first = 0, last = c.block_size;
  for (int64_t r = r0; r < r0 + count; ++r) {
    first = max_of(first, round_up(s.in_block[r].first, 2));
    last = min_of(last, s.in_block[r].last / 2 * 2);
  }
  if (first >= last) first = last = c.block_size;  // nothing in common
  constexpr float kOnes[kProductRows] = {1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f};
  bool whole = first < last;  // the product comes first, and can multiply by the factors
  for (int64_t r = r0; r < r0 + count; ++r) whole = whole && (s.in_block[r].first == first || s.in_block[r].last == 0);
  if (!whole) {
    for (int64_t r = r0; r < r0 + count; ++r)
      for (int64_t d = 0; d < stride; d += 16)
        store16(s.values + r * stride + d, load16(s.values + r * stride + d) * factors[r - r0]);
    factors = kOnes;
  }
  auto product = [&](int64_t r, int64_t rows, int64_t from, int64_t to, const float* by, int64_t ahead) {
    if (from >= to) return;
    const uint16_t* weights = s.weights + (r - r0) * s.key_stride + from;
    float* values = s.values + r * stride;
    if (block.interleaved)
      pair_product<Interleaved>(rows, (to - from) / 2, dim, weights, s.key_stride, s.v + from / 2 * stride, stride * 4,
                                values, stride, by, 0);
    else
      pair_product<InLines>(rows, (to - from) / 2, dim, weights, s.key_stride, block.v + from * dim, dim * 2, values,
                            stride, by, ahead);
  };
  auto half = [&](int64_t r, int64_t key) {
    half_pair(1, dim, s.weights + (r - r0) * s.key_stride + key / 2 * 2, 0, block.v + key * dim, key % 2 != 0,
              s.values + r * stride, stride);
  };
  auto single = [&](int64_t r, int64_t from, int64_t to) {
    if (from >= to) return;
    if (from % 2) half(r, from++);
    product(r, 1, from, to / 2 * 2, kOnes, 0);
    if (to % 2 && from < to) half(r, to - 1);
  };
  for (int64_t r = r0; r < r0 + count; ++r) single(r, s.in_block[r].first, min_of(first, s.in_block[r].last));
  product(r0, count, first, last, factors, block.ahead);
  for (int64_t r = r0; r < r0 + count; ++r) single(r, max_of(last, s.in_block[r].first), s.in_block[r].last);
}

// Scores, softmax and values of `count` rows from r0.
inline void attend_pair_rows(const AttentionArgs& a, const AttentionItem& item, const PairScratch& s,
                             const PairBlock& block, int64_t key0, int64_t index0, int64_t r0, int64_t count) {
  const KvCache& c = a.cache;
  const int64_t group = a.heads / c.kv_heads, dim = c.head_dim;
  int64_t first = c.block_size, last = 0;
  for (int64_t r = r0; r < r0 + count; ++r) {
    if (s.in_block[r].first >= s.in_block[r].last) continue;
    first = min_of(first, s.in_block[r].first);
    last = max_of(last, s.in_block[r].last);
  }
  if (first >= last) return;
  const int64_t column0 = first / 16 * 16, columns = round_up(last, 16) - column0;
  const uint16_t* q = s.q + r0 * s.q_stride;
  float* scores = s.scores + column0;
  if (block.interleaved)
    pair_product<Interleaved>(count, dim / 2, columns, q, s.q_stride, s.k + column0, s.key_stride * 4, scores,
                              s.key_stride, nullptr, 0);
  else
    pair_product<InLines>(count, dim / 2, columns, q, s.q_stride, block.k + column0, c.block_size * 2, scores,
                          s.key_stride, nullptr, block.ahead);
  if (dim % 2)
    half_pair(count, columns, q + dim - 1, s.q_stride, block.k + (dim - 1) * c.block_size + column0, false, scores,
              s.key_stride);
  alignas(64) float old_max[16] = {}, new_max[16] = {}, factors[16];
  float scale = a.scale;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t r = r0 + i;
    old_max[i] = new_max[i] = s.max[r];
    if (s.in_block[r].first >= s.in_block[r].last) continue;
    ScoreRule rule;
    rule.softcap = a.softcap;
    rule.slope = a.alibi_slopes ? a.alibi_slopes[item.kv_head * group + r % group] : 0.0f;
    rule.first_offset = static_cast<float>(key0 - (index0 + r / group));
    scale = a.scale;
    const float max = finish_scores(s.scores + i * s.key_stride, s.in_block[r], rule, scale);
    if (max > old_max[i]) new_max[i] = max;
  }
  store16(factors, exp_wide(load16(old_max) - load16(new_max)));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t r = r0 + i;
    if (s.in_block[r].first >= s.in_block[r].last) {
      factors[i] = 1.0f;
      continue;
    }
    s.max[r] = new_max[i];
    sum_weights(s.scores + i * s.key_stride, s.weights + i * s.key_stride, s.in_block[r], scale, new_max[i], factors[i],
                s.sums + r * 16);
  }
  add_pair_values(c, s, block, r0, count, factors);
}

inline void attend_pair_block(const AttentionArgs& a, const AttentionItem& item, const PairScratch& s, int64_t rows,
                              int64_t key0, const uint8_t* data, int64_t ahead) {
  const KvCache& c = a.cache;
  const int64_t index0 =
      a.seq_lens[item.seq] - (a.query_start_loc[item.seq + 1] - a.query_start_loc[item.seq]) + item.row;
  int64_t first = c.block_size, last = 0;
  for (int64_t r = 0; r < rows; ++r) {
    s.in_block[r] = {max_of(0, s.seen[r].first - key0), min_of(c.block_size, s.seen[r].last - key0)};
    if (s.in_block[r].first >= s.in_block[r].last) {
      s.in_block[r] = {0, 0};
      continue;
    }
    first = min_of(first, s.in_block[r].first);
    last = max_of(last, s.in_block[r].last);
  }
  if (first >= last) return;
  const auto* k = reinterpret_cast<const uint16_t*>(data);
  PairBlock block = {k, k + c.head_dim * c.block_size, rows > kInterleavedAbove, ahead};
  if (block.interleaved) {
    const int64_t column0 = first / 16 * 16, pair0 = (first + 1) / 2;
    interleave_lines(c.head_dim / 2, round_up(last, 16) - column0, k + column0, c.block_size, s.k + column0,
                     s.key_stride);
    interleave_lines(last / 2 - pair0, c.v_head_dim, block.v + pair0 * 2 * c.v_head_dim, c.v_head_dim,
                     s.v + pair0 * s.value_stride, s.value_stride);
  }
  for (int64_t r0 = 0; r0 < rows; r0 += kProductRows) {
    attend_pair_rows(a, item, s, block, key0, index0, r0, min_of(kProductRows, rows - r0));
    block.ahead = 0;  // the first rows have asked for the next block
  }
}

inline void attend_pair_span(const AttentionArgs& a, const AttentionItem& item, const PairScratch& s, int64_t rows,
                             int64_t span) {
  for (int64_t r = 0; r < rows; ++r) s.max[r] = -__builtin_inff();
  __builtin_memset(s.sums, 0, static_cast<size_t>(rows) * 64);
  __builtin_memset(s.values, 0, static_cast<size_t>(rows * s.value_stride) * sizeof(float));
  for_each_block(a, item, span, rows, s.seen, [&](int64_t key0, const uint8_t* data, int64_t ahead) {
    attend_pair_block(a, item, s, rows, key0, data, ahead);
  });
}

QUIRE_INLINE void prefetch_row(const float* row, int64_t dim) {
  for (int64_t d = 0; d < dim; d += 16) prefetch(row + d);
}

inline void attention_item_bf16(const AttentionArgs& a, const AttentionItem& item, void* scratch) {
  const KvCache& c = a.cache;
  const int64_t group = a.heads / c.kv_heads, rows = item.num_rows * group;
  PairScratch s;
  carve_pairs(scratch, rows, c.head_dim, c.v_head_dim, c.block_size, s);
  const int64_t token0 = a.query_start_loc[item.seq] + item.row;
  auto q_row = [&](int64_t r) {
    return a.q + (token0 + r / group) * a.q_stride + (item.kv_head * group + r % group) * c.head_dim;
  };
  auto out_row = [&](int64_t r) {
    return a.out + (token0 + r / group) * a.out_stride + (item.kv_head * group + r % group) * c.v_head_dim;
  };
  constexpr int64_t kAhead = 8;  // rows are far apart: no processor foresees the next
  for (int64_t r = 0; r < rows; ++r) {
    const float* q = q_row(r);
    if (r + kAhead < rows) prefetch_row(q_row(r + kAhead), c.head_dim);
    for (int64_t d = 0; d < c.head_dim; d += 16) {
      const __m256bh rounded = _mm512_cvtneps_pbh(load16_part(q + d, lanes16(c.head_dim - d)));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(s.q + r * s.q_stride + d), (__m256i)rounded);
    }
    s.seen[r] = visible_keys(a, item.seq, item.row + r / group);
    s.all_max[r] = -__builtin_inff();
    s.all_sum[r] = 0.0f;
  }
  for (int64_t span = item.span_begin; span < item.span_end; ++span) {
    attend_pair_span(a, item, s, rows, span);
    for (int64_t r = 0; r < rows; ++r) {
      const F32x16 sums = load16(s.sums + r * 16);
      const float sum = sum_lanes((F32x8)_mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps(sums, 1)));
      keep_span(a, item, span, rows, r, s.max[r], sum, s.values + r * s.value_stride, s.all_max[r], s.all_sum[r],
                s.all + r * s.value_stride);
    }
  }
  if (item.partial >= 0) return;
  for (int64_t r = 0; r < rows; ++r) {
    if (r + kAhead < rows) prefetch_row(out_row(r + kAhead), c.v_head_dim);
    write_output(a, token0 + r / group, item.kv_head * group + r % group, s.all_max[r], s.all_sum[r],
                 s.all + r * s.value_stride);
  }
}

inline void attention_bf16(const AttentionArgs& a, int64_t begin, int64_t end, void* scratch) {
  for (int64_t i = begin; i < end; ++i) attention_item_bf16(a, a.items[i], scratch);
}

// Puts this attention in the place of another; states of split contexts are merged as that one does.
constexpr void set_attention_bf16(AttentionKernels& kernels) {
  kernels.item_capacity = attention_item_capacity;
  kernels.partial_floats = attention_partial_floats;
  kernels.plan = attention_plan;
  kernels.scratch_bytes = pair_scratch_bytes;
  kernels.run = attention_bf16;
}

}  // namespace quire::QUIRE_ISA
