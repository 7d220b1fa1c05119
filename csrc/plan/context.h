// What the ops of a plan see while a step runs.
#pragma once

#include <cstdint>
#include <vector>

#include "../threads/thread_pool.h"
#include "kernel_table.h"
#include "kv_store.h"
#include "operand.h"
#include "weight_store.h"

namespace quire {

// A KV group's side of the running step.
struct GroupStep {
  const int32_t* block_tables = nullptr;
  int64_t block_table_stride = 0;
  std::vector<int32_t> slots;  // [T]
};

// Layers that attend alike share one work list a step.
struct AttentionShape {
  int64_t group = 0;
  int64_t heads = 0;
  int64_t window = 0;
  bool causal = true;
  bool operator==(const AttentionShape&) const = default;
};

struct AttentionWork {
  AttentionShape shape;
  std::vector<AttentionItem> items;
  bool planned = false;  // for this step
  int64_t num_items = 0;
  int64_t num_merges = 0;
};

struct StepContext {
  const KernelTable& kernels;
  ThreadPool& pool;
  const WeightStore& weights;
  const KvStore& kv;
  std::byte* arena;
  std::byte* workspace;         // shared by all threads, for the op that runs
  std::byte* scratch;           // per thread, scratch_bytes apart
  int64_t scratch_bytes;
  float* partials;              // attention's split contexts
  int64_t partial_floats;
  std::vector<AttentionWork>& attention;

  int64_t num_tokens = 0;
  int64_t num_seqs = 0;
  int64_t num_logits = 0;       // of this slice of the head
  const int32_t* token_ids = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* logits_indices = nullptr;  // of this slice
  const int32_t* query_start_loc = nullptr;
  const int32_t* seq_lens = nullptr;
  std::vector<GroupStep> groups = {};

  int64_t rows(RowSymbol symbol) const { return symbol == RowSymbol::T ? num_tokens : num_logits; }
  int64_t rows(const Operand& operand) const { return rows(operand.rows) * operand.rows_per_symbol; }

  template <class T = float>
  T* pointer(const Operand& operand) const {
    static_assert(sizeof(T) == 4);
    switch (operand.space) {
      case Space::arena: return reinterpret_cast<T*>(arena + operand.offset_bytes);
      case Space::token_ids: return reinterpret_cast<T*>(const_cast<int32_t*>(token_ids));
      case Space::positions: return reinterpret_cast<T*>(const_cast<int32_t*>(positions));
      case Space::logits_indices: return reinterpret_cast<T*>(const_cast<int32_t*>(logits_indices));
    }
    return nullptr;
  }

  void* thread_scratch(int thread) const { return scratch + thread * scratch_bytes; }

  // Calls body(begin, end, thread) over [0, items). `elements` of work an item does decide whether waking the team pays.
  template <class Body>
  void for_items(int64_t items, int64_t elements, Body&& body) const {
    if (items <= 1 || items * elements < kInlineElements) return body(int64_t{0}, items, 0);
    pool.parallel_for(items, body, 1 + kChunkElements / (elements + 1));
  }

  // Runs a kernel over its items.
  template <class Args>
  void run(RangeKernel<Args> kernel, const Args& args, int64_t items, int64_t elements) const {
    for_items(items, elements,
              [&](int64_t begin, int64_t end, int thread) { kernel(args, begin, end, thread_scratch(thread)); });
  }

  static constexpr int64_t kInlineElements = 8192;  // about a microsecond of row-wise work
  static constexpr int64_t kChunkElements = 2048;
};

}  // namespace quire
