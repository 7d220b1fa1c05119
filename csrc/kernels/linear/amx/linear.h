// y = x @ W^T on AMX for bf16, int8 and int4 weights: 16 rows times four panels at once.
//
// bf16: tiles for every M (x rounded to bf16; sums of 32 inputs are added in order), so a row's bits depend on the row.
// Integers: tiles from 16 rows on. Their sums are exact and what follows has the order of linear/zmm/quantized.h: the bits
// are those of the table "avx512_vnni", which takes fewer rows.
#pragma once

#include "linear/amx/tiles.h"
#include "linear/zmm/quantized.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kAmxRows = 16;  // of a tile
constexpr int64_t kAmxPanels = 4;  // tiles 0-3 hold their sums, 4 holds x, 5 and 6 the weights
constexpr int64_t kAmxBlockRows = 192;  // of a work item
constexpr int64_t kAmxColumns = kAmxPanels * kPanelColumns;
constexpr int64_t kAmxStep = 32;  // bf16 inputs of a tile
constexpr int64_t kAmxChunk = 256;  // inputs between two visits of the sums when there are no groups

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
// x tiles of x_bytes a row (bytes or bf16), weights to match: four bytes of every column to a row.
QUIRE_INLINE void configure_tiles(int x_bytes) {
  TileConfig config;
  for (int t = 0; t < 7; ++t) {
    config.row_bytes[t] = static_cast<uint16_t>(t == 4 ? x_bytes : 64);
    config.rows[t] = static_cast<uint8_t>(t > 4 ? x_bytes / 4 : kAmxRows);
  }
  QUIRE_TILE_CONFIGURE(&config);
}

// Row blocks and where their tiles start: the last tile of all is moved up to end with the last row; only rows that
// no earlier tile has are written.
struct AmxItem {
  int64_t row_begin, row_end, panel, panels;
};
QUIRE_INLINE int64_t amx_row_blocks(int64_t m) { return ceil_div(m, kAmxBlockRows); }
QUIRE_INLINE int64_t amx_items(const PackedLinear& w, int64_t m) {
  return ceil_div(w.num_panels, kAmxPanels) * amx_row_blocks(m);
}
QUIRE_INLINE AmxItem amx_item(const LinearArgs& a, int64_t item) {
  AmxItem i;
  i.row_begin = item % amx_row_blocks(a.m) * kAmxBlockRows;
  i.row_end = min_of(a.m, i.row_begin + kAmxBlockRows);
  i.panel = item / amx_row_blocks(a.m) * kAmxPanels;
  i.panels = min_of(kAmxPanels, a.weight->num_panels - i.panel);
  return i;
}
QUIRE_INLINE int64_t tile_start(int64_t row, int64_t m) { return max_of(0, min_of(row, m - kAmxRows)); }

// --- bf16

QUIRE_INLINE int64_t amx_stride(const PackedLinear& w) { return round_up(w.k, kAmxStep) + kAmxStep; }
QUIRE_INLINE int64_t amx_copied_rows(int64_t m) { return max_of(m, kAmxRows); }
inline void amx_round_rows(const LinearArgs& a, int64_t begin, int64_t end, void*) {
  const int64_t k = a.weight->k, stride = amx_stride(*a.weight);
  for (int64_t row = begin; row < end; ++row) {
    uint16_t* out = static_cast<uint16_t*>(a.workspace) + row * stride;
    for (int64_t i = 0; i < stride; i += 16) {
      const __mmask16 lanes = row < a.m ? lanes16(max_of(k - i, 0)) : static_cast<__mmask16>(0);
      const F32x16 v = load16_part(lanes ? a.x + row * a.x_stride + i : a.x, lanes);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), (__m256i)_mm512_cvtneps_pbh(v));
    }
  }
}

// One tile of x times one of each panel. `line`: the panel's first of 16 lines of 64 bytes, there `lines` of them.
QUIRE_INLINE void amx_bf16_step(const uint16_t* x, int64_t x_stride, const uint8_t* weights, int64_t panel_bytes,
                                int64_t panels, int64_t lines) {
  alignas(64) uint8_t padded[kAmxPanels][1024];
  if (lines < 16) {
    __builtin_memset(padded, 0, sizeof padded);
    for (int64_t p = 0; p < panels; ++p)
      __builtin_memcpy(padded[p], weights + p * panel_bytes, static_cast<size_t>(lines * 64));
    weights = padded[0];
    panel_bytes = 1024;
  }
  QUIRE_TILE_LOAD(4, x, x_stride * 2);
  QUIRE_TILE_LOAD(5, weights, 64);
  QUIRE_TILE_DOT_BF16(0, 4, 5);
  if (panels < 2) return;
  QUIRE_TILE_LOAD(6, weights + panel_bytes, 64);
  QUIRE_TILE_DOT_BF16(1, 4, 6);
  if (panels < 3) return;
  QUIRE_TILE_LOAD(5, weights + 2 * panel_bytes, 64);
  QUIRE_TILE_DOT_BF16(2, 4, 5);
  if (panels < 4) return;
  QUIRE_TILE_LOAD(6, weights + 3 * panel_bytes, 64);
  QUIRE_TILE_DOT_BF16(3, 4, 6);
}

