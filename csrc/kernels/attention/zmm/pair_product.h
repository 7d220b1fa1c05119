// Products of bf16 matrices by vdpbf16ps, whose lines lie as the cache holds them.
//
// vdpbf16ps adds two products to each of 16 sums. a holds its depth in pairs; of b it needs pairs of neighbouring lines,
// which are interleaved on the way into registers (InLines), or once for many rows (Interleaved). An element is one chain
// of pairs in order of depth, however the rows and columns are cut and wherever b comes from.
#pragma once

#include "vec/avx512.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kProductRows = 6;  // 24 sums, four vectors of b, one of a, two of indices
constexpr int64_t kInterleavedAbove = 12;  // rows from which interleaving once pays

// 16 columns of the lines p and q as pairs (p, q).
QUIRE_INLINE __m512i pairs_of(__m256i p, __m256i q) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(p), _mm512_slli_epi32(_mm512_cvtepu16_epi32(q), 16));
}
// Word indices of the pairs of two 32-word lines: columns 0-15, and 16-31 with 16 added.
QUIRE_INLINE __m512i pair_indices(int first) {
  const __m512i iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_add_epi32(_mm512_mullo_epi32(iota, _mm512_set1_epi32(0x10001)),
                          _mm512_set1_epi32(0x200000 + first * 0x10001));
}

// b as lines of bf16, two for each step of depth.
struct InLines {
  static constexpr int kColumnBytes = 2, kLines = 2;
  template <int NV>
  static QUIRE_INLINE void load(const uint8_t* line, int64_t line_bytes, __m512i low, __m512i high, __m512i* w) {
    unroll<NV / 2>([&](auto v) {
      const __m512i p = _mm512_loadu_si512(line + v * 64), q = _mm512_loadu_si512(line + line_bytes + v * 64);
      w[v * 2] = _mm512_permutex2var_epi16(p, low, q);
      w[v * 2 + 1] = _mm512_permutex2var_epi16(p, high, q);
    });
  }
  static QUIRE_INLINE __m512i load_part(const uint8_t* line, int64_t line_bytes, __mmask16 lanes) {
    return pairs_of(_mm256_maskz_loadu_epi16(lanes, line), _mm256_maskz_loadu_epi16(lanes, line + line_bytes));
  }
};
// b interleaved: one line of pairs for each step of depth.
struct Interleaved {
  static constexpr int kColumnBytes = 4, kLines = 1;
  template <int NV>
  static QUIRE_INLINE void load(const uint8_t* line, int64_t, __m512i, __m512i, __m512i* w) {
    unroll<NV>([&](auto v) { w[v] = _mm512_loadu_si512(line + v * 64); });
  }
  static QUIRE_INLINE __m512i load_part(const uint8_t* line, int64_t, __mmask16 lanes) {
    return _mm512_maskz_loadu_epi32(lanes, line);
  }
};

