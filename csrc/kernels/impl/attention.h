// Paged attention with online softmax. Included inside namespace quire::QUIRE_ISA.
//
// The order of operations of a row is fixed by its position alone: keys are visited in spans of fixed
// positions; a span starts from an empty state (max, sum, weighted values) and goes through the cache's
// blocks; span states are merged in order. So decode, prefill, any chunking and any split agree bit for bit.
// Online softmax: Milakov and Gimelshein, arXiv:1805.02867; split over keys: Dao et al., FlashDecoding (2023).

#include "attention_product.h"

constexpr int64_t kSpanKeys = 1024;
constexpr int64_t kTileQueries = 48;      // rows (query row, head) of an item, about
constexpr int64_t kSplitQueryRows = 4;    // items with more query rows are not split over spans
constexpr int64_t kPrefetchedRows = 8;    // more rows compute for longer than their keys take to come
constexpr int64_t kMaxPartialFloats = int64_t{1} << 22;

QUIRE_INLINE int64_t span_blocks(int64_t block_size) { return max_of(1, kSpanKeys / block_size); }
QUIRE_INLINE int64_t rows_per_item(int64_t group) { return max_of(1, kTileQueries / group); }
QUIRE_INLINE int64_t padded(int64_t dim) { return round_up(dim, 8); }

// Keys that query row `row` of a sequence sees.
QUIRE_INLINE KeyRange visible_keys(const AttentionArgs& a, int64_t seq, int64_t row) {
  const int64_t length = a.seq_lens[seq];
  if (!a.causal) return {0, length};
  const int64_t query_length = a.query_start_loc[seq + 1] - a.query_start_loc[seq];
  const int64_t index = length - query_length + row;
  return {a.window > 0 ? max_of(0, index - a.window + 1) : 0, index + 1};
}

inline int64_t attention_item_capacity(int64_t max_tokens, int64_t max_seqs, int64_t kv_heads, int64_t,
                                       int64_t, int64_t num_threads) {
  return (max_tokens + max_seqs) * kv_heads + 16 * num_threads;
}
inline int64_t attention_partial_floats(int64_t max_len, int64_t heads, int64_t kv_heads, int64_t v_head_dim,
                                        int64_t block_size, int64_t num_threads) {
  const int64_t spans = ceil_div(max_len, span_blocks(block_size) * block_size);
  const int64_t rows = min_of(kSplitQueryRows, rows_per_item(heads / kv_heads)) * (heads / kv_heads);
  return min_of(kMaxPartialFloats, 4 * num_threads * spans * rows * (v_head_dim + 2));
}

// Calls f(item) for every tile of every sequence, with its whole range of spans.
template <class F>
QUIRE_INLINE void for_each_tile(const AttentionArgs& a, F&& f) {
  const int64_t tile_rows = rows_per_item(a.heads / a.cache.kv_heads);
  const int64_t span_keys = span_blocks(a.cache.block_size) * a.cache.block_size;
  for (int64_t s = 0; s < a.num_seqs; ++s) {
    const int64_t rows = a.query_start_loc[s + 1] - a.query_start_loc[s];
    for (int64_t row = 0; row < rows; row += tile_rows) {
      AttentionItem item;
      item.seq = static_cast<int32_t>(s);
      item.row = static_cast<int32_t>(row);
      item.num_rows = static_cast<int32_t>(min_of(tile_rows, rows - row));
      item.span_begin = static_cast<int32_t>(visible_keys(a, s, row).first / span_keys);
      item.span_end = static_cast<int32_t>(ceil_div(visible_keys(a, s, row + item.num_rows - 1).last, span_keys));
      for (int64_t h = 0; h < a.cache.kv_heads; ++h) {
        item.kv_head = static_cast<int32_t>(h);
        f(item);
      }
    }
  }
}

