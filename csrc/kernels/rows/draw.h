// The passes over a whole vocabulary that drawing a token takes.
// Noise: Philox 4x32-10, Salmon et al., SC'11.
#pragma once

#include "kernel_types.h"
#include "vec/math.h"

namespace quire::QUIRE_ISA {

inline void block_maxima(const float* x, int64_t n, float* maxima) {
  for (int64_t i = 0; i < n; i += kDrawBlock) {
    if (n - i < kDrawBlock) {
      maxima[i / kDrawBlock] = row_max(x + i, n - i);
      continue;
    }
    F32x8 best = load(x + i);
    for (int64_t j = 8; j < kDrawBlock; j += 8) best = maximum(load(x + i + j), best);
    maxima[i / kDrawBlock] = max_lanes(best);
  }
}

inline uint32_t noise_bits(const DrawNoise& noise, uint32_t first, uint32_t* bits) {
  constexpr int kLanes = kDrawBlock / 4;
  uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    c0[lane] = first / 4 + static_cast<uint32_t>(lane);
    c1[lane] = noise.position;
    c2[lane] = noise.sequence_index;
    c3[lane] = 0;
  }
  uint32_t k0 = static_cast<uint32_t>(noise.seed), k1 = static_cast<uint32_t>(noise.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint64_t product0 = uint64_t{0xD2511F53u} * c0[lane], product1 = uint64_t{0xCD9E8D57u} * c2[lane];
      c0[lane] = static_cast<uint32_t>(product1 >> 32) ^ c1[lane] ^ k0;
      c1[lane] = static_cast<uint32_t>(product1);
      c2[lane] = static_cast<uint32_t>(product0 >> 32) ^ c3[lane] ^ k1;
      c3[lane] = static_cast<uint32_t>(product0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  uint32_t largest = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint32_t a = c0[lane] > c1[lane] ? c0[lane] : c1[lane], b = c2[lane] > c3[lane] ? c2[lane] : c3[lane];
    const uint32_t both = a > b ? a : b;
    largest = both > largest ? both : largest;
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    bits[4 * lane] = c0[lane];
    bits[4 * lane + 1] = c1[lane];
    bits[4 * lane + 2] = c2[lane];
    bits[4 * lane + 3] = c3[lane];
  }
  return largest;
}

constexpr int64_t kMassChunk = 4096;  // elements summed in float32 before they go to a double

inline double score_masses(const float* x, int64_t n, float largest, float temperature, float* scores, float* masses) {
  const F32x8 lanes = {0, 1, 2, 3, 4, 5, 6, 7};
  double total = 0.0;
  for (int64_t begin = 0; begin < n; begin += kMassChunk) {
    F32x8 sum = zero();
    for_lanes(min_of(kMassChunk, n - begin), [&](int64_t i, int64_t count) {
      const F32x8 score = (load_some(x + begin + i, count) - broadcast(largest)) / broadcast(temperature);
      const F32x8 mass = exp_v(score);
      store_some(scores + begin + i, score, count);
      store_some(masses + begin + i, mass, count);
      sum = sum + select(lanes < broadcast(static_cast<float>(count)), mass, zero());
    });
    total += static_cast<double>(sum_lanes(sum));
  }
  return total;
}

inline void masses_above(const float* scores, const float* masses, int64_t n, const float* limits, double* sums) {
  for (int l = 0; l < kMassLimits; ++l) sums[l] = 0.0;
  for (int64_t begin = 0; begin < n; begin += kMassChunk) {
    const int64_t end = min_of(n, begin + kMassChunk);
    F32x8 sum[kMassLimits];
    unroll<kMassLimits>([&](auto l) { sum[l] = zero(); });
    int64_t i = begin;
    for (; i + 8 <= end; i += 8) {
      const F32x8 score = load(scores + i), mass = load(masses + i);
      unroll<kMassLimits>([&](auto l) { sum[l] = sum[l] + select(score < broadcast(limits[l]), zero(), mass); });
    }
    unroll<kMassLimits>([&](auto l) { sums[l] += static_cast<double>(sum_lanes(sum[l])); });
    for (; i < end; ++i)
      for (int l = 0; l < kMassLimits; ++l) sums[l] += scores[i] < limits[l] ? 0.0 : static_cast<double>(masses[i]);
  }
}

}  // namespace quire::QUIRE_ISA
