#include "kv_store.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace quire {

namespace {

// One block of one layer between the kernels' layout (K transposed inside the block, head-major) and host rows.
template <class Element, bool kToHost>
void move_block(const KvCache& cache, int64_t block, std::conditional_t<kToHost, Element*, const Element*> k,
                std::conditional_t<kToHost, Element*, const Element*> v) {
  const int64_t size = cache.block_size, dim = cache.head_dim, v_dim = cache.v_head_dim;
  Element* base = static_cast<Element*>(cache.data) + block * cache.kv_heads * kv_block_head_elements(cache);
  for (int64_t head = 0; head < cache.kv_heads; ++head) {
    Element* cache_k = base + head * kv_block_head_elements(cache);
    Element* cache_v = cache_k + size * dim;
    for (int64_t token = 0; token < size; ++token) {
      auto* host_k = k + (token * cache.kv_heads + head) * dim;
      auto* host_v = v + (token * cache.kv_heads + head) * v_dim;
      for (int64_t i = 0; i < dim; ++i) {
        if constexpr (kToHost) host_k[i] = cache_k[i * size + token];
        else cache_k[i * size + token] = host_k[i];
      }
      const size_t bytes = static_cast<size_t>(v_dim) * sizeof(Element);
      if constexpr (kToHost) std::memcpy(host_v, cache_v + token * v_dim, bytes);
      else std::memcpy(cache_v + token * v_dim, host_v, bytes);
    }
  }
}

template <class Element, bool kToHost, class Pointer>
void move_blocks(const KvStore& store, int64_t group, const int32_t* ids, int64_t count, Pointer k, Pointer v,
                 ThreadPool& pool) {
  using Row = std::conditional_t<kToHost, Element*, const Element*>;
  const KvGroup& info = store.group(group);
  const int64_t k_page = info.shape.block_size * info.shape.kv_heads * info.shape.head_dim;
  const int64_t v_page = info.shape.block_size * info.shape.kv_heads * info.shape.v_head_dim;
  pool.parallel_for(count * info.layers, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item)
      move_block<Element, kToHost>(store.cache(group, item % info.layers), ids[item / info.layers],
                                   static_cast<Row>(k) + item * k_page, static_cast<Row>(v) + item * v_page);
  });
}

}  // namespace

int64_t KvStore::add_group(int64_t pool, int64_t layers, int64_t kv_heads, int64_t head_dim, int64_t v_head_dim) {
  KvGroup group;
  group.pool = pool;
  group.layers = layers;
  group.shape.dtype = dtype_;
  group.shape.kv_heads = kv_heads;
  group.shape.head_dim = head_dim;
  group.shape.v_head_dim = v_head_dim;
  group.shape.block_size = block_size_;
  groups_.push_back(group);
  return num_groups() - 1;
}

void KvStore::allocate(const std::vector<int64_t>& blocks_per_pool) {
  pool_blocks_ = blocks_per_pool;
  pools_.clear();
  for (size_t pool = 0; pool < blocks_per_pool.size(); ++pool) {
    int64_t slots = 0, block_bytes = 0;
    for (const KvGroup& group : groups_) {
      if (group.pool != static_cast<int64_t>(pool)) continue;
      slots = std::max(slots, group.layers);
      if (block_bytes && block_bytes != kv_block_bytes(group.shape))
        throw std::invalid_argument("KV groups of one pool must have equal bytes per token and layer");
      block_bytes = kv_block_bytes(group.shape);
    }
    std::vector<Buffer> buffers;
    for (int64_t slot = 0; slot < slots; ++slot) buffers.emplace_back(blocks_per_pool[pool] * block_bytes);
    pools_.push_back(std::move(buffers));
  }
}

void KvStore::poison() {
  for (std::vector<Buffer>& pool : pools_)
    for (Buffer& buffer : pool) buffer.poison();
}

int64_t KvStore::num_blocks(int64_t group) const {
  return pool_blocks_.empty() ? 0 : pool_blocks_.at(static_cast<size_t>(groups_[static_cast<size_t>(group)].pool));
}

KvCache KvStore::cache(int64_t group, int64_t slot) const {
  const KvGroup& info = groups_[static_cast<size_t>(group)];
  KvCache cache = info.shape;
  cache.num_blocks = num_blocks(group);
  cache.data = pools_[static_cast<size_t>(info.pool)][static_cast<size_t>(slot)].data();
  return cache;
}

int64_t KvStore::bytes() const {
  int64_t bytes = 0;
  for (const std::vector<Buffer>& pool : pools_)
    for (const Buffer& buffer : pool) bytes += buffer.bytes();
  return bytes;
}

void KvStore::check_blocks(int64_t group, const int32_t* ids, int64_t count) const {
  for (int64_t i = 0; i < count; ++i)
    if (ids[i] < 0 || ids[i] >= num_blocks(group))
      throw std::invalid_argument("block id " + std::to_string(ids[i]) + " is outside the cache of " +
                                  std::to_string(num_blocks(group)) + " blocks");
}

void KvStore::copy_blocks(int64_t group, const int32_t* copies, int64_t count, ThreadPool& pool) {
  check_blocks(group, copies, 2 * count);
  if (count == 0) return;
  bool chained = false;  // a block that is written is read by a later copy
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = i + 1; j < count; ++j) chained = chained || copies[2 * i + 1] == copies[2 * j];
  const int64_t bytes = kv_block_bytes(groups_[static_cast<size_t>(group)].shape);
  const Buffer staged(chained ? count * bytes : 0);
  for (int64_t slot = 0; slot < groups_[static_cast<size_t>(group)].layers; ++slot) {
    auto* data = static_cast<std::byte*>(cache(group, slot).data);
    if (chained) {
      pool.parallel_for(count, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i)
          std::memcpy(staged.data() + i * bytes, data + copies[2 * i] * bytes, static_cast<size_t>(bytes));
      });
    }
    pool.parallel_for(count, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i)
        std::memmove(data + copies[2 * i + 1] * bytes, chained ? staged.data() + i * bytes : data + copies[2 * i] * bytes,
                     static_cast<size_t>(bytes));
    });
  }
}

void KvStore::read_blocks(int64_t group, const int32_t* ids, int64_t count, void* k, void* v, ThreadPool& pool) const {
  check_blocks(group, ids, count);
  if (dtype_ == DType::f32) move_blocks<uint32_t, true>(*this, group, ids, count, k, v, pool);
  else move_blocks<uint16_t, true>(*this, group, ids, count, k, v, pool);
}

void KvStore::write_blocks(int64_t group, const int32_t* ids, int64_t count, const void* k, const void* v,
                           ThreadPool& pool) {
  check_blocks(group, ids, count);
  if (dtype_ == DType::f32) move_blocks<uint32_t, false>(*this, group, ids, count, k, v, pool);
  else move_blocks<uint16_t, false>(*this, group, ids, count, k, v, pool);
}

}  // namespace quire
