// Kernels that map rows to rows: activations, arithmetic, embedding, combine, reductions over a row.h or rows/zmm/activation_rows.h.
#pragma once

#include "vec/math.h"
#include "vec/typed.h"

namespace quire::QUIRE_ISA {

template <class Op>
QUIRE_INLINE void elementwise_rows(const ElementwiseArgs& a, int64_t begin, int64_t end, Op op) {
  for (int64_t t = begin; t < end; ++t) {
    const float* x = a.a + t * a.a_stride;
    const float* b = a.b ? a.b + t * a.b_stride : nullptr;
    float* y = a.y + t * a.y_stride;
    for_lanes(a.dim, [&](int64_t i, int64_t count) {
      store_some(y + i, op(load_some(x + i, count), b ? load_some(b + i, count) : zero()), count);
    });
  }
}
inline void add(const ElementwiseArgs& a, int64_t begin, int64_t end, void*) {
  elementwise_rows(a, begin, end, [](F32x8 x, F32x8 b) { return x + b; });
}
inline void mul(const ElementwiseArgs& a, int64_t begin, int64_t end, void*) {
  elementwise_rows(a, begin, end, [](F32x8 x, F32x8 b) { return x * b; });
}
inline void scale(const ElementwiseArgs& a, int64_t begin, int64_t end, void*) {
  const F32x8 s = broadcast(a.value);
  elementwise_rows(a, begin, end, [s](F32x8 x, F32x8) { return x * s; });
}
inline void softcap(const ElementwiseArgs& a, int64_t begin, int64_t end, void*) {
  const F32x8 s = broadcast(a.value), inverse = broadcast(1.0f / a.value);
  elementwise_rows(a, begin, end, [s, inverse](F32x8 x, F32x8) { return s * tanh_v(x * inverse); });
}

template <DType T>
void embedding_rows(const EmbeddingArgs& a, int64_t begin, int64_t end) {
  const F32x8 s = broadcast(a.scale);
  for (int64_t r = begin; r < end; ++r) {
    float* y = a.y + r * a.y_stride;
    const int64_t id = a.ids[r];
    if (id < 0 || id >= a.num_rows) {
      __builtin_memset(y, 0, static_cast<size_t>(a.dim) * sizeof(float));
      continue;
    }
    const void* row = static_cast<const uint8_t*>(a.table) + id * a.table_stride * dtype_bytes(T);
    int64_t i = 0;
    for (; i + 8 <= a.dim; i += 8) store(y + i, load_typed<T>(row, i) * s);
    for (; i < a.dim; ++i) y[i] = element_to_f32(row, T, i) * a.scale;
  }
}
inline void embedding(const EmbeddingArgs& a, int64_t begin, int64_t end, void*) {
  if (a.dtype == DType::f32) embedding_rows<DType::f32>(a, begin, end);
  else if (a.dtype == DType::bf16) embedding_rows<DType::bf16>(a, begin, end);
  else embedding_rows<DType::f16>(a, begin, end);
}

inline void combine_rows(const CombineRowsArgs& a, int64_t begin, int64_t end, void*) {
  for (int64_t t = begin; t < end; ++t) {
    float* y = a.y + t * a.y_stride;
    for_lanes(a.dim, [&](int64_t i, int64_t count) {
      F32x8 sum = a.accumulate ? load_some(y + i, count) : zero();
      for (int64_t j = 0; j < a.k; ++j) {
        const int64_t row = a.rows[t * a.k + j];
        if (row < 0) continue;
        sum = fma(broadcast(a.weights[t * a.k + j]), load_some(a.x + row * a.x_stride + i, count), sum);
      }
      store_some(y + i, sum, count);
    });
  }
}

inline void row_reduce(const RowReduceArgs& a, int64_t begin, int64_t end, void*) {
  for (int64_t r = begin; r < end; ++r) {
    const float* x = a.x + r * a.x_stride;
    const float m = row_max(x, a.dim);
    if (a.max) a.max[r] = m;
    if (a.argmax) {
      int64_t i = 0;
      const F32x8 target = broadcast(m);
      for (; i + 8 <= a.dim; i += 8) {
        const I32x8 hit = load(x + i) == target;
        if (any_lane(hit)) break;
      }
      while (i < a.dim && !(x[i] == m)) ++i;
      a.argmax[r] = static_cast<int32_t>(i < a.dim ? i : 0);
    }
    if (a.logsumexp && m == -__builtin_inff()) {
      a.logsumexp[r] = m;
    } else if (a.logsumexp) {
      const F32x8 shift = broadcast(m);
      F32x8 sum = zero();
      int64_t i = 0;
      for (; i + 8 <= a.dim; i += 8) sum = sum + exp_v(load(x + i) - shift);
      float total = sum_lanes(sum);
      for (; i < a.dim; ++i) total += exp_v(broadcast(x[i] - m))[0];
      a.logsumexp[r] = m + __builtin_logf(total);
    }
  }
}

}  // namespace quire::QUIRE_ISA
