// Micro-kernels of the blocked linears on NEON. Included inside namespace quire::neon*.

// c[6][16] += a[k][6]^T * b[k][16], one fused multiply-add per k and element, in order. The sums take 24 of the 32
// registers, a step of b four, of a two.
__attribute__((noinline)) inline void gemm_6x16(int64_t k, const float* a, const float* b, float* c) {
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

// c[6][16] (i32) = a[pairs][6] (pairs of int16)^T * b[pairs][16][2] (int16).
inline void gemm_i16_6x16(int64_t pairs, const int32_t* a, const int16_t* b, int32_t* c) {
  for (int64_t r = 0; r < kTileRows; ++r)
    for (int64_t h = 0; h < kPanelColumns; h += 8) {
      I32x8 sum = {};
      for (int64_t i = 0; i < pairs; ++i)
        sum = multiply_add_i16(load_pair<I16x16>(b + i * 32 + h * 2), broadcast_i32(a[i * kTileRows + r]), sum);
      store_i32(c + r * kPanelColumns + h, sum);
    }
}

QUIRE_INLINE F32x8 add_int4_block(F32x8 sums, I32x8 dot, int32_t x_sum, float x_scale, const uint16_t* scales, const uint16_t* zeros);

// One block of 32 inputs: sums[6][16] += scaled (a[8][6] (quads of int8)^T * b[8][16][4] (nibbles in bytes)).
inline void gemm_u8_6x16(const int32_t* a, const uint8_t* b, const int32_t* x_sums, const float* x_scales,
                         const uint16_t* scales, const uint16_t* zeros, float* sums) {
  for (int64_t r = 0; r < kTileRows; ++r)
    for (int64_t h = 0; h < kPanelColumns; h += 8) {
      I16x16 dot = {};
      for (int64_t i = 0; i < 8; ++i) dot = multiply_add_u8(load_u8(b + i * 64 + h * 4), broadcast_i32(a[i * kTileRows + r]), dot);
      float* at = sums + r * kPanelColumns + h;
      store(at, add_int4_block(load(at), add_pairs(dot), x_sums[r], x_scales[r], scales + h, zeros ? zeros + h : nullptr));
    }
}
