// Activations of the 512-bit integer linears. Included inside namespace quire::QUIRE_ISA.
//
// Each row is rounded to signed bytes in blocks of 32 inputs, a scale a block: x = scale * q, |q| <= 127.
// The workspace holds
//   values [M][stride]  int8, zero-padded to whole blocks
//   scales [blocks][row_stride]  f32
//   starts [dots][row_stride]    where a dot product starts, so that weights can be unsigned: -zero * (sum of the dot's q) as i32
//                       (zero = 128 for int8, 8 for int4); with zero points of their own the sum itself, as f32
// A dot covers 32 inputs, or 16 when the weights' groups are that small.

constexpr int64_t kXBlock = 32;

struct ZmmRows {
  int8_t* values;
  float* scales;
  int32_t* starts;
  int64_t stride;      // bytes of a row of values; like row_stride an odd number of cache lines, or rows (blocks)
  int64_t row_stride;  // would compete for the same few sets of a cache
  int64_t blocks;
  int64_t dot;     // inputs of a dot product
};

QUIRE_INLINE int64_t dot_inputs(const PackedLinear& w) { return w.group_size == 16 ? 16 : kXBlock; }

inline ZmmRows zmm_rows(const PackedLinear& w, int64_t m, void* workspace) {
  ZmmRows q;
  q.blocks = ceil_div(padded_inputs(w), kXBlock);
  q.stride = round_up(q.blocks * kXBlock, 128) + 64;
  q.row_stride = round_up(m, 32) + 16;
  q.dot = dot_inputs(w);
  uint8_t* at = static_cast<uint8_t*>(workspace);
  q.values = reinterpret_cast<int8_t*>(at);
  at += m * q.stride;
  q.scales = reinterpret_cast<float*>(at);
  q.starts = reinterpret_cast<int32_t*>(at + q.blocks * q.row_stride * 4);
  return q;
}
inline int64_t zmm_rows_bytes(const PackedLinear& w, int64_t m) {
  const ZmmRows q = zmm_rows(w, m, nullptr);
  return m * q.stride + q.blocks * q.row_stride * (1 + kXBlock / q.dot) * 4;
}

// Of a row with infinities the sums are out of range, and of no effect: its scale is not finite.
QUIRE_INLINE int32_t wrapping_product(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) * static_cast<uint32_t>(b));
}

// Items: rows.
inline void zmm_quantize_rows(const LinearArgs& a, int64_t begin, int64_t end) {
  const PackedLinear& w = *a.weight;
  const ZmmRows q = zmm_rows(w, a.m, a.workspace);
  const int32_t zero = w.format == WeightFormat::int8 ? -128 : -8;
  const __m512 magnitude = _mm512_castsi512_ps(_mm512_set1_epi32(0x7fffffff));
  for (int64_t row = begin; row < end; ++row) {
    const float* x = a.x + row * a.x_stride;
    for (int64_t b = 0; b < q.blocks; ++b) {
      const int64_t left = max_of(w.k - b * kXBlock, 0);
      const __m512 low = load16_part(x + b * kXBlock, lanes16(left));
      const __m512 high = load16_part(x + b * kXBlock + 16, lanes16(max_of(left - 16, 0)));
      const __m512 largest = _mm512_max_ps(_mm512_and_ps(low, magnitude), _mm512_and_ps(high, magnitude));
      const __mmask16 nan = _mm512_cmp_ps_mask(low, low, _CMP_UNORD_Q) | _mm512_cmp_ps_mask(high, high, _CMP_UNORD_Q);
      const float peak = _mm512_reduce_max_ps(largest);
      const float scale = nan ? __builtin_nanf("") : peak > 1e-30f ? peak / 127.0f : 0.0f;
      const __m512 inverse = _mm512_set1_ps(scale > 0.0f && scale < 1e37f ? 1.0f / scale : 0.0f);
      // An infinity times 0 is a NaN, which converts to a value out of range, which saturates: the scale shows it.
      const __m512i q0 = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse)), q1 = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
      int8_t* out = q.values + row * q.stride + b * kXBlock;
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtsepi32_epi8(q0));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16), _mm512_cvtsepi32_epi8(q1));
      q.scales[b * q.row_stride + row] = scale;
      if (q.dot == 16) {
        q.starts[b * 2 * q.row_stride + row] = wrapping_product(zero, _mm512_reduce_add_epi32(q0));
        q.starts[(b * 2 + 1) * q.row_stride + row] = wrapping_product(zero, _mm512_reduce_add_epi32(q1));
      } else {
        const int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(q0, q1));
        q.starts[b * q.row_stride + row] = w.has_zeros ? static_cast<int32_t>(f32_to_bits(static_cast<float>(sum))) : wrapping_product(zero, sum);
      }
    }
  }
}
