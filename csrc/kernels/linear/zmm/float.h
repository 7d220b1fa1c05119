// y = x @ W^T for f32, bf16 and f16 weights with 512-bit vectors: one vector is the 16 columns of a panel.
//
//
// Every output element is one chain of multiply-adds over the inputs in order, in every tile and chunk, so a row has
// the same bits whatever M is.
#pragma once

#include "linear/zmm/rows.h"

namespace quire::QUIRE_ISA {

struct FloatShape {
  static constexpr int kRows = 8, kPanels = 3;        // 24 sums, 3 (widened: 6) vectors of weights, 1 of x
  static constexpr int kFewRows = 4, kFewPanels = 4;  // four streams from memory
  static constexpr int64_t kBlockRows = 192;
  static constexpr int64_t kPassBytes = 96 << 10;  // of a panel; three stay in the second-level cache
  static constexpr int64_t kAhead = 3 << 10;       // bytes of a panel that more than kFewRows rows ask for ahead
};

// What a format does with one line of a panel: kInputs inputs of 16 columns, kBytes.
template <WeightFormat F>
struct FloatStep;
template <>
struct FloatStep<WeightFormat::f32> {
  using X = float;
  static constexpr int kInputs = 1, kBytes = 64;
  template <int MR, int NP, class Row, class Line>
  static QUIRE_INLINE void run(F32x16* c, Row&& row, Line&& line) {
    F32x16 w[NP];
    unroll<NP>([&](auto p) { w[p] = load16(reinterpret_cast<const float*>(line(p))); });
    unroll<MR>([&](auto r) {
      const F32x16 x = broadcast16(row(r)[0]);
      unroll<NP>([&](auto p) { c[r * NP + p] = accumulate16(c[r * NP + p], x, w[p]); });
    });
  }
};
template <>
struct FloatStep<WeightFormat::f16> {
  using X = float;
  static constexpr int kInputs = 1, kBytes = 32;
  template <int MR, int NP, class Row, class Line>
  static QUIRE_INLINE void run(F32x16* c, Row&& row, Line&& line) {
    F32x16 w[NP];
    unroll<NP>([&](auto p) { w[p] = load16_f16(line(p)); });
    unroll<MR>([&](auto r) {
      const F32x16 x = broadcast16(row(r)[0]);
      unroll<NP>([&](auto p) { c[r * NP + p] = accumulate16(c[r * NP + p], x, w[p]); });
    });
  }
};
#ifdef QUIRE_BF16_DOT
// x is rounded to bf16 by linear_prepare; products of pairs are added as vdpbf16ps does it.
template <>
struct FloatStep<WeightFormat::bf16> {
  using X = uint16_t;
  static constexpr int kInputs = 2, kBytes = 64;
  template <int MR, int NP, class Row, class Line>
  static QUIRE_INLINE void run(F32x16* c, Row&& row, Line&& line) {
    I32x16 w[NP];
    unroll<NP>([&](auto p) { w[p] = load16_i32(line(p)); });
    unroll<MR>([&](auto r) {
      const I32x16 x = broadcast16_i32(row(r));
      unroll<NP>([&](auto p) { c[r * NP + p] = _mm512_dpbf16_ps(c[r * NP + p], (__m512bh)x, (__m512bh)w[p]); });
    });
  }
};
#else
template <>
struct FloatStep<WeightFormat::bf16> {
  using X = float;
  static constexpr int kInputs = 2, kBytes = 64;
  template <int MR, int NP, class Row, class Line>
  static QUIRE_INLINE void run(F32x16* c, Row&& row, Line&& line) {
    F32x16 even[NP], odd[NP];
    unroll<NP>([&](auto p) {
      const __m512i pair = (__m512i)load16_i32(line(p));
      even[p] = (F32x16)_mm512_slli_epi32(pair, 16);
      odd[p] =
          (F32x16)_mm512_maskz_mov_epi16(0xaaaaaaaau, pair);  // a mask register, where a vector would be one too many
    });
    unroll<MR>([&](auto r) {
      const F32x16 x = broadcast16(row(r)[0]);
      unroll<NP>([&](auto p) { c[r * NP + p] = accumulate16(c[r * NP + p], x, even[p]); });
    });
    unroll<MR>([&](auto r) {
      const F32x16 x = broadcast16(row(r)[1]);
      unroll<NP>([&](auto p) { c[r * NP + p] = accumulate16(c[r * NP + p], x, odd[p]); });
    });
  }
};
#endif

// MR rows x NP panels over `lines` lines, added to sums [MR][NP * 16] unless they are to be started. More rows than
// FloatShape::kFewRows compute for so long that loads do not run far enough ahead by themselves: they prefetch. `tail`:
// how many bytes ahead in the last FloatShape::kAhead bytes.
template <WeightFormat F, int MR, int NP>
__attribute__((noinline)) void float_tile(const typename FloatStep<F>::X* x, int64_t x_stride, int64_t lines,
                                          const uint8_t* panels, int64_t panel_bytes, bool start, float* sums,
                                          int64_t tail) {
  using S = FloatStep<F>;
  F32x16 c[MR * NP];
  if (start) unroll<MR * NP>([&](auto i) { c[i] = zero16(); });
  else unroll<MR * NP>([&](auto i) { c[i] = load16(sums + i * 16); });
  const typename S::X* row[MR];
  unroll<MR>([&](auto r) { row[r] = x + r * x_stride; });
  const uint8_t* base[NP];
  unroll<NP>([&](auto p) { base[p] = panels + p * panel_bytes; });
  auto step = [&](int64_t i) __attribute__((always_inline)) {
    S::template run<MR, NP>(
        c, [&](int r) { return row[r] + i * S::kInputs; }, [&](int p) { return base[p] + i * S::kBytes; });
  };
  int64_t i = 0;
  if constexpr (MR > FloatShape::kFewRows) {
    const int64_t last = max_of(lines - FloatShape::kAhead / S::kBytes, 0);
    for (int64_t ahead = FloatShape::kAhead; i < lines; ++i) {
      if (i == last) ahead = tail;
      for (int p = 0; p < NP; ++p) prefetch(base[p] + i * S::kBytes + ahead);
      step(i);
    }
  } else {
    if constexpr (MR <= 2)  // a whole cache line, and enough of them to hide the loop
      for (; i + 4 <= lines; i += 4) unroll<4>([&](auto u) { step(i + u); });
    for (; i < lines; ++i) step(i);
  }
  unroll<MR * NP>([&](auto j) { store16(sums + j * 16, c[j]); });
}

// Rows of x as the tiles read them: the caller's own, or a copy made by linear_prepare, whose stride is no multiple of
// 4 KiB (rows a power of two apart would compete for the same few cache ways).
template <WeightFormat F>
QUIRE_INLINE bool copies_rows(const PackedLinear& w, int64_t m) {
  using S = FloatStep<F>;
  return sizeof(typename S::X) != 4 || w.k % S::kInputs || m > FloatShape::kRows;
}
template <WeightFormat F>
QUIRE_INLINE int64_t copied_stride(const PackedLinear& w) {
  return round_up(w.k, 64) + 64 / static_cast<int64_t>(sizeof(typename FloatStep<F>::X));
}
template <WeightFormat F>
int64_t float_workspace_bytes(const PackedLinear& w, int64_t m) {
  return copies_rows<F>(w, m) ? m * copied_stride<F>(w) * static_cast<int64_t>(sizeof(typename FloatStep<F>::X)) : 0;
}

template <WeightFormat F>
void copy_rows(const LinearArgs& a, int64_t begin, int64_t end, void*) {
  using X = typename FloatStep<F>::X;
  const int64_t k = a.weight->k, stride = copied_stride<F>(*a.weight);
  for (int64_t row = begin; row < end; ++row) {
    const float* x = a.x + row * a.x_stride;
    X* out = static_cast<X*>(a.workspace) + row * stride;
    for (int64_t i = 0; i < round_up(k, 2); i += 16) {
      const F32x16 v = load16_part(x + i, lanes16(max_of(k - i, 0)));  // a lone last input is paired with zero
#ifdef QUIRE_BF16_DOT
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), (__m256i)_mm512_cvtneps_pbh(v));
#else
      store16(out + i, v);
#endif
    }
  }
}

