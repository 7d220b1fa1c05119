// Small matrix products of attention and the softmax of one row over one block.
// Included inside namespace quire::QUIRE_ISA.

// c[MR][NV * 8] (+)= a[MR][depth] * b[depth][NV * 8], one chain of multiply-adds per element in order of depth,
// whatever MR and NV are. PF: also prefetches a line of `ahead` per step.
template <DType T, int MR, int NV, bool Accumulate, bool PF>
__attribute__((noinline)) void multiply_tile(int64_t depth, const float* a, int64_t a_stride, const void* b,
                                             int64_t b_stride, float* c, int64_t c_stride, const uint8_t* ahead) {
  F32x8 sum[MR * NV];
  unroll<MR>([&](auto r) {
    unroll<NV>([&](auto v) { sum[r * NV + v] = Accumulate ? load(c + r * c_stride + v * 8) : zero(); });
  });
  const uint8_t* line = static_cast<const uint8_t*>(b);
  const int64_t line_bytes = b_stride * dtype_bytes(T);
  for (int64_t k = 0; k < depth; ++k, line += line_bytes) {
    if constexpr (PF) prefetch(ahead + k * 64);
    if constexpr (MR <= 2) {
      F32x8 x[MR];
      unroll<MR>([&](auto r) { x[r] = broadcast(a[r * a_stride + k]); });
      unroll<NV>([&](auto v) {
        const F32x8 w = load_typed<T>(line, v * 8);
        unroll<MR>([&](auto r) { sum[r * NV + v] = fma(x[r], w, sum[r * NV + v]); });
      });
    } else {
      F32x8 w[NV];
      unroll<NV>([&](auto v) { w[v] = load_typed<T>(line, v * 8); });
      unroll<MR>([&](auto r) {
        const F32x8 x = broadcast(a[r * a_stride + k]);
        unroll<NV>([&](auto v) { sum[r * NV + v] = fma(x, w[v], sum[r * NV + v]); });
      });
    }
  }
  unroll<MR>([&](auto r) { unroll<NV>([&](auto v) { store(c + r * c_stride + v * 8, sum[r * NV + v]); }); });
}

// Lines of the next block still to be prefetched; advances as products are computed.
struct Ahead {
  const uint8_t* next = nullptr;
  const uint8_t* end = nullptr;
};

template <DType T, int MR, int NV, bool Accumulate>
QUIRE_INLINE void multiply_step(int64_t depth, const float* a, int64_t a_stride, const void* b, int64_t b_stride,
                                float* c, int64_t c_stride, Ahead& ahead) {
  if (ahead.next < ahead.end) {
    multiply_tile<T, MR, NV, Accumulate, true>(depth, a, a_stride, b, b_stride, c, c_stride, ahead.next);
    ahead.next += depth * 64;
  } else {
    multiply_tile<T, MR, NV, Accumulate, false>(depth, a, a_stride, b, b_stride, c, c_stride, nullptr);
  }
}

template <DType T, int MR, bool Accumulate>
void multiply_columns(int64_t depth, int64_t columns, const float* a, int64_t a_stride, const void* b,
                      int64_t b_stride, float* c, int64_t c_stride, Ahead& ahead) {
  const uint8_t* bytes = static_cast<const uint8_t*>(b);
  int64_t j = 0;
  if constexpr (MR == 1)
    for (; j + 64 <= columns; j += 64)
      multiply_step<T, MR, 8, Accumulate>(depth, a, a_stride, bytes + j * dtype_bytes(T), b_stride, c + j, c_stride, ahead);
  if constexpr (MR <= 2)
    for (; j + 32 <= columns; j += 32)
      multiply_step<T, MR, 4, Accumulate>(depth, a, a_stride, bytes + j * dtype_bytes(T), b_stride, c + j, c_stride, ahead);
  for (; j + 16 <= columns; j += 16)
    multiply_step<T, MR, 2, Accumulate>(depth, a, a_stride, bytes + j * dtype_bytes(T), b_stride, c + j, c_stride, ahead);
  for (; j + 8 <= columns; j += 8)
    multiply_step<T, MR, 1, Accumulate>(depth, a, a_stride, bytes + j * dtype_bytes(T), b_stride, c + j, c_stride, ahead);
  for (; j < columns; ++j)
    for (int64_t r = 0; r < MR; ++r) {
      float sum = Accumulate ? c[r * c_stride + j] : 0.0f;
      for (int64_t k = 0; k < depth; ++k) sum = fma_scalar(a[r * a_stride + k], element_to_f32(b, T, k * b_stride + j), sum);
      c[r * c_stride + j] = sum;
    }
}

