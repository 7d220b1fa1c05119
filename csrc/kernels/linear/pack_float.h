// Packing of f32, bf16 and f16 weights.
#pragma once

#include "linear/layout.h"
#include "linear/source_row.h"
#include "vec/vec.h"

namespace quire::QUIRE_ISA {

template <WeightFormat F>
struct FloatPanel;

template <>
struct FloatPanel<WeightFormat::f32> {
  using Element = float;
  static constexpr DType dtype = DType::f32;
  static constexpr int64_t kStep = 1, kStepBytes = 64;
  static int64_t index(int64_t k, int64_t column) { return k * 16 + column; }
  static float encode(float v) { return v; }
};
template <>
struct FloatPanel<WeightFormat::bf16> {
  using Element = uint16_t;
  static constexpr DType dtype = DType::bf16;
  static constexpr int64_t kStep = 2, kStepBytes = 64;
  static int64_t index(int64_t k, int64_t column) { return (k / 2) * 32 + column * 2 + (k & 1); }
  static uint16_t encode(float v) { return f32_to_bf16(v); }
};
template <>
struct FloatPanel<WeightFormat::f16> {
  using Element = uint16_t;
  static constexpr DType dtype = DType::f16;
  static constexpr int64_t kStep = 1, kStepBytes = 32;
  static int64_t index(int64_t k, int64_t column) { return k * 16 + column; }
  static uint16_t encode(float v) { return f32_to_f16(v); }
};

// 32-bit elements (a float, or two bf16 inputs) of 16 rows, [16][count] -> [count][16], count a multiple of 8.
QUIRE_INLINE void transpose_lanes(const uint8_t* const* rows, int64_t count, uint8_t* out) {
  for (int64_t i = 0; i < count; i += 8) {
    unroll<2>([&](auto half) {
      I32x8 r[8];
      unroll<8>([&](auto j) { r[j] = load_i32(rows[half * 8 + j] + i * 4); });
      transpose(r);
      unroll<8>([&](auto j) { store_i32(reinterpret_cast<int32_t*>(out + (i + j) * 64 + half * 32), r[j]); });
    });
  }
}

// The inputs of a whole panel that transpose_lanes can take: rows of the packed dtype, f32 or bf16.
template <WeightFormat F>
int64_t transposable_inputs(const PackedLinear& w, const SourceRow* rows, int64_t columns) {
  using P = FloatPanel<F>;
  if (F == WeightFormat::f16 || columns < kPanelColumns) return 0;
  for (int64_t c = 0; c < columns; ++c)
    if (rows[c].dtype != P::dtype) return 0;
  return w.k / (8 * P::kStep) * (8 * P::kStep);
}

template <WeightFormat F>
void pack_float_panel(const PackArgs& a, int64_t panel) {
  using P = FloatPanel<F>;
  using Element = typename P::Element;
  const PackedLinear& w = *a.weight;
  Element* out = reinterpret_cast<Element*>(panel_at(w, panel));
  const int64_t columns = min_of(kPanelColumns, w.n - panel * kPanelColumns);
  if (columns < kPanelColumns || w.k % P::kStep) __builtin_memset(out, 0, static_cast<size_t>(w.panel_bytes));
  SourceRow rows[kPanelColumns];
  for (int64_t c = 0; c < columns; ++c) rows[c] = source_row(a, panel * kPanelColumns + c);
  const int64_t transposed = transposable_inputs<F>(w, rows, columns);
  if (transposed) {
    const uint8_t* sources[kPanelColumns];
    for (int64_t c = 0; c < kPanelColumns; ++c) sources[c] = rows[c].data;
    transpose_lanes(sources, transposed / P::kStep, reinterpret_cast<uint8_t*>(out));
  }
  constexpr int64_t kChunk = 128;  // the part of a panel that is being scattered stays in L1
  for (int64_t k0 = transposed; k0 < w.k; k0 += kChunk) {
    const int64_t k1 = min_of(w.k, k0 + kChunk);
    for (int64_t c = 0; c < columns; ++c) {
      if (rows[c].dtype == P::dtype) {
        const Element* source = reinterpret_cast<const Element*>(rows[c].data);
        for (int64_t k = k0; k < k1; ++k) out[P::index(k, c)] = source[k];
      } else {
        for (int64_t k = k0; k < k1; ++k)
          out[P::index(k, c)] = P::encode(element_to_f32(rows[c].data, rows[c].dtype, k));
      }
    }
  }
}

template <WeightFormat F>
void unpack_float_row(const PackedLinear& w, int64_t n, float* out) {
  using P = FloatPanel<F>;
  const void* panel = panel_at(w, n / kPanelColumns);
  for (int64_t k = 0; k < w.k; ++k) out[k] = element_to_f32(panel, P::dtype, P::index(k, n % kPanelColumns));
}

template <WeightFormat F>
PackedLinear float_layout(int64_t n, int64_t k, int64_t, bool) {
  using P = FloatPanel<F>;
  return panels_of(F, n, k, ceil_div(k, P::kStep) * P::kStepBytes);
}
template <WeightFormat F>
void pack_float(const PackArgs& a, int64_t begin, int64_t end, void*) {
  for (int64_t panel = begin; panel < end; ++panel) pack_float_panel<F>(a, panel);
}
template <WeightFormat F>
void unpack_float(const PackedLinear& w, int64_t begin, int64_t end, float* out) {
  for (int64_t n = begin; n < end; ++n, out += w.k) unpack_float_row<F>(w, n, out);
}

// Layout and packing, without the products.
template <WeightFormat F>
constexpr LinearKernels packed_floats() {
  LinearKernels kernels{};
  kernels.layout = float_layout<F>;
  kernels.pack = pack_float<F>;
  kernels.unpack = unpack_float<F>;
  return kernels;
}

}  // namespace quire::QUIRE_ISA