QUIRE_INLINE void zero_sums() {
  QUIRE_TILE_ZERO(0);
  QUIRE_TILE_ZERO(1);
  QUIRE_TILE_ZERO(2);
  QUIRE_TILE_ZERO(3);
}
// Tiles 0-3 -> [16][kAmxColumns] of four bytes.
QUIRE_INLINE void store_sums(void* sums) {
  uint8_t* out = static_cast<uint8_t*>(sums);
  QUIRE_TILE_STORE(0, out, kAmxColumns * 4);
  QUIRE_TILE_STORE(1, out + 64, kAmxColumns * 4);
  QUIRE_TILE_STORE(2, out + 128, kAmxColumns * 4);
  QUIRE_TILE_STORE(3, out + 192, kAmxColumns * 4);
}

inline void amx_bf16_items(const LinearArgs& a, int64_t begin, int64_t end, void*) {
  const PackedLinear& w = *a.weight;
  const int64_t stride = amx_stride(w), lines = ceil_div(w.k, 2);
  alignas(64) float sums[kAmxRows * kAmxColumns];
  configure_tiles(64);
  for (int64_t item = begin; item < end; ++item) {
    const AmxItem i = amx_item(a, item);
    for (int64_t row = i.row_begin; row < i.row_end; row += kAmxRows) {
      const int64_t start = tile_start(row, a.m);
      const uint16_t* x = static_cast<const uint16_t*>(a.workspace) + start * stride;
      zero_sums();
      for (int64_t line = 0; line < lines; line += 16)
        amx_bf16_step(x + line * 2, stride, panel_at(w, i.panel) + line * 64, w.panel_bytes, i.panels,
                      min_of(16, lines - line));
      store_sums(sums);
      finish_tile(a, row, min_of(kAmxRows, i.row_end - row), i.panel, i.panels, sums + (row - start) * kAmxColumns,
                  kAmxColumns, false);
    }
  }
  QUIRE_TILE_RELEASE();
}

// --- int8 and int4

