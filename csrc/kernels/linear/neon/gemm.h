// Micro-kernel of the blocked float linears on NEON.
#pragma once

#include "linear/portable/cut.h"
#include "vec/neon.h"

namespace quire::QUIRE_ISA {

// c[6][16] += a[k][6]^T * b[k][16], one fused multiply-add per k and element, in order. The sums take 24 of the 32
// registers, a step of b four, of a two.
struct NeonGemm {
  __attribute__((noinline)) static void run(int64_t k, const float* a, const float* b, float* c) {
    float32x4_t sum[kTileRows * 4];
    unroll<kTileRows * 4>([&](auto i) { sum[i] = vld1q_f32(c + i * 4); });
    for (int64_t i = 0; i < k; ++i, a += kTileRows, b += kPanelColumns) {
      const float32x4_t x0 = vld1q_f32(a);
      const float32x2_t x1 = vld1_f32(a + 4);
      unroll<4>([&](auto v) {
        const float32x4_t w = vld1q_f32(b + v * 4);
        sum[v] = vfmaq_laneq_f32(sum[v], w, x0, 0);
        sum[4 + v] = vfmaq_laneq_f32(sum[4 + v], w, x0, 1);
        sum[8 + v] = vfmaq_laneq_f32(sum[8 + v], w, x0, 2);
        sum[12 + v] = vfmaq_laneq_f32(sum[12 + v], w, x0, 3);
        sum[16 + v] = vfmaq_lane_f32(sum[16 + v], w, x1, 0);
        sum[20 + v] = vfmaq_lane_f32(sum[20 + v], w, x1, 1);
      });
    }
    unroll<kTileRows * 4>([&](auto i) { vst1q_f32(c + i * 4, sum[i]); });
  }
};

}  // namespace quire::QUIRE_ISA
