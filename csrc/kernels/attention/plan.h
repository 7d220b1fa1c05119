// How attention is cut into work items.
#pragma once

#include "attention/types.h"
#include "kernel_types.h"
#include "vec/scalar.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kSpanKeys = 1024;
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

inline int64_t attention_item_capacity(int64_t max_tokens, int64_t max_seqs, int64_t kv_heads, int64_t, int64_t,
                                       int64_t num_threads) {
  return (max_tokens + max_seqs) * kv_heads + 16 * num_threads;
}
inline int64_t attention_partial_floats(int64_t max_len, int64_t heads, int64_t kv_heads, int64_t v_head_dim,
                                        int64_t block_size, int64_t num_threads) {
  const int64_t spans = ceil_div(max_len, span_blocks(block_size) * block_size);
  const int64_t rows = min_of(kSplitQueryRows, rows_per_item(heads / kv_heads)) * (heads / kv_heads);
  return min_of(kMaxPartialFloats, 4 * num_threads * spans * rows * (v_head_dim + 2));
}

// Calls f(item) for every tile of every sequence, with its whole range of spans; those of a KV head together, for its
// keys and values are then in a cache.
template <class F>
QUIRE_INLINE void for_each_tile(const AttentionArgs& a, F&& f) {
  const int64_t tile_rows = rows_per_item(a.heads / a.cache.kv_heads);
  const int64_t span_keys = span_blocks(a.cache.block_size) * a.cache.block_size;
  for (int64_t s = 0; s < a.num_seqs; ++s) {
    const int64_t rows = a.query_start_loc[s + 1] - a.query_start_loc[s];
    for (int64_t h = 0; h < a.cache.kv_heads; ++h) {
      for (int64_t tile = ceil_div(rows, tile_rows) - 1; tile >= 0;
           --tile) {  // the longest first: threads end together
        const int64_t row = tile * tile_rows;
        AttentionItem item;
        item.seq = static_cast<int32_t>(s);
        item.row = static_cast<int32_t>(row);
        item.num_rows = static_cast<int32_t>(min_of(tile_rows, rows - row));
        item.kv_head = static_cast<int32_t>(h);
        item.span_begin = static_cast<int32_t>(visible_keys(a, s, row).first / span_keys);
        item.span_end = static_cast<int32_t>(ceil_div(visible_keys(a, s, row + item.num_rows - 1).last, span_keys));
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
    const bool split = tiles < wanted && num_threads > 1 && spans > 1 && item.num_rows <= kSplitQueryRows &&
                       a.partials && used + spans * state_floats <= a.partial_capacity;
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

// Calls f(key0, data, ahead) for every resident block of a span that some row of an item sees: its first key's
// position, the KV head's data, and the bytes from there to the next block where few rows should prefetch it (else 0).
template <class F>
QUIRE_INLINE void for_each_block(const AttentionArgs& a, const AttentionItem& item, int64_t span, int64_t rows,
                                 const KeyRange* seen, F&& f) {
  const KvCache& c = a.cache;
  const int64_t blocks = span_blocks(c.block_size), seen_end = ceil_div(seen[rows - 1].last, c.block_size);
  const int64_t first_block = max_of(span * blocks, seen[0].first / c.block_size);
  const int64_t last_block = min_of((span + 1) * blocks, seen_end), item_end = min_of(item.span_end * blocks, seen_end);
  const int32_t* table = a.block_tables + item.seq * a.block_table_stride;
  const int64_t head_bytes = kv_block_head_bytes(c);
  auto data = [&](int64_t b) {
    return static_cast<const uint8_t*>(c.data) + (table[b] * c.kv_heads + item.kv_head) * head_bytes;
  };
  for (int64_t b = first_block; b < last_block; ++b) {
    if (table[b] < 0) continue;
    const bool prefetches = rows <= kPrefetchedRows && b + 1 < item_end && table[b + 1] >= 0;
    f(b * c.block_size, data(b), prefetches ? data(b + 1) - data(b) : 0);
  }
}

}  // namespace quire::QUIRE_ISA
