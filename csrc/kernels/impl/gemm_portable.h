// Micro-kernels of the blocked linears in plain C++. Included inside namespace quire::portable.

// c[6][16] += a[k][6]^T * b[k][16], one multiply-add per k and element, in order. Tiles of 2 x 8 fit any register file.
inline void gemm_6x16(int64_t k, const float* a, const float* b, float* c) {
  for (int64_t r = 0; r < kTileRows; r += 2)
    for (int64_t h = 0; h < kPanelColumns; h += 8) {
      F32x8 c0 = load(c + r * kPanelColumns + h), c1 = load(c + (r + 1) * kPanelColumns + h);
      for (int64_t i = 0; i < k; ++i) {
        const F32x8 w = load(b + i * kPanelColumns + h);
        c0 = fma(broadcast(a[i * kTileRows + r]), w, c0);
        c1 = fma(broadcast(a[i * kTileRows + r + 1]), w, c1);
      }
      store(c + r * kPanelColumns + h, c0);
      store(c + (r + 1) * kPanelColumns + h, c1);
    }
}

// c[6][16] (i32) = a[pairs][6] (pairs of int16)^T * b[pairs][16][2] (int16).
inline void gemm_i16_6x16(int64_t pairs, const int32_t* a, const int16_t* b, int32_t* c) {
  for (int64_t r = 0; r < kTileRows; ++r)
    for (int64_t h = 0; h < kPanelColumns; h += 8) {
      I32x8 sum = {};
      for (int64_t i = 0; i < pairs; ++i) {
        I16x16 w;
        __builtin_memcpy(&w, b + i * 32 + h * 2, sizeof w);
        sum = multiply_add_i16(w, broadcast_i32(a[i * kTileRows + r]), sum);
      }
      store_i32(c + r * kPanelColumns + h, sum);
    }
}

QUIRE_INLINE F32x8 add_int4_block(F32x8 sums, I32x8 dot, int32_t x_sum, float x_scale, const uint16_t* scales,
                                  const uint16_t* zeros);

// One block of 32 inputs: sums[6][16] += scaled (a[8][6] (quads of int8)^T * b[8][16][4] (nibbles in bytes)).
inline void gemm_u8_6x16(const int32_t* a, const uint8_t* b, const int32_t* x_sums, const float* x_scales,
                         const uint16_t* scales, const uint16_t* zeros, float* sums) {
  for (int64_t r = 0; r < kTileRows; ++r)
    for (int64_t h = 0; h < kPanelColumns; h += 8) {
      I16x16 dot = {};
      for (int64_t i = 0; i < 8; ++i)
        dot = multiply_add_u8(load_u8(b + i * 64 + h * 4), broadcast_i32(a[i * kTileRows + r]), dot);
      float* at = sums + r * kPanelColumns + h;
      store(at,
            add_int4_block(load(at), add_pairs(dot), x_sums[r], x_scales[r], scales + h, zeros ? zeros + h : nullptr));
    }
}
