// How the 256-bit linears run over rows and panels, whatever the format.
//
// A work item is four panels times a block of rows. A tile runs over all inputs with its sums in registers and
// writes its results. One tile of rows reads memory; of more, each takes its share in fetching the next item's panels.
#pragma once

#include "linear/ymm/rows.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kWideGroups = 3;              // tiles of an item from which on widening its panels before pays
constexpr int64_t kSweepBytes = int64_t{512}
                                << 10;  // of weights that the tiles of an item pass over: a second-level cache's

// Panels that an item's rows pass over together.
QUIRE_INLINE int64_t sweep_panels(int64_t panel_bytes) {
  return max_of(1, min_of(YmmShape::kPanels, kSweepBytes / panel_bytes));
}

template <class Format>
QUIRE_INLINE int64_t wide_bytes(const PackedLinear& w) {
  return padded_inputs(w) * Format::kWideBytes;
}

// A tile of MR rows over neighbouring panels, NP at once.
template <int MR, int NP, bool kWide, class Format>
QUIRE_INLINE void run_tile(const LinearArgs& a, const Format& format, const TileRows& rows, int64_t panel,
                           const TileWeights& weights) {
  alignas(32) float sums[2 * MR * NP * kPanelColumns];
  expect_results(a, rows, panel, NP);
  format.template tile<MR, NP, kWide>(rows, weights, sums);
  format.finish(a, rows, panel, NP, sums);
}

// The only tile of an item. `next`: bytes from its first panel to the first that the thread needs next, 0 = not known.
template <class Format, int MR>
void run_lone_tile(const LinearArgs& a, const Format& format, int64_t panel, int64_t panel_end, int64_t next) {
  const PackedLinear& w = *a.weight;
  const TileRows rows = {0, MR};
  const int64_t first = panel;
  auto some = [&](auto count) __attribute__((always_inline)) {
    constexpr int NP = decltype(count)::value;
    const uint8_t* panels = panel_at(w, panel);
    const bool inside = panel + 2 * NP <= panel_end;
    const int64_t ahead = inside ? NP * w.panel_bytes : next ? next - (panel - first) * w.panel_bytes : kFetchNear;
    run_tile<MR, NP, false>(a, format, rows, panel,
                            {panels, w.panel_bytes, panels + ahead, w.panel_bytes / 64 * 64, nullptr, 0});
    panel += NP;
  };
  while (panel + Format::panels_at_once(MR) <= panel_end) some(Index<Format::panels_at_once(MR)>{});
  while (panel < panel_end) some(Index<1>{});
}

// Tiles [group0, group1) over panels [panel, panel_end), which are in `wide`. `ahead`: bytes to what is fetched meanwhile.
template <bool kWide, class Format>
void run_tiles(const LinearArgs& a, const Format& format, int64_t group0, int64_t group1, int64_t panel,
               int64_t panel_end, int64_t ahead, const uint8_t* wide) {
  const PackedLinear& w = *a.weight;
  const int64_t passes = group1 - group0, share = round_up(ceil_div(w.panel_bytes, passes), 64);
  for (int64_t g = group0; g < group1; ++g) {
    const TileRows rows = tile_rows(g, a.m);
    TileWeights t = {nullptr, w.panel_bytes, nullptr, ahead ? share : 0, wide, 0};
    if (ahead == kFetchNear) t.fetch_bytes = g == group0 ? share * passes : 0;
    for (int64_t p = panel; p < panel_end; ++p) {
      t.panels = panel_at(w, p);
      t.fetch = t.panels + ahead + (ahead == kFetchNear ? 0 : (g - group0) * share);
      t.wide = kWide ? wide + (p - panel) * wide_bytes<Format>(w) : nullptr;
      with_rows<YmmShape::kRows>(rows.count,
                                 [&](auto mr) { run_tile<decltype(mr)::value, 1, kWide>(a, format, rows, p, t); });
    }
  }
}

template <class Format>
void tiled_items(const LinearArgs& a, int64_t begin, int64_t end, void* scratch) {
  const PackedLinear& w = *a.weight;
  const RowCut cut = row_cut<YmmShape>(a.m);
  const Format format(a);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t block = item % cut.blocks, first = item / cut.blocks * YmmShape::kPanels;
    const int64_t last = min_of(w.num_panels, first + YmmShape::kPanels);
    const bool later = item + cut.blocks < end && last + YmmShape::kPanels <= w.num_panels;
    const int64_t next = later ? YmmShape::kPanels * w.panel_bytes : item + 1 == end ? a.next_bytes : 0;
    if (cut.groups == 1) {
      with_rows<YmmShape::kRows>(
          a.m, [&](auto mr) { run_lone_tile<Format, decltype(mr)::value>(a, format, first, last, next); });
      continue;
    }
    const int64_t group0 = block * cut.groups / cut.blocks, group1 = (block + 1) * cut.groups / cut.blocks;
    const int64_t ahead = block ? 0 : next ? next : kFetchNear;
    if constexpr (Format::kWideBytes > 0) {
      if (group1 - group0 >= kWideGroups && wide_bytes<Format>(w) <= kSweepBytes) {
        auto* wide = static_cast<uint8_t*>(scratch);
        const int64_t bytes = wide_bytes<Format>(w), width = sweep_panels(bytes);
        for (int64_t panel = first; panel < last; panel += width) {
          const int64_t panel_end = min_of(last, panel + width);
          for (int64_t p = panel; p < panel_end; ++p) format.widen(w, p, wide + (p - panel) * bytes);
          run_tiles<true>(a, format, group0, group1, panel, panel_end, ahead, wide);
        }
        continue;
      }
    }
    for (int64_t panel = first, width = sweep_panels(w.panel_bytes); panel < last; panel += width)
      run_tiles<false>(a, format, group0, group1, panel, min_of(last, panel + width), ahead, nullptr);
  }
}

inline int64_t tile_count(const PackedLinear&, int64_t m) { return row_cut<YmmShape>(m).groups; }
inline int64_t rows_of_tile(const PackedLinear&, int64_t m) { return tile_height(m); }

}  // namespace quire::QUIRE_ISA
