// Stores keys and values into the paged cache.
#pragma once

#include "rows/rotary.h"

namespace quire::QUIRE_ISA {

template <DType T>
struct CacheElement {
  using type = uint16_t;
};
template <>
struct CacheElement<DType::f32> {
  using type = float;
};

template <DType T>
QUIRE_INLINE void store_element(void* base, int64_t i, float v) {
  if constexpr (T == DType::f32) static_cast<float*>(base)[i] = v;
  else if constexpr (T == DType::bf16) static_cast<uint16_t*>(base)[i] = f32_to_bf16(v);
  else static_cast<uint16_t*>(base)[i] = f32_to_f16(v);
}
template <DType T>
QUIRE_INLINE void store_vector(void* base, int64_t i, F32x8 v) {
  if constexpr (T == DType::f32) store(static_cast<float*>(base) + i, v);
  else if constexpr (T == DType::bf16) store_bf16(static_cast<uint16_t*>(base) + i, v);
  else store_f16(static_cast<uint16_t*>(base) + i, v);
}

// One contiguous line.
template <DType T>
QUIRE_INLINE void write_value(const KvCache& c, void* base, int64_t offset, const float* v) {
  const int64_t line = c.head_dim * c.block_size + offset * c.v_head_dim;
  int64_t d = 0;
  for (; d + 8 <= c.v_head_dim; d += 8) store_vector<T>(base, line + d, load(v + d));
  for (; d < c.v_head_dim; ++d) store_element<T>(base, line + d, v[d]);
}

// Key: one element in each of head_dim lines of block_size.
template <DType T>
QUIRE_INLINE void write_key_value(const KvCache& c, int64_t slot, int64_t kv_head, const float* k, const float* v) {
  const int64_t block = slot / c.block_size, offset = slot % c.block_size;
  uint8_t* base = static_cast<uint8_t*>(c.data) + (block * c.kv_heads + kv_head) * kv_block_head_bytes(c);
  using Element = typename CacheElement<T>::type;
  Element* column = reinterpret_cast<Element*>(base) + offset;
  alignas(32) Element lanes[8];
  int64_t d = 0;
  for (; d + 8 <= c.head_dim; d += 8) {
    store_vector<T>(lanes, 0, load(k + d));
    for (int64_t i = 0; i < 8; ++i) column[(d + i) * c.block_size] = lanes[i];
  }
  for (; d < c.head_dim; ++d) store_element<T>(column, d * c.block_size, k[d]);
  write_value<T>(c, base, offset, v);
}

// The scale of a vector: max|x| / 127; NaN when an element is not finite.
QUIRE_INLINE float int8_scale(const float* x, int64_t dim) {
  I32x8 top = {};  // bits of magnitudes are ordered as integers, infinity and NaN above all others
  for_lanes(dim, [&](int64_t d, int64_t count) {
    const I32x8 magnitude = as_i32(absolute(load_some(x + d, count)));
    top = larger(magnitude, top);
  });
  int32_t most = 0;
  for (int i = 0; i < 8; ++i) most = top[i] > most ? top[i] : most;
  return most < 0x7f800000 ? bits_to_f32(static_cast<uint32_t>(most)) / 127.0f : __builtin_nanf("");
}

// x / scale, rounded to nearest even; 0 where the scale is 0 or NaN. A denormal scale may be too small: hence the bounds.
QUIRE_INLINE void quantize_vector(const float* x, int64_t dim, float scale, int8_t* q, int64_t q_stride) {
  const F32x8 most = broadcast(127.0f), magic = broadcast(12582912.0f), divisor = broadcast(scale);
  for_lanes(dim, [&](int64_t d, int64_t count) {
    const F32x8 v = scale > 0.0f ? minimum(maximum(load_some(x + d, count) / divisor, -most), most) : zero();
    const I32x8 whole = to_i32((v + magic) - magic);
    for (int64_t i = 0; i < count; ++i) q[(d + i) * q_stride] = static_cast<int8_t>(whole[i]);
  });
}

template <>
QUIRE_INLINE void write_key_value<DType::i8>(const KvCache& c, int64_t slot, int64_t kv_head, const float* k,
                                             const float* v) {
  const int64_t block = slot / c.block_size, offset = slot % c.block_size;
  uint8_t* base = static_cast<uint8_t*>(c.data) + (block * c.kv_heads + kv_head) * kv_block_head_bytes(c);
  int8_t* keys = reinterpret_cast<int8_t*>(base);
  float* scales = reinterpret_cast<float*>(base + kv_block_head_elements(c)) + offset;
  scales[0] = int8_scale(k, c.head_dim);
  scales[c.block_size] = int8_scale(v, c.v_head_dim);
  quantize_vector(k, c.head_dim, scales[0], keys + offset, c.block_size);
  quantize_vector(v, c.v_head_dim, scales[c.block_size], keys + c.head_dim * c.block_size + offset * c.v_head_dim, 1);
}

constexpr int64_t kRotatedKeyFloats = 1024;  // head_dim limit of the fused form

// The key of a token and head; `room` holds it where it has to be rotated.
QUIRE_INLINE const float* key_of(const CacheWriteArgs& a, int64_t t, int64_t head, float* room) {
  const float* k = a.k + t * a.k_stride + head * a.cache.head_dim;
  if (!a.rotary) return k;
  const RotaryArgs& r = *a.rotary;
  const int64_t row = static_cast<int64_t>(r.positions[t]) * (r.dims / 2);
  rotate_head(k, room, r.cos + row, r.sin + row, r.dims, a.cache.head_dim, r.style);
  return room;
}

constexpr int64_t kRun = 8;  // tokens whose keys are transposed together

// Whether tokens t .. t + 7 go into one block, one slot after the other.
QUIRE_INLINE bool is_run(const CacheWriteArgs& a, int64_t t) {
  const int64_t slot = a.slots[t];
  if (slot < 0 || slot % a.cache.block_size + kRun > a.cache.block_size) return false;
  for (int64_t i = 1; i < kRun; ++i)
    if (a.slots[t + i] != slot + i) return false;
  return true;
}

// As write_key_value for each token of a run, but eight neighbours of a line are stored at once.
template <DType T>
void write_run(const CacheWriteArgs& a, int64_t t) {
  const KvCache& c = a.cache;
  const int64_t block = a.slots[t] / c.block_size, offset = a.slots[t] % c.block_size;
  alignas(32) float rotated[kRun][kRotatedKeyFloats + 16];  // rows apart in the first-level cache
  const float* k[kRun];
  for (int64_t h = 0; h < c.kv_heads; ++h) {
    uint8_t* base = static_cast<uint8_t*>(c.data) + (block * c.kv_heads + h) * kv_block_head_bytes(c);
    for (int64_t i = 0; i < kRun; ++i) k[i] = key_of(a, t + i, h, rotated[i]);
    int64_t d = 0;
    for (; d + 8 <= c.head_dim; d += 8) {
      I32x8 rows[kRun];
      unroll<kRun>([&](auto i) { rows[i] = as_i32(load(k[i] + d)); });
      transpose(rows);
      unroll<kRun>([&](auto i) { store_vector<T>(base, (d + i) * c.block_size + offset, as_f32(rows[i])); });
    }
    for (; d < c.head_dim; ++d)
      for (int64_t i = 0; i < kRun; ++i) store_element<T>(base, d * c.block_size + offset + i, k[i][d]);
    for (int64_t i = 0; i < kRun; ++i)
      write_value<T>(c, base, offset + i, a.v + (t + i) * a.v_stride + h * c.v_head_dim);
  }
}

template <DType T>
void cache_write_rows(const CacheWriteArgs& a, int64_t begin, int64_t end) {
  const KvCache& c = a.cache;
  alignas(32) float rotated[kRotatedKeyFloats];
  if (a.rotary) rotary(*a.rotary, begin, end, nullptr);
  for (int64_t t = begin; t < end; ++t) {
    if constexpr (T != DType::i8) {
      if (t + kRun <= end && is_run(a, t)) {
        write_run<T>(a, t);
        t += kRun - 1;
        continue;
      }
    }
    const int64_t slot = a.slots[t];
    if (slot < 0) continue;
    for (int64_t h = 0; h < c.kv_heads; ++h)
      write_key_value<T>(c, slot, h, key_of(a, t, h, rotated), a.v + t * a.v_stride + h * c.v_head_dim);
  }
}

inline void cache_write(const CacheWriteArgs& a, int64_t begin, int64_t end, void*) {
  if (a.rotary && a.cache.head_dim > kRotatedKeyFloats) __builtin_trap();
  if (a.cache.dtype == DType::f32) cache_write_rows<DType::f32>(a, begin, end);
  else if (a.cache.dtype == DType::bf16) cache_write_rows<DType::bf16>(a, begin, end);
  else if (a.cache.dtype == DType::i8) cache_write_rows<DType::i8>(a, begin, end);
  else cache_write_rows<DType::f16>(a, begin, end);
}

}  // namespace quire::QUIRE_ISA
