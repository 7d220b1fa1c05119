// Activations of the 256-bit integer linears, packed by tile.
//
// int8: a scale per row, values in 16 bits; 32-bit lanes of two inputs. int4: a scale per row and 32 inputs, values in
// 8 bits; lanes of four inputs. The workspace holds, 64-byte aligned each,
//   values [tile][lanes][rows]
//   scales [tile][blocks][rows]  f32
//   starts [tile][blocks][rows]  int4 only: where a block's two 16-bit sums of a lane start, so that weights can be unsigned: -8
//                                times the sum of the inputs that they multiply; with zero points of their own the sum of all 32, as f32
#pragma once

#include "linear/pack_quantized.h"
#include "linear/ymm/tiled.h"

namespace quire::QUIRE_ISA {

struct YmmRows {
  int32_t* values;
  float* scales;
  int32_t* starts;
  int64_t lanes;  // of a row
  int64_t blocks;  // of a row
};

template <WeightFormat F>
YmmRows ymm_rows(const PackedLinear& w, int64_t m, void* workspace) {
  constexpr bool int8 = F == WeightFormat::int8;
  const int64_t inputs = padded_inputs(w);
  YmmRows q;
  q.lanes = int8 ? inputs / 2 : inputs / 4;
  q.blocks = int8 ? 1 : inputs / kInt4Block;
  q.values = static_cast<int32_t*>(workspace);
  uint8_t* at = static_cast<uint8_t*>(workspace) + round_up(m * q.lanes * 4, 64);
  q.scales = reinterpret_cast<float*>(at);
  q.starts = reinterpret_cast<int32_t*>(at + round_up(m * q.blocks * 4, 64));
  return q;
}
template <WeightFormat F>
int64_t ymm_rows_bytes(const PackedLinear& w, int64_t m) {
  const YmmRows q = ymm_rows<F>(w, m, nullptr);
  return round_up(m * q.lanes * 4, 64) + 2 * round_up(m * q.blocks * 4, 64);
}

// Eight inputs from i on; zeros past `count`.
QUIRE_INLINE F32x8 load_inputs(const float* x, int64_t i, int64_t count) {
  return i + 8 <= count ? load(x + i) : i < count ? load_part(x + i, count - i) : zero();
}
QUIRE_INLINE I32x8 magnitude(F32x8 v) {
  return as_i32(v) & broadcast_i32(0x7fffffff);
}  // ordered as integers, NaN largest
QUIRE_INLINE I32x8 larger_of(I32x8 a, I32x8 b) { return (I32x8)_mm256_max_epi32((__m256i)a, (__m256i)b); }
QUIRE_INLINE I32x8 nearest(F32x8 v) { return (I32x8)_mm256_cvtps_epi32(v); }

// Scales that map the largest magnitudes to `limit`, and their inverses; a NaN stays, so that it shows.
QUIRE_INLINE F32x8 scales_of(F32x8 largest, float limit, F32x8& inverse) {
  const F32x8 scale = select(largest <= broadcast(1e-30f), zero(), largest / broadcast(limit));
  inverse = select((scale > zero()) & (scale < broadcast(1e37f)), broadcast(1.0f) / scale, zero());
  return scale;
}

constexpr int64_t kQuantizeInputs = 256;

inline void quantize_int8_tile(const LinearArgs& a, const YmmRows& q, const TileRows& rows) {
  const int64_t inputs = q.lanes * 2, k = a.weight->k;
  F32x8 inverse[YmmShape::kRows];
  for (int64_t r = 0; r < rows.count; ++r) {
    const float* x = a.x + (rows.first + r) * a.x_stride;
    I32x8 largest[4] = {};
    int64_t i = 0;
    for (; i + 32 <= k; i += 32)
      unroll<4>([&](auto j) { largest[j] = larger_of(largest[j], magnitude(load(x + i + j * 8))); });
    for (; i < k; i += 8) largest[0] = larger_of(largest[0], magnitude(load_inputs(x, i, k)));
    const I32x8 all = larger_of(larger_of(largest[0], largest[1]), larger_of(largest[2], largest[3]));
    int32_t peak = 0;
    for (int lane = 0; lane < 8; ++lane) peak = all[lane] > peak ? all[lane] : peak;
    q.scales[rows.first + r] = scales_of(as_f32(broadcast_i32(peak)), 32767.0f, inverse[r])[0];
  }
  alignas(32) int16_t values[YmmShape::kRows][kQuantizeInputs];
  const void* sources[YmmShape::kRows];
  for (int64_t r = 0; r < YmmShape::kRows; ++r) sources[r] = values[r];
  int32_t* out = q.values + rows.first * q.lanes;
  for (int64_t i0 = 0; i0 < inputs; i0 += kQuantizeInputs) {
    const int64_t count = min_of(kQuantizeInputs, inputs - i0);
    for (int64_t r = 0; r < rows.count; ++r) {
      const float* x = a.x + (rows.first + r) * a.x_stride;
      for (int64_t i = 0; i < count; i += 16) {
        const I32x8 low = nearest(load_inputs(x, i0 + i, k) * inverse[r]),
                    high = nearest(load_inputs(x, i0 + i + 8, k) * inverse[r]);
        const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32((__m256i)low, (__m256i)high), 0xd8);
        _mm256_store_si256(reinterpret_cast<__m256i*>(values[r] + i), packed);
      }
    }
    pack_lanes(sources, rows.count, count / 2, out + i0 / 2 * rows.count);
  }
}