template <WeightFormat F>
struct FloatRows {
  const typename FloatStep<F>::X* x;
  int64_t stride;
};
template <WeightFormat F>
QUIRE_INLINE FloatRows<F> float_rows(const LinearArgs& a) {
  using X = typename FloatStep<F>::X;
  if (copies_rows<F>(*a.weight, a.m)) return {static_cast<const X*>(a.workspace), copied_stride<F>(*a.weight)};
  return {reinterpret_cast<const X*>(a.x), a.x_stride};
}

// Asks for the lines of y that a tile will write: they lie far apart, and the stores would wait for them.
QUIRE_INLINE void expect_rows(const LinearArgs& a, int64_t row, int64_t rows, int64_t panel, int64_t panels) {
  for (int64_t r = row; r < row + rows; ++r)
    for (int64_t p = panel; p < panel + panels; ++p) prefetch_to_write(a.y + r * a.y_stride + p * kPanelColumns);
}

// `next`: bytes from these panels to those that this thread needs next, 0 = not known.
template <WeightFormat F, int NP, int MaxRows>
void float_panels(const LinearArgs& a, int64_t block, int64_t panel, int64_t next, float* scratch) {
  using S = FloatStep<F>;
  using Shape = FloatShape;
  const PackedLinear& w = *a.weight;
  const FloatRows<F> x = float_rows<F>(a);
  const RowCut cut = row_cut<Shape>(a.m);
  const int64_t group0 = block * cut.groups / cut.blocks, group1 = (block + 1) * cut.groups / cut.blocks;
  const int64_t first = group_row(group0, cut.groups, a.m), lines = ceil_div(w.k, S::kInputs);
  constexpr int64_t columns = NP * kPanelColumns;
  const int64_t passes = cut.groups == 1 ? 1 : ceil_div(lines * S::kBytes, Shape::kPassBytes),
                chunk = ceil_div(lines, passes);
  for (int64_t line = 0; line < lines; line += chunk) {
    const uint8_t* panels = panel_at(w, panel) + line * S::kBytes;
    const int64_t count = min_of(chunk, lines - line);
    const bool last = line + count == lines;
    for (int64_t g = group0; g < group1; ++g) {
      const int64_t row = group_row(g, cut.groups, a.m), rows = group_row(g + 1, cut.groups, a.m) - row;
      const int64_t tail = Shape::kAhead + (last && next && g + 1 == group1 ? next - w.panel_bytes : 0);
      float* sums = scratch + (passes == 1 ? 0 : (row - first) * columns);
      if (last) expect_rows(a, row, rows, panel, NP);
      with_rows<MaxRows>(rows, [&](auto mr) {
        float_tile<F, decltype(mr)::value, NP>(x.x + row * x.stride + line * S::kInputs, x.stride, count, panels,
                                               w.panel_bytes, line == 0, sums, tail);
      });
      if (last) finish_tile(a, row, rows, panel, NP, sums, columns, false);
    }
  }
}