constexpr int64_t kProductRows = 6;  // rows of a product: 12 sums, two vectors of b and one of a fill 15 registers

template <DType T, bool Accumulate>
void multiply(int64_t rows, int64_t depth, int64_t columns, const float* a, int64_t a_stride, const void* b,
              int64_t b_stride, float* c, int64_t c_stride, Ahead& ahead) {
  if (depth <= 0 && Accumulate) return;
  int64_t r = 0;
  for (; r + kProductRows <= rows; r += kProductRows)
    multiply_columns<T, kProductRows, Accumulate>(depth, columns, a + r * a_stride, a_stride, b, b_stride, c + r * c_stride, c_stride, ahead);
  const float* a_rest = a + r * a_stride;
  float* c_rest = c + r * c_stride;
  switch (rows - r) {
    case 5: multiply_columns<T, 5, Accumulate>(depth, columns, a_rest, a_stride, b, b_stride, c_rest, c_stride, ahead); break;
    case 4: multiply_columns<T, 4, Accumulate>(depth, columns, a_rest, a_stride, b, b_stride, c_rest, c_stride, ahead); break;
    case 3: multiply_columns<T, 3, Accumulate>(depth, columns, a_rest, a_stride, b, b_stride, c_rest, c_stride, ahead); break;
    case 2: multiply_columns<T, 2, Accumulate>(depth, columns, a_rest, a_stride, b, b_stride, c_rest, c_stride, ahead); break;
    case 1: multiply_columns<T, 1, Accumulate>(depth, columns, a_rest, a_stride, b, b_stride, c_rest, c_stride, ahead); break;
    default: break;
  }
}

// Keys [first, last) of a block that a row sees.
struct KeyRange {
  int64_t first;
  int64_t last;
};

struct ScoreRule {
  float softcap;
  float slope;        // ALiBi, 0 = none
  float first_offset; // (index of the block's first key) - (index of the row)
  const float* k_scales = nullptr;  // of a quantized block's keys and values
  const float* v_scales = nullptr;
};

QUIRE_INLINE F32x8 final_scores(const float* s, int64_t j, const KeyRange& seen, const ScoreRule& rule) {
  const F32x8 iota = {0, 1, 2, 3, 4, 5, 6, 7};
  F32x8 v = load(s + j);
  if (rule.k_scales) v = v * load(rule.k_scales + j);
  if (rule.softcap > 0.0f) v = broadcast(rule.softcap) * tanh_v(v / broadcast(rule.softcap));
  const F32x8 index = broadcast(static_cast<float>(j)) + iota;
  if (rule.slope != 0.0f) v = fma(broadcast(rule.slope), broadcast(rule.first_offset) + index, v);
  const I32x8 in = (index >= broadcast(static_cast<float>(seen.first))) & (index < broadcast(static_cast<float>(seen.last)));
  return select(in, v, broadcast(-__builtin_inff()));  // a masked NaN dies here
}

// One step of the online softmax: turns scores into weights (0 where masked), updates max and sum, and
// returns the factor for what was summed before. Weights of quantized values carry the values' scales, the sum does not.
inline float softmax_block(float* s, const KeyRange& seen, const ScoreRule& rule, float& max, float& sum) {
  const int64_t from = seen.first / 8 * 8;
  F32x8 best = broadcast(max);
  for (int64_t j = from; j < seen.last; j += 8) {
    const F32x8 v = final_scores(s, j, seen, rule);
    store(s + j, v);
    best = maximum(v, best);
  }
  const float new_max = max_lanes(best);
  const F32x8 shift = broadcast(new_max);
  F32x8 total = zero();
  for (int64_t j = from; j < seen.last; j += 8) {
    const F32x8 p = exp_v(load(s + j) - shift);
    store(s + j, rule.v_scales ? p * load(rule.v_scales + j) : p);
    total = total + p;
  }
  const float factor = exp_v(broadcast(max) - shift)[0];
  sum = fma_scalar(sum, factor, sum_lanes(total));
  max = new_max;
  return factor;
}