// Lane i of the result combines all lanes of v[i]; the combination is one of integers, whose order does not matter.
template <class Combine>
QUIRE_INLINE I32x8 combine_lanes(I32x8* v, Combine&& combine) {
  transpose(v);
  return combine(combine(combine(v[0], v[1]), combine(v[2], v[3])), combine(combine(v[4], v[5]), combine(v[6], v[7])));
}

// Rounds eight blocks of a row from input i0 on to values[256]; their scales and starts.
inline void quantize_blocks(const float* x, int64_t i0, int64_t k, bool has_zeros, int8_t* values, float* scales,
                            int32_t* starts) {
  I32x8 largest[8];
  for (int64_t b = 0; b < 8; ++b) {
    I32x8 v[4];
    unroll<4>([&](auto j) { v[j] = magnitude(load_inputs(x, i0 + b * 32 + j * 8, k)); });
    largest[b] = larger_of(larger_of(v[0], v[1]), larger_of(v[2], v[3]));
  }
  F32x8 inverse;
  store(scales, scales_of(as_f32(combine_lanes(largest, larger_of)), 127.0f, inverse));
  alignas(32) float factors[8];
  store(factors, inverse);
  I32x8 sums[8];  // 16-bit lanes: of the first and the last two inputs of each four
  for (int64_t b = 0; b < 8; ++b) {
    __m256i v[4];
    unroll<4>([&](auto j) { v[j] = (__m256i)nearest(load_inputs(x, i0 + b * 32 + j * 8, k) * broadcast(factors[b])); });
    const __m256i mixed = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    const __m256i bytes = _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(values + b * 32), bytes);
    sums[b] = (I32x8)_mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
  }
  const __m256i sum =
      (__m256i)combine_lanes(sums, [](I32x8 a, I32x8 b) { return (I32x8)_mm256_add_epi16((__m256i)a, (__m256i)b); });
  if (has_zeros) store_i32(starts, as_i32(to_f32(add_pairs((I16x16)sum))));
  else store_i32(starts, (I32x8)_mm256_mullo_epi16(sum, _mm256_set1_epi16(-8)));
}

inline void quantize_int4_tile(const LinearArgs& a, const YmmRows& q, const TileRows& rows) {
  const int64_t k = a.weight->k;
  alignas(32) int8_t values[YmmShape::kRows][kQuantizeInputs];
  alignas(32) float scales[8];
  alignas(32) int32_t starts[8];
  const void* sources[YmmShape::kRows];
  for (int64_t r = 0; r < YmmShape::kRows; ++r) sources[r] = values[r];
  int32_t* out = q.values + rows.first * q.lanes;
  for (int64_t b0 = 0; b0 < q.blocks; b0 += 8) {
    const int64_t blocks = min_of(8, q.blocks - b0);
    for (int64_t r = 0; r < rows.count; ++r) {
      quantize_blocks(a.x + (rows.first + r) * a.x_stride, b0 * 32, k, a.weight->has_zeros, values[r], scales, starts);
      const int64_t at = rows.first * q.blocks + b0 * rows.count + r;
      for (int64_t b = 0; b < blocks; ++b) {
        q.scales[at + b * rows.count] = scales[b];
        q.starts[at + b * rows.count] = starts[b];
      }
    }
    pack_lanes(sources, rows.count, blocks * 8, out + b0 * 8 * rows.count);
  }
}

// Items: tiles.
template <WeightFormat F>
void quantize_tiles(const LinearArgs& a, int64_t begin, int64_t end, void*) {
  const YmmRows q = ymm_rows<F>(*a.weight, a.m, a.workspace);
  for (int64_t g = begin; g < end; ++g) {
    if constexpr (F == WeightFormat::int8) quantize_int8_tile(a, q, tile_rows(g, a.m));
    else quantize_int4_tile(a, q, tile_rows(g, a.m));
  }
}

template <class Format>
int64_t wide_scratch_bytes(const PackedLinear& w, int64_t) {
  const int64_t bytes = wide_bytes<Format>(w);
  return bytes <= kSweepBytes ? sweep_panels(bytes) * bytes : 0;
}

// The kernels of format F but `run`; Format widens its panels.
template <WeightFormat F, class Format>
constexpr LinearKernels quantized_kernels() {
  LinearKernels kernels = packed_integers<F>();
  kernels.workspace_bytes = ymm_rows_bytes<F>;
  kernels.prepare_items = tile_count;
  kernels.prepare = quantize_tiles<F>;
  kernels.prepare_rows = rows_of_tile;
  kernels.items = cut_items<YmmShape>;
  kernels.scratch_bytes = wide_scratch_bytes<Format>;
  return kernels;
}

}  // namespace quire::QUIRE_ISA
