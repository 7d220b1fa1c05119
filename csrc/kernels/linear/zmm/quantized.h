// y = x @ W^T for int8 and int4 weights and rows in signed bytes, with 512-bit vectors: one vector is four inputs of the
// 16 columns of a panel.
//
// Dot products of 32 (or 16) inputs are exact in int32. They are added in f32, in order, each with its activation
// scale, over a group of weights; groups are added with the weights' scale. Tiles and chunks do not change that order.
#pragma once

#include "linear/zmm/quantize.h"
#include "linear/zmm/rows.h"

namespace quire::QUIRE_ISA {

struct QuantizedShape {
#ifdef __AVX512VNNI__
  static constexpr int kRows = 6, kPanels = 2;  // 12 dots, 12 sums, 2 (int4: 4) vectors of weights, 1 of x
#else
  static constexpr int kRows = 4, kPanels = 2;        // products take registers too
#endif
  static constexpr int kFewRows = 2, kFewPanels = 4;
  static constexpr int64_t kBlockRows = 192;
};
constexpr int64_t kQuantizedDepth = 512;  // inputs of a chunk: at most 16 KiB of weights
constexpr int64_t kFetchNear = 2048;  // bytes ahead in a panel to be fetched where no next item is known

// sum[i] + the products of the four bytes of lane i; w unsigned (kSmall: below 16), x signed.
template <bool kSmall>
QUIRE_INLINE I32x16 dot_u8(I32x16 sum, I32x16 w, I32x16 x) {
#ifdef __AVX512VNNI__
  I32x16 v = (I32x16)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
  __asm__("" : "+v"(v));  // sums may be regrouped by the compiler, which then runs out of registers
  return v;
#else
  __m512i products;
  if constexpr (kSmall) {
    products = _mm512_madd_epi16(_mm512_maddubs_epi16((__m512i)w, (__m512i)x), _mm512_set1_epi16(1));
  } else {  // 16-bit sums would saturate: even and odd bytes apart
    const __m512i even = _mm512_srai_epi16(_mm512_slli_epi16((__m512i)x, 8), 8), odd = _mm512_srai_epi16((__m512i)x, 8);
    products = _mm512_add_epi32(_mm512_madd_epi16(_mm512_and_si512((__m512i)w, _mm512_set1_epi16(255)), even),
                                _mm512_madd_epi16(_mm512_srli_epi16((__m512i)w, 8), odd));
  }
  I32x16 v = (I32x16)_mm512_add_epi32((__m512i)sum, products);
  __asm__("" : "+v"(v));
  return v;
#endif
}

// What a tile reads: x at its first row and input, panels at its first group.
struct QuantizedTile {
  const int8_t* x;
  const float* x_scales;  // [blocks][row_stride]
  const int32_t* starts;  // [dots][row_stride]
  int64_t x_stride, row_stride;
  const uint8_t* panels;
  int64_t panel_bytes;
  const uint8_t* fetch;  // lines of each panel that a later tile reads, to be fetched while this one computes:
  int64_t fetch_lines, lines_per_dot;  // so many in all, so many with a dot product
  int64_t groups, dots_per_group;  // no scales: one group
  float* sums;  // [MR][NP * 16]
  bool start;
  float* y;  // not null: where the results will go after the tile's last input, to be fetched
  int64_t y_stride;
};

// How sums are scaled. Groups of 32 inputs are one dot product: their sums stay in registers over the groups.
enum class Scales { none, group32, group, group16, zeros };

template <WeightFormat F, Scales S, int MR, int NP>
__attribute__((noinline, flatten)) void quantized_tile(const QuantizedTile& t) {
  constexpr bool int4 = F == WeightFormat::int4, running = S == Scales::none || S == Scales::group32;
  constexpr int64_t dot_bytes = (S == Scales::group16 ? 16 : 32) * kPanelColumns / (int4 ? 2 : 1);
  constexpr int lines = dot_bytes / 64;
  constexpr int64_t scale_bytes = S == Scales::none ? 0 : S == Scales::zeros ? kPanelColumns * 4 : kPanelColumns * 2;
  const int8_t* x = t.x;
  const int64_t x_stride = t.x_stride, row_stride = t.row_stride, panel_bytes = t.panel_bytes;
  const uint8_t* fetch = t.fetch;
  const uint8_t* const fetch_end = fetch + t.fetch_lines * 64;
  const int64_t fetch_step = t.lines_per_dot * 64;
  const float* x_scale = t.x_scales;
  const int32_t* starts = t.starts;
  const uint8_t* panel = t.panels;
  float* const sums = t.sums;
  if (t.y)
    for (int r = 0; r < MR; ++r)
      for (int p = 0; p < NP; ++p) __builtin_prefetch(t.y + r * t.y_stride + p * kPanelColumns, 1, 3);
  F32x16 group[MR * NP];
  if (running) {
    if (t.start) unroll<MR * NP>([&](auto i) { group[i] = zero16(); });
    else unroll<MR * NP>([&](auto i) { group[i] = load16(sums + i * 16); });
  } else if (t.start) {
    unroll<MR * NP>([&](auto i) { store16(sums + i * 16, zero16()); });
  }
  for (int64_t g = 0; g < t.groups; ++g) {
    if (!running) unroll<MR * NP>([&](auto i) { group[i] = zero16(); });
    const int64_t dots = S == Scales::group32 ? 1 : t.dots_per_group;
    const uint8_t* scales = panel + dots * dot_bytes;
    for (int64_t d = 0; d < dots; ++d) {
      if (fetch < fetch_end) {
        for (int64_t line = 0; line < fetch_step; line += 64)
          for (int p = 0; p < NP; ++p) __builtin_prefetch(fetch + p * panel_bytes + line);
        fetch += fetch_step;
      }
      I32x16 c[MR * NP];
      unroll<MR>([&](auto r) {
        unroll<NP>(
            [&](auto p) { c[r * NP + p] = S == Scales::zeros ? fresh_zero16_i32() : broadcast16_i32(starts + r); });
      });
      unroll<lines>([&](auto line) {
        I32x16 w[NP], high[NP];
        unroll<NP>([&](auto p) {
          w[p] = load16_i32(panel + p * panel_bytes + line * 64);
          if constexpr (int4) {
            high[p] = low_nibbles16((I32x16)_mm512_srli_epi16((__m512i)w[p], 4));
            w[p] = low_nibbles16(w[p]);
          }
        });
        unroll<MR>([&](auto r) {
          const int8_t* at = x + r * x_stride + line * (int4 ? 8 : 4);
          const I32x16 x0 = broadcast16_i32(at);
          unroll<NP>([&](auto p) { c[r * NP + p] = dot_u8<int4>(c[r * NP + p], w[p], x0); });
          if constexpr (int4) {
            const I32x16 x1 = broadcast16_i32(at + 4);
            unroll<NP>([&](auto p) { c[r * NP + p] = dot_u8<int4>(c[r * NP + p], high[p], x1); });
          }
        });
      });
      unroll<NP>([&](auto p) {
        F32x16 scale = {};  // the zero points, where they are
        if constexpr (S == Scales::zeros) scale = load16_f16(scales + p * panel_bytes + kPanelColumns * 2);
        if constexpr (S == Scales::group32) scale = load16_f16(scales + p * panel_bytes);
        unroll<MR>([&](auto r) {
          F32x16 v = __builtin_convertvector(c[r * NP + p], F32x16);
          if constexpr (S == Scales::zeros)
            v = subtract_product16(v, scale, reinterpret_cast<const float*>(starts) + r);
          if constexpr (S == Scales::group32)
            group[r * NP + p] = accumulate16(group[r * NP + p], multiply16(v, x_scale + r), scale);
          else group[r * NP + p] = accumulate16(group[r * NP + p], v, x_scale + r);
        });
      });
      panel += dot_bytes;
      starts += row_stride;
      x += S == Scales::group16 ? 16 : 32;
      if (S != Scales::group16 || g % 2) x_scale += row_stride;  // chunks start with an even group
    }
    if (!running)
      unroll<NP>([&](auto p) {
        const F32x16 scale = load16_f16(scales + p * panel_bytes);
        unroll<MR>([&](auto r) {
          float* at = sums + (r * NP + p) * 16;
          store16(at, fma16(group[r * NP + p], scale, load16(at)));
        });
      });
    panel += scale_bytes;
  }
  if (running) unroll<MR * NP>([&](auto i) { store16(sums + i * 16, group[i]); });
}

template <WeightFormat F, Scales S, int NP, int MaxRows>
void quantized_panels(const LinearArgs& a, const ZmmRows& q, int64_t block, int64_t panel, int64_t ahead,
                      float* scratch) {
  const PackedLinear& w = *a.weight;
  const RowCut cut = row_cut<QuantizedShape>(a.m);
  const int64_t group0 = block * cut.groups / cut.blocks, group1 = (block + 1) * cut.groups / cut.blocks;
  const int64_t first = group_row(group0, cut.groups, a.m), inputs = padded_inputs(w);
  constexpr int64_t columns = NP * kPanelColumns;
  const int64_t unit = S == Scales::none ? kXBlock : w.group_size;  // inputs of a group
  const int64_t chunk = cut.groups == 1 ? round_up(inputs, 32) : round_up(kQuantizedDepth, unit);
  for (int64_t k = 0; k < inputs; k += chunk) {
    const int64_t count = min_of(chunk, inputs - k);
    QuantizedTile t;
    t.x_stride = q.stride;
    t.row_stride = q.row_stride;
    t.panels = panel_at(w, panel) + (S == Scales::none ? k * kPanelColumns : k / unit * group_bytes<F>(w));
    t.panel_bytes = w.panel_bytes;
    t.groups = S == Scales::none ? 1 : count / unit;
    t.dots_per_group = (S == Scales::none ? count : unit) / q.dot;
    t.start = k == 0;
    const bool last = k + count == inputs;
    t.y_stride = a.y_stride;
    const int64_t lines =
        ahead ? ceil_div(S == Scales::none ? count * kPanelColumns : t.groups * group_bytes<F>(w), 64) : 0;
    // The next item's lines are spread over all passes; of this item's own the first is in need.
    const int64_t passes = ahead == kFetchNear ? 1 : group1 - group0;
    t.fetch_lines = ceil_div(lines, passes);
    t.lines_per_dot = ceil_div(t.fetch_lines, t.groups * t.dots_per_group);
    for (int64_t g = group0; g < group1; ++g) {
      const int64_t row = group_row(g, cut.groups, a.m), rows = group_row(g + 1, cut.groups, a.m) - row;
      t.fetch = t.panels + ahead + (g - group0) * t.fetch_lines * 64;
      if (g - group0 == passes) t.fetch_lines = 0;
      t.y = last ? a.y + row * a.y_stride + panel * kPanelColumns : nullptr;
      t.x = q.values + row * q.stride + k;
      t.x_scales = q.scales + k / kXBlock * q.row_stride + row;
      t.starts = q.starts + k / q.dot * q.row_stride + row;
      t.sums = scratch + (row - first) * columns;
      with_rows<MaxRows>(rows, [&](auto mr) { quantized_tile<F, S, decltype(mr)::value, NP>(t); });
      if (last) finish_tile(a, row, rows, panel, NP, t.sums, columns, true);
    }
  }
}

template <WeightFormat F, Scales S>
void quantized_items(const LinearArgs& a, int64_t begin, int64_t end, float* scratch) {
  using Shape = QuantizedShape;
  const ZmmRows q = zmm_rows(*a.weight, a.m, a.workspace);
  const int64_t width = item_panels<Shape>(a.m), blocks = row_cut<Shape>(a.m).blocks;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t block = item % blocks, panel_end = min_of(a.weight->num_panels, (item / blocks + 1) * width);
    int64_t panel = item / blocks * width;
    // The weights that this thread reads next are fetched while it computes: the same place of its next item. Few rows of
    // int8 wait for nothing but memory, which four streams keep busy by themselves.
    const bool fetches = (F == WeightFormat::int4 || a.m > Shape::kFewRows) && block == 0;
    const bool next = item + blocks < end && panel_end + width <= a.weight->num_panels;
    const int64_t ahead = !fetches       ? 0
                          : next         ? width * a.weight->panel_bytes
                          : a.next_bytes ? a.next_bytes
                                         : kFetchNear;
    if (panel_end - panel == width) {
      if (a.m <= Shape::kFewRows)
        quantized_panels<F, S, Shape::kFewPanels, Shape::kFewRows>(a, q, block, panel, ahead, scratch);
      else quantized_panels<F, S, Shape::kPanels, Shape::kRows>(a, q, block, panel, ahead, scratch);
    } else {
      for (; panel < panel_end; ++panel) quantized_panels<F, S, 1, Shape::kRows>(a, q, block, panel, 0, scratch);
    }
  }
}

template <WeightFormat F>
void quantized_linear(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  const PackedLinear& w = *a.weight;
  float* const sums = static_cast<float*>(scratch);
  if constexpr (F == WeightFormat::int4) {
    if (w.has_zeros) return quantized_items<F, Scales::zeros>(a, begin, end, sums);
    if (w.group_size == 32) return quantized_items<F, Scales::group32>(a, begin, end, sums);
    return quantized_items<F, Scales::group>(a, begin, end, sums);
  } else {
    if (w.group_size == 0) return quantized_items<F, Scales::none>(a, begin, end, sums);
    if (w.group_size == 16) return quantized_items<F, Scales::group16>(a, begin, end, sums);
    if (w.group_size == 32) return quantized_items<F, Scales::group32>(a, begin, end, sums);
    return quantized_items<F, Scales::group>(a, begin, end, sums);
  }
}

// Puts these products in the place of others of the same layout and preparation.
template <WeightFormat F>
constexpr void set_quantized_products(LinearKernels& kernels) {
  kernels.items = cut_items<QuantizedShape>;
  kernels.scratch_bytes = cut_scratch_bytes<QuantizedShape>;
  kernels.run = quantized_linear<F>;
}

}  // namespace quire::QUIRE_ISA