inline void attention_plan(AttentionArgs& a, int64_t num_threads) {
  int64_t tiles = 0;
  for_each_tile(a, [&](const AttentionItem&) { ++tiles; });
  const int64_t group = a.heads / a.cache.kv_heads, wanted = 4 * num_threads;
  int64_t used = 0, items = 0, merges = 0;  // merges grow down from the end, then move behind the items
  for_each_tile(a, [&](AttentionItem item) {
    const int64_t spans = item.span_end - item.span_begin;
    const int64_t state_floats = item.num_rows * group * (a.cache.v_head_dim + 2);
    const bool split = tiles < wanted && num_threads > 1 && spans > 1 && item.num_rows <= kSplitQueryRows && a.partials &&
                       used + spans * state_floats <= a.partial_capacity;
    const int64_t pieces = split ? min_of(spans, ceil_div(wanted, tiles)) : 1;
    if (items + pieces + merges + 1 > a.item_capacity) __builtin_trap();  // smaller than attention_item_capacity
    const int64_t begin = item.span_begin, base = used;
    if (split) {
      item.partial = base;
      a.items[a.item_capacity - ++merges] = item;
      used += spans * state_floats;
    }
    for (int64_t p = 0; p < pieces; ++p) {
      AttentionItem piece = item;
      piece.span_begin = static_cast<int32_t>(begin + spans * p / pieces);
      piece.span_end = static_cast<int32_t>(begin + spans * (p + 1) / pieces);
      if (split) piece.partial = base + (piece.span_begin - begin) * state_floats;
      a.items[items++] = piece;
    }
  });
  for (int64_t i = 0; i < merges; ++i) {  // ranges may overlap only when the copy runs front to back
    a.items[items + i] = a.items[a.item_capacity - merges + i];
  }
  a.num_items = items;
  a.num_merges = merges;
}

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
  int64_t at = 0;
  auto take = [&](int64_t bytes) {
    uint8_t* p = static_cast<uint8_t*>(base) + at;
    at += round_up(bytes, 64);
    return p;
  };
  auto floats = [&](int64_t count) { return reinterpret_cast<float*>(take(count * 4)); };
  out.q = floats(rows * head_dim);
  out.scores = floats(rows * block_size);
  out.values = floats(rows * padded(v_head_dim));
  out.all = floats(rows * padded(v_head_dim));
  out.max = floats(rows);
  out.sum = floats(rows);
  out.all_max = floats(rows);
  out.all_sum = floats(rows);
  out.seen = reinterpret_cast<KeyRange*>(take(rows * static_cast<int64_t>(sizeof(KeyRange))));
  out.in_block = reinterpret_cast<KeyRange*>(take(rows * static_cast<int64_t>(sizeof(KeyRange))));
  out.wide_k = floats(head_dim * block_size);
  out.wide_v = floats(block_size * v_head_dim);
  return at;
}
inline int64_t attention_scratch_bytes(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t v_head_dim,
                                       int64_t block_size) {
  AttentionScratch unused;
  alignas(64) static uint8_t origin[64];
  const int64_t group = heads / kv_heads;
  return carve_scratch(origin, rows_per_item(group) * group, head_dim, v_head_dim, block_size, unused);
}

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
    store_some(all + d, fma(load_some(values + d, count), broadcast(factor), load_some(all + d, count) * broadcast(old_factor)), count);
  });
  all_max = new_max;
}

QUIRE_INLINE void write_output(const AttentionArgs& a, int64_t token, int64_t head, float max, float sum, const float* values) {
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
  const int64_t index0 = a.seq_lens[item.seq] - (a.query_start_loc[item.seq + 1] - a.query_start_loc[item.seq]) + item.row;
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
void attend_span(const AttentionArgs& a, const AttentionItem& item, const AttentionScratch& s, int64_t rows, int64_t span) {
  const KvCache& c = a.cache;
  for (int64_t r = 0; r < rows; ++r) {
    s.max[r] = -__builtin_inff();
    s.sum[r] = 0.0f;
  }
  __builtin_memset(s.values, 0, static_cast<size_t>(rows * padded(c.v_head_dim)) * sizeof(float));
  const int64_t blocks = span_blocks(c.block_size);
  const int64_t first_block = max_of(span * blocks, s.seen[0].first / c.block_size);
  const int64_t last_block = min_of((span + 1) * blocks, ceil_div(s.seen[rows - 1].last, c.block_size));
  const int32_t* table = a.block_tables + item.seq * a.block_table_stride;
  const int64_t head_bytes = kv_block_head_bytes(c);
  auto block_data = [&](int64_t b) {
    return static_cast<const uint8_t*>(c.data) + (table[b] * c.kv_heads + item.kv_head) * head_bytes;
  };
  const int64_t item_end = min_of(item.span_end * blocks, ceil_div(s.seen[rows - 1].last, c.block_size));
  for (int64_t b = first_block; b < last_block; ++b) {
    if (table[b] < 0) continue;
    const bool prefetches = rows <= kPrefetchedRows && b + 1 < item_end && table[b + 1] >= 0;
    attend_block<T>(a, item, s, rows, b * c.block_size, block_data(b), prefetches ? block_data(b + 1) - block_data(b) : 0);
  }
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
    for (int64_t r = 0; r < rows; ++r) {
      if (item.partial >= 0) {
        float* state = a.partials + item.partial + ((span - item.span_begin) * rows + r) * (c.v_head_dim + 2);
        state[0] = s.max[r];
        state[1] = s.sum[r];
        for (int64_t d = 0; d < c.v_head_dim; ++d) state[2 + d] = s.values[r * stride + d];
      } else {
        merge_state(s.max[r], s.sum[r], s.values + r * stride, c.v_head_dim, s.all_max[r], s.all_sum[r], s.all + r * stride);
      }
    }
  }
  if (item.partial >= 0) return;
  for (int64_t r = 0; r < rows; ++r)
    write_output(a, token0 + r / group, item.kv_head * group + r % group, s.all_max[r], s.all_sum[r], s.all + r * stride);
}

inline void attention(const AttentionArgs& a, int64_t begin, int64_t end, void* scratch) {
  for (int64_t i = begin; i < end; ++i) {
    if (a.cache.dtype == DType::f32) attention_item<DType::f32>(a, a.items[i], scratch);
    else if (a.cache.dtype == DType::bf16) attention_item<DType::bf16>(a, a.items[i], scratch);
    else if (a.cache.dtype == DType::i8) attention_item<DType::i8>(a, a.items[i], scratch);
    else attention_item<DType::f16>(a, a.items[i], scratch);
  }
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