QUIRE_INLINE __m512 add_pair_products(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

// c[MR][NV * 16] = factors[MR] * c + a[MR][pairs] * b[pairs][NV * 16]; without factors, c is started from zero. PF: also
// prefetches what lies `ahead` bytes on.
template <class B, int MR, int NV, bool PF>
__attribute__((noinline)) void pair_tile(int64_t pairs, const uint16_t* a, int64_t a_stride, const uint8_t* line,
                                         int64_t line_bytes, float* c, int64_t c_stride, const float* factors,
                                         int64_t ahead) {
  constexpr int kCacheLines = (NV * 16 * B::kColumnBytes + 63) / 64;
  const __m512i low = pair_indices(0), high = pair_indices(16);
  __m512 sum[MR * NV];
  unroll<MR>([&](auto r) {
    unroll<NV>([&](auto v) {
      sum[r * NV + v] = factors ? _mm512_mul_ps(_mm512_set1_ps(factors[r]), _mm512_loadu_ps(c + r * c_stride + v * 16))
                                : _mm512_setzero_ps();
    });
  });
  for (int64_t k = 0; k < pairs; ++k, line += B::kLines * line_bytes) {
    if constexpr (PF)  // a plain loop: gcc takes a lambda that only prefetches for one without effects, and drops it
      for (int n = 0; n < B::kLines; ++n)
        for (int l = 0; l < kCacheLines; ++l) prefetch(line + n * line_bytes + l * 64 + ahead);
    __m512i w[NV];
    B::template load<NV>(line, line_bytes, low, high, w);
    unroll<MR>([&](auto r) {
      const __m512i x = (__m512i)broadcast16_i32(a + r * a_stride + k * 2);
      unroll<NV>([&](auto v) { sum[r * NV + v] = add_pair_products(sum[r * NV + v], x, w[v]); });
    });
  }
  unroll<MR>(
      [&](auto r) { unroll<NV>([&](auto v) { _mm512_storeu_ps(c + r * c_stride + v * 16, sum[r * NV + v]); }); });
}

// The last columns, 16 at most.
template <class B, int MR>
__attribute__((noinline)) void pair_tail(int64_t pairs, int64_t columns, const uint16_t* a, int64_t a_stride,
                                         const uint8_t* line, int64_t line_bytes, float* c, int64_t c_stride,
                                         const float* factors) {
  const __mmask16 lanes = lanes16(columns);
  __m512 sum[MR];
  unroll<MR>([&](auto r) {
    sum[r] = factors ? _mm512_mul_ps(_mm512_set1_ps(factors[r]), _mm512_maskz_loadu_ps(lanes, c + r * c_stride))
                     : _mm512_setzero_ps();
  });
  for (int64_t k = 0; k < pairs; ++k, line += B::kLines * line_bytes) {
    const __m512i w = B::load_part(line, line_bytes, lanes);
    unroll<MR>(
        [&](auto r) { sum[r] = add_pair_products(sum[r], (__m512i)broadcast16_i32(a + r * a_stride + k * 2), w); });
  }
  unroll<MR>([&](auto r) { _mm512_mask_storeu_ps(c + r * c_stride, lanes, sum[r]); });
}

template <class B, int MR, bool PF>
void pair_columns(int64_t pairs, int64_t columns, const uint16_t* a, int64_t a_stride, const uint8_t* b,
                  int64_t line_bytes, float* c, int64_t c_stride, const float* factors, int64_t ahead) {
  int64_t j = 0;
  auto tiles = [&](auto nv) {
    constexpr int kVectors = decltype(nv)::value;
    for (; j + kVectors * 16 <= columns; j += kVectors * 16)
      pair_tile<B, MR, kVectors, PF>(pairs, a, a_stride, b + j * B::kColumnBytes, line_bytes, c + j, c_stride, factors,
                                     ahead);
  };
  if constexpr (MR <= 2) tiles(Index<8>{});
  tiles(Index<4>{});
  tiles(Index<2>{});
  for (; j < columns; j += 16)
    pair_tail<B, MR>(pairs, min_of(columns - j, 16), a, a_stride, b + j * B::kColumnBytes, line_bytes, c + j, c_stride,
                     factors);
}

// c[rows][columns] = factors[rows] * c (0 without factors) + a[rows][2 * pairs] * b[2 * pairs][columns], at most
// kProductRows rows. Strides of a and c count elements. ahead: bytes from b to what is prefetched meanwhile, 0 = nothing.
template <class B>
void pair_product(int64_t rows, int64_t pairs, int64_t columns, const uint16_t* a, int64_t a_stride, const void* b,
                  int64_t line_bytes, float* c, int64_t c_stride, const float* factors, int64_t ahead) {
  const auto* bytes = static_cast<const uint8_t*>(b);
  unroll<kProductRows>([&](auto i) {
    constexpr int kRows = decltype(i)::value + 1;
    if (rows != kRows) return;
    if constexpr (B::kLines == 2)
      if (ahead)
        return pair_columns<B, kRows, true>(pairs, columns, a, a_stride, bytes, line_bytes, c, c_stride, factors,
                                            ahead);
    pair_columns<B, kRows, false>(pairs, columns, a, a_stride, bytes, line_bytes, c, c_stride, factors, 0);
  });
}

// c[rows][columns] += products of one line of bf16 with the first (or the second) elements of the pairs a[row].
inline void half_pair(int64_t rows, int64_t columns, const uint16_t* a, int64_t a_stride, const uint16_t* line,
                      bool second, float* c, int64_t c_stride) {
  for (int64_t j = 0; j < columns; j += 16) {
    const __mmask16 lanes = lanes16(columns - j);
    __m512i w = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, line + j));
    if (second) w = _mm512_slli_epi32(w, 16);
    for (int64_t r = 0; r < rows; ++r) {
      float* out = c + r * c_stride + j;
      const __m512 sum =
          add_pair_products(_mm512_maskz_loadu_ps(lanes, out), (__m512i)broadcast16_i32(a + r * a_stride), w);
      _mm512_mask_storeu_ps(out, lanes, sum);
    }
  }
}

// Interleaves `pairs` pairs of lines; strides in elements (of 16 bits, and of pairs).
inline void interleave_lines(int64_t pairs, int64_t columns, const uint16_t* in, int64_t in_stride, int32_t* out,
                             int64_t out_stride) {
  const __m512i low = pair_indices(0), high = pair_indices(16);
  for (int64_t k = 0; k < pairs; ++k, in += 2 * in_stride, out += out_stride) {
    int64_t j = 0;
    for (; j + 32 <= columns; j += 32) {
      const __m512i p = _mm512_loadu_si512(in + j), q = _mm512_loadu_si512(in + in_stride + j);
      _mm512_storeu_si512(out + j, _mm512_permutex2var_epi16(p, low, q));
      _mm512_storeu_si512(out + j + 16, _mm512_permutex2var_epi16(p, high, q));
    }
    for (; j < columns; j += 16) {
      const __mmask16 lanes = lanes16(columns - j);
      const __m256i p = _mm256_maskz_loadu_epi16(lanes, in + j),
                    q = _mm256_maskz_loadu_epi16(lanes, in + in_stride + j);
      _mm512_mask_storeu_epi32(out + j, lanes, pairs_of(p, q));
    }
  }
}

}  // namespace quire::QUIRE_ISA
