#include "kv_store.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace quire {

namespace {

// One block of one layer between the kernels' layout (K transposed inside the block, head-major) and host rows.
template <class Element, bool kToHost>
void move_block(const KvCache& cache, int64_t block, const HostPages& pages, int64_t page) {
  const int64_t size = cache.block_size, dim = cache.head_dim, v_dim = cache.v_head_dim, heads = cache.kv_heads;
  auto* base = static_cast<std::byte*>(cache.data) + block * kv_block_bytes(cache);
  auto* k = static_cast<Element*>(pages.k) + page * size * heads * dim;
  auto* v = static_cast<Element*>(pages.v) + page * size * heads * v_dim;
  auto move = [](auto& in_cache, auto& on_host) {
    if constexpr (kToHost) on_host = in_cache;
    else in_cache = on_host;
  };
  for (int64_t head = 0; head < heads; ++head, base += kv_block_head_bytes(cache)) {
    auto* cache_k = reinterpret_cast<Element*>(base);
    Element* cache_v = cache_k + size * dim;
    auto* scales =
        reinterpret_cast<uint32_t*>(base + kv_block_head_elements(cache) * static_cast<int64_t>(sizeof(Element)));
    for (int64_t token = 0; token < size; ++token) {
      const int64_t row = token * heads + head;
      for (int64_t i = 0; i < dim; ++i) move(cache_k[i * size + token], k[row * dim + i]);
      for (int64_t i = 0; i < v_dim; ++i) move(cache_v[token * v_dim + i], v[row * v_dim + i]);
      if constexpr (sizeof(Element) == 1) {
        move(scales[token], static_cast<uint32_t*>(pages.k_scale)[page * size * heads + row]);
        move(scales[size + token], static_cast<uint32_t*>(pages.v_scale)[page * size * heads + row]);
      }
    }
  }
}

template <class Element, bool kToHost>
void move_blocks(const KvStore& store, int64_t group, const int32_t* ids, int64_t count, const HostPages& pages,
                 ThreadPool& pool) {
  const int64_t layers = store.group(group).layers;
  pool.parallel_for(count * layers, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item)
      move_block<Element, kToHost>(store.cache(group, item % layers), ids[item / layers], pages, item);
  });
}

template <bool kToHost>
void move_typed(const KvStore& store, DType dtype, int64_t group, const int32_t* ids, int64_t count,
                const HostPages& pages, ThreadPool& pool) {
  if ((dtype == DType::i8) != (pages.k_scale && pages.v_scale))
    throw std::invalid_argument("pages have scales exactly when the cache is int8");
  if (dtype == DType::f32) move_blocks<uint32_t, kToHost>(store, group, ids, count, pages, pool);
  else if (dtype == DType::i8) move_blocks<int8_t, kToHost>(store, group, ids, count, pages, pool);
  else move_blocks<uint16_t, kToHost>(store, group, ids, count, pages, pool);
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
        std::memmove(data + copies[2 * i + 1] * bytes,
                     chained ? staged.data() + i * bytes : data + copies[2 * i] * bytes, static_cast<size_t>(bytes));
    });
  }
}

void KvStore::read_blocks(int64_t group, const int32_t* ids, int64_t count, const HostPages& pages,
                          ThreadPool& pool) const {
  check_blocks(group, ids, count);
  move_typed<true>(*this, dtype_, group, ids, count, pages, pool);
}

void KvStore::write_blocks(int64_t group, const int32_t* ids, int64_t count, const HostPages& pages, ThreadPool& pool) {
  check_blocks(group, ids, count);
  move_typed<false>(*this, dtype_, group, ids, count, pages, pool);
}

}  // namespace quire
