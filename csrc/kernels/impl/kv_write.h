// Stores keys and values into the paged cache. Included inside namespace quire::QUIRE_ISA.

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

// Key: one element in each of head_dim lines of block_size. Value: one contiguous line.
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
  const int64_t line = c.head_dim * c.block_size + offset * c.v_head_dim;
  d = 0;
  for (; d + 8 <= c.v_head_dim; d += 8) store_vector<T>(base, line + d, load(v + d));
  for (; d < c.v_head_dim; ++d) store_element<T>(base, line + d, v[d]);
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
QUIRE_INLINE void write_key_value<DType::i8>(const KvCache& c, int64_t slot, int64_t kv_head, const float* k, const float* v) {
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

template <DType T>
void cache_write_rows(const CacheWriteArgs& a, int64_t begin, int64_t end) {
  const KvCache& c = a.cache;
  alignas(32) float rotated[kRotatedKeyFloats];
  for (int64_t t = begin; t < end; ++t) {
    if (a.rotary) rotary(*a.rotary, t, t + 1, nullptr);
    const int64_t slot = a.slots[t];
    if (slot < 0) continue;
    for (int64_t h = 0; h < c.kv_heads; ++h) {
      const float* k = a.k + t * a.k_stride + h * c.head_dim;
      if (a.rotary) {
        const RotaryArgs& r = *a.rotary;
        const int64_t row = static_cast<int64_t>(r.positions[t]) * (r.dims / 2);
        rotate_head(k, rotated, r.cos + row, r.sin + row, r.dims, c.head_dim, r.style);
        k = rotated;
      }
      write_key_value<T>(c, slot, h, k, a.v + t * a.v_stride + h * c.v_head_dim);
    }
  }
}

inline void cache_write(const CacheWriteArgs& a, int64_t begin, int64_t end, void*) {
  if (a.rotary && a.cache.head_dim > kRotatedKeyFloats) __builtin_trap();
  if (a.cache.dtype == DType::f32) cache_write_rows<DType::f32>(a, begin, end);
  else if (a.cache.dtype == DType::bf16) cache_write_rows<DType::bf16>(a, begin, end);
  else if (a.cache.dtype == DType::i8) cache_write_rows<DType::i8>(a, begin, end);
  else cache_write_rows<DType::f16>(a, begin, end);
}
