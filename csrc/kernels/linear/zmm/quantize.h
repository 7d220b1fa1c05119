// Activations of the 512-bit integer linears.
//
// Each row is rounded to signed bytes in blocks of 32 inputs, a scale a block: x = scale * q, |q| <= 127.
// The workspace holds
//   values [M][stride]  int8, zero-padded to whole blocks
//   scales [blocks][row_stride]  f32
//   starts [dots][row_stride]    where a dot product starts, so that weights can be unsigned: -zero * (sum of the dot's q) as i32
//                       (zero = 128 for int8, 8 for int4); with zero points of their own the sum itself, as f32
// A dot covers 32 inputs, or 16 when the weights' groups are that small.
#pragma once

#include "linear/layout.h"
#include "vec/avx512.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kXBlock = 32;

struct ZmmRows {
  int8_t* values;
  float* scales;
  int32_t* starts;
  int64_t stride;  // bytes of a row of values; like row_stride an odd number of cache lines, or rows (blocks)
  int64_t row_stride;  // would compete for the same few sets of a cache
  int64_t blocks;
  int64_t dot;  // inputs of a dot product
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

// Four vectors to one: element i of a 128-bit lane combines that lane of v[i]. Integer operations only, so that the order
// does not matter.
template <class Combine>
QUIRE_INLINE __m512i combine_quads(const __m512i* v, Combine&& combine) {
  const __m512i ab = combine(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
  const __m512i cd = combine(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
  return combine(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

// Sixteen vectors to one: lane i of the result is the combination of all lanes of v[i].
template <class Combine>
QUIRE_INLINE __m512i combine_lanes(const __m512i* v, Combine&& combine) {
  __m512i quads[4];
  unroll<4>([&](auto q) { quads[q] = combine_quads(v + q * 4, combine); });
  const auto halves = [&](__m512i x, __m512i y) {
    return combine(_mm512_shuffle_i32x4(x, y, 0x88), _mm512_shuffle_i32x4(x, y, 0xdd));
  };
  return halves(halves(quads[0], quads[1]), halves(quads[2], quads[3]));
}

constexpr int64_t kQuantizeBlocks = 16, kQuantizeInputs = kQuantizeBlocks * kXBlock;  // what one pass takes of a row

// Sums of 16 neighbouring bytes in lane 0 mod 4 .. 3 mod 4, four inputs each.
QUIRE_INLINE __m512i sum_quads(__m512i bytes) {
#ifdef __AVX512VNNI__
  return _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), bytes);
#else
  return _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_set1_epi8(1), bytes), _mm512_set1_epi16(1));
#endif
}

// Rounds kQuantizeInputs inputs of a row from block b on; kWhole: all of them exist.
template <bool kWhole>
QUIRE_INLINE void quantize_blocks(const float* x, int64_t left, int64_t row, int64_t b, int32_t zero, bool has_zeros,
                                  const ZmmRows& q) {
  const auto load = [&](int64_t i) {
    return kWhole ? _mm512_loadu_ps(x + i * 16) : (__m512)load16_part(x + i * 16, lanes16(max_of(left - i * 16, 0)));
  };
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i largest[kQuantizeBlocks];  // as integers, so that a NaN is larger than all else
  for (int i = 0; i < kQuantizeBlocks; ++i)
    largest[i] = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(load(i * 2)), magnitude),
                                  _mm512_and_si512(_mm512_castps_si512(load(i * 2 + 1)), magnitude));
  const __m512 peak =
      _mm512_castsi512_ps(combine_lanes(largest, [](__m512i a, __m512i c) { return _mm512_max_epi32(a, c); }));
  const __mmask16 counts = _mm512_cmp_ps_mask(peak, _mm512_set1_ps(1e-30f), _CMP_NLE_UQ);  // NaN does
  const __m512 scale = _mm512_maskz_div_ps(counts, peak, _mm512_set1_ps(127.0f));
  const __mmask16 finite = _mm512_mask_cmp_ps_mask(counts, scale, _mm512_set1_ps(1e37f), _CMP_LT_OQ);
  const __m512 inverse = _mm512_maskz_div_ps(finite, _mm512_set1_ps(1.0f), scale);
  alignas(64) float scales[kQuantizeBlocks], inverses[kQuantizeBlocks];
  _mm512_store_ps(scales, scale);
  _mm512_store_ps(inverses, inverse);

  alignas(64) int8_t values[kQuantizeInputs];
  for (int i = 0; i < kQuantizeBlocks * 2; ++i) {
    // An infinity times 0 is a NaN, which converts to a value out of range, which saturates: the scale shows it.
    const __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(load(i), _mm512_set1_ps(inverses[i / 2])));
    _mm_store_si128(reinterpret_cast<__m128i*>(values + i * 16), _mm512_cvtsepi32_epi8(v));
  }
  const int64_t blocks = min_of(kQuantizeBlocks, q.blocks - b);
  int8_t* out = q.values + row * q.stride + b * kXBlock;
  // sums[j * 4 + l]: of the 16 inputs in 128-bit lane l of vector j
  alignas(64) int32_t sums[kQuantizeBlocks * 2];
  unroll<2>([&](auto half) {
    __m512i quads[4];
    unroll<4>([&](auto j) { quads[j] = sum_quads(_mm512_load_si512(values + (half * 4 + j) * 64)); });
    const __m512i all = combine_quads(quads, [](__m512i a, __m512i c) { return _mm512_add_epi32(a, c); });
    const __m512i by_vector = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_store_si512(sums + half * 16, _mm512_permutexvar_epi32(by_vector, all));
  });
  for (int64_t i = 0; i < blocks; ++i) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i * kXBlock),
                        _mm256_load_si256(reinterpret_cast<const __m256i*>(values + i * kXBlock)));
    q.scales[(b + i) * q.row_stride + row] = scales[i];
    if (q.dot == 16) {
      q.starts[(b + i) * 2 * q.row_stride + row] = zero * sums[i * 2];
      q.starts[((b + i) * 2 + 1) * q.row_stride + row] = zero * sums[i * 2 + 1];
    } else {
      const int32_t sum = sums[i * 2] + sums[i * 2 + 1];
      q.starts[(b + i) * q.row_stride + row] =
          has_zeros ? static_cast<int32_t>(f32_to_bits(static_cast<float>(sum))) : zero * sum;
    }
  }
}

// Items: rows.
template <WeightFormat F>
void zmm_quantize_rows(const LinearArgs& a, int64_t begin, int64_t end, void*) {
  const PackedLinear& w = *a.weight;
  const ZmmRows q = zmm_rows(w, a.m, a.workspace);
  constexpr int32_t zero = F == WeightFormat::int8 ? -128 : -8;
  for (int64_t row = begin; row < end; ++row) {
    const float* x = a.x + row * a.x_stride;
    for (int64_t b = 0; b < q.blocks; b += kQuantizeBlocks) {
      const int64_t k = b * kXBlock, left = w.k - k;
      if (left >= kQuantizeInputs) quantize_blocks<true>(x + k, left, row, b, zero, w.has_zeros, q);
      else quantize_blocks<false>(x + k, left, row, b, zero, w.has_zeros, q);
    }
  }
}

inline int64_t each_row(const PackedLinear&, int64_t m) { return m; }

}  // namespace quire::QUIRE_ISA