template <WeightFormat F>
void float_items(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  float* const sums = static_cast<float*>(scratch);
  using Shape = FloatShape;
  const int64_t width = item_panels<Shape>(a.m), blocks = row_cut<Shape>(a.m).blocks;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t block = item % blocks, panel_end = min_of(a.weight->num_panels, (item / blocks + 1) * width);
    const int64_t next = item + 1 == end ? a.next_bytes : blocks == 1 ? width * a.weight->panel_bytes : 0;
    int64_t panel = item / blocks * width;
    if (panel_end - panel == width) {
      if (a.m <= Shape::kFewRows) float_panels<F, Shape::kFewPanels, Shape::kFewRows>(a, block, panel, next, sums);
      else float_panels<F, Shape::kPanels, Shape::kRows>(a, block, panel, next, sums);
    } else {
      for (; panel < panel_end; ++panel) float_panels<F, 1, Shape::kRows>(a, block, panel, 0, sums);
    }
  }
}

template <WeightFormat F>
int64_t copied_rows(const PackedLinear& w, int64_t m) {
  return copies_rows<F>(w, m) ? m : 0;
}

// Puts these products in the place of others of the same layout.
template <WeightFormat F>
constexpr void set_float_products(LinearKernels& kernels) {
  kernels.workspace_bytes = float_workspace_bytes<F>;
  kernels.prepare_items = copied_rows<F>;
  kernels.prepare = copy_rows<F>;
  kernels.prepare_rows = one_row;
  kernels.items = cut_items<FloatShape>;
  kernels.scratch_bytes = cut_scratch_bytes<FloatShape>;
  kernels.run = float_items<F>;
}

}  // namespace quire::QUIRE_ISA