// Values of `inputs` inputs of a panel as tiles read them: [inputs / 4][16][4] bytes.
template <WeightFormat F>
QUIRE_INLINE const uint8_t* amx_bytes(const uint8_t* panel, int64_t inputs, uint8_t* out) {
  if constexpr (F == WeightFormat::int8) return panel;
  const __m512i low = _mm512_set1_epi8(15);
  for (int64_t i = 0; i < inputs; i += 8, panel += 64) {
    const __m512i both = _mm512_loadu_si512(panel);
    _mm512_storeu_si512(out + i * 16, _mm512_and_si512(both, low));
    _mm512_storeu_si512(out + i * 16 + 64, _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
  }
  return out;
}

struct AmxGroup {
  const uint8_t* values[kAmxPanels];  // as amx_bytes gives them; panels that are not there repeat the last one
  const uint8_t* scales[kAmxPanels];
  int64_t first, dots;  // first dot of the row, dots
};

// Adds a group's products for the 16 rows from `start` on to sums [16][kAmxColumns].
template <Scales S>
void amx_group(const ZmmRows& q, int64_t start, const AmxGroup& g, float* sums) {
  alignas(64) float group[kAmxRows * kAmxColumns] = {};
  alignas(64) int32_t dots[kAmxRows * kAmxColumns];
  float* const into = S == Scales::none ? sums : group;
  for (int64_t d = 0; d < g.dots; ++d) {
    const int64_t dot = g.first + d, block = S == Scales::group16 ? dot / 2 : dot, at = d * q.dot * kPanelColumns;
    zero_sums();
    QUIRE_TILE_LOAD(4, q.values + start * q.stride + dot * q.dot, q.stride);
    QUIRE_TILE_LOAD(5, g.values[0] + at, 64);
    QUIRE_TILE_LOAD(6, g.values[1] + at, 64);
    QUIRE_TILE_DOT_S8_U8(0, 4, 5);
    QUIRE_TILE_DOT_S8_U8(1, 4, 6);
    QUIRE_TILE_LOAD(5, g.values[2] + at, 64);
    QUIRE_TILE_LOAD(6, g.values[3] + at, 64);
    QUIRE_TILE_DOT_S8_U8(2, 4, 5);
    QUIRE_TILE_DOT_S8_U8(3, 4, 6);
    store_sums(dots);
    for (int64_t p = 0; p < kAmxPanels; ++p) {
      F32x16 zero_point = {};
      if constexpr (S == Scales::zeros) zero_point = load16_f16(g.scales[p] + kPanelColumns * 2);
      for (int64_t r = 0; r < kAmxRows; ++r) {
        const int64_t row = start + r, out = r * kAmxColumns + p * kPanelColumns;
        const int32_t first = q.starts[dot * q.row_stride + row];
        I32x16 c = load16_i32(dots + out);
        if constexpr (S != Scales::zeros) c = c + first;
        F32x16 v = __builtin_convertvector(c, F32x16);
        if constexpr (S == Scales::zeros)
          v = fma16(-zero_point, _mm512_set1_ps(bits_to_f32(static_cast<uint32_t>(first))), v);
        store16(into + out, fma16(v, _mm512_set1_ps(q.scales[block * q.row_stride + row]), load16(into + out)));
      }
    }
  }
  if constexpr (S != Scales::none)
    for (int64_t i = 0; i < kAmxRows * kAmxColumns; i += 16)
      store16(sums + i, fma16(load16(group + i), load16_f16(g.scales[i % kAmxColumns / 16]), load16(sums + i)));
}

constexpr int64_t kAmxSumFloats = (kAmxBlockRows / kAmxRows) * kAmxRows * kAmxColumns;
constexpr int64_t kAmxScratchBytes = kAmxSumFloats * 4 + kAmxPanels * kInt8Block * kPanelColumns;

template <WeightFormat F, Scales S>
void amx_quantized_items(const LinearArgs& a, int64_t begin, int64_t end, float* sums) {
  const PackedLinear& w = *a.weight;
  const ZmmRows q = zmm_rows(w, a.m, a.workspace);
  uint8_t* bytes = reinterpret_cast<uint8_t*>(sums + kAmxSumFloats);
  const int64_t inputs = padded_inputs(w), unit = S == Scales::none ? kAmxChunk : w.group_size;
  const int64_t group_stride = S == Scales::none ? unit * kPanelColumns : group_bytes<F>(w);
  constexpr int64_t kPerByte = F == WeightFormat::int4 ? 2 : 1;
  configure_tiles(static_cast<int>(q.dot));
  for (int64_t item = begin; item < end; ++item) {
    const AmxItem i = amx_item(a, item);
    __builtin_memset(sums, 0, kAmxSumFloats * 4);
    for (int64_t k = 0; k < inputs; k += unit) {
      const int64_t count = min_of(unit, inputs - k);
      AmxGroup g;
      g.first = k / q.dot;
      g.dots = count / q.dot;
      for (int64_t p = 0; p < kAmxPanels; ++p) {
        const uint8_t* panel = panel_at(w, i.panel + min_of(p, i.panels - 1)) + k / unit * group_stride;
        g.values[p] = amx_bytes<F>(panel, count, bytes + p * kInt8Block * kPanelColumns);
        g.scales[p] = panel + count * kPanelColumns / kPerByte;
      }
      for (int64_t row = i.row_begin; row < i.row_end; row += kAmxRows)
        amx_group<S>(q, tile_start(row, a.m), g, sums + (row - i.row_begin) * kAmxColumns);
    }
    for (int64_t row = i.row_begin; row < i.row_end; row += kAmxRows)
      finish_tile(a, row, min_of(kAmxRows, i.row_end - row), i.panel, i.panels,
                  sums + (row - i.row_begin + row - tile_start(row, a.m)) * kAmxColumns, kAmxColumns, true);
  }
  QUIRE_TILE_RELEASE();
}

template <WeightFormat F>
void amx_quantized(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  const PackedLinear& w = *a.weight;
  float* const sums = static_cast<float*>(scratch);
  if constexpr (F == WeightFormat::int4) {
    if (w.has_zeros) return amx_quantized_items<F, Scales::zeros>(a, begin, end, sums);
    return amx_quantized_items<F, Scales::group>(a, begin, end, sums);
  } else {
    if (w.group_size == 0) return amx_quantized_items<F, Scales::none>(a, begin, end, sums);
    if (w.group_size == 16) return amx_quantized_items<F, Scales::group16>(a, begin, end, sums);
    return amx_quantized_items<F, Scales::group>(a, begin, end, sums);
  }
}

}  // namespace quire::QUIRE_ISA
