// The paged KV cache of a plan: one kernel cache per (group, layer slot); groups of one pool share memory by slot.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../threads/thread_pool.h"
#include "buffer.h"
#include "kernel_table.h"

namespace quire {

struct KvGroup {
  int64_t pool = 0;
  int64_t layers = 0;
  KvCache shape;  // data is null, num_blocks 0 until allocated
};

// Blocks in the host page format: k [n, layers, block_size, kv_heads, head_dim] and v likewise in the cache's dtype;
// of an int8 cache also the scales, float32 [n, layers, block_size, kv_heads], else nullptr. `write_blocks` only reads.
struct HostPages {
  void* k = nullptr;
  void* v = nullptr;
  void* k_scale = nullptr;
  void* v_scale = nullptr;
};

// Blocks of one pool have pool-wide ids, so two groups of a pool never hold the same block at once.
class KvStore {
 public:
  explicit KvStore(DType dtype, int64_t block_size) : dtype_(dtype), block_size_(block_size) {}

  int64_t add_group(int64_t pool, int64_t layers, int64_t kv_heads, int64_t head_dim, int64_t v_head_dim);
  void allocate(const std::vector<int64_t>& blocks_per_pool);  // once; throws std::bad_alloc
  void poison();                                               // every byte NaN

  int64_t num_groups() const { return static_cast<int64_t>(groups_.size()); }
  int64_t block_size() const { return block_size_; }
  const KvGroup& group(int64_t index) const { return groups_.at(static_cast<size_t>(index)); }
  int64_t num_blocks(int64_t group) const;  // 0 before `allocate`
  KvCache cache(int64_t group, int64_t slot) const;
  int64_t bytes() const;

  // The memory of each pool, by layer slot; equal sizes within a pool. For whoever gives it its pages.
  const std::vector<std::vector<Buffer>>& pools() const { return pools_; }

  // Blocks `copies` = [n, 2] (source, destination) in every layer of the group. Every destination gets what its
  // source held before the call; destinations are distinct.
  void copy_blocks(int64_t group, const int32_t* copies, int64_t count, ThreadPool& pool);

  void read_blocks(int64_t group, const int32_t* ids, int64_t count, const HostPages& pages, ThreadPool& pool) const;
  void write_blocks(int64_t group, const int32_t* ids, int64_t count, const HostPages& pages, ThreadPool& pool);

 private:
  void check_blocks(int64_t group, const int32_t* ids, int64_t count) const;

  const DType dtype_;
  const int64_t block_size_;
  std::vector<KvGroup> groups_;
  std::vector<std::vector<Buffer>> pools_;  // [pool][slot]
  std::vector<int64_t> pool_blocks_;
};

}  // namespace quire
