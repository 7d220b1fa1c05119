// How the portable and NEON linears cut rows and panels into work items and tiles.
#pragma once

#include "linear/layout.h"

namespace quire::QUIRE_ISA {

constexpr int64_t kItemPanels = 4;      // panels in a work item of linear
constexpr int64_t kTileRows = 6;        // rows of the blocked micro-kernel
constexpr int64_t kBlockedRows = 48;    // from this many rows on, packing x and widening panels pays
constexpr int64_t kRowBlock = 192;      // rows per work item of the blocked kernels
constexpr int64_t kDepth = 256;         // inputs per block of the blocked kernels

// One panel at a time is a single read stream, which the hardware does not run far enough ahead of; several
// streams are quicker without help (and slower with it).
template <int NP>
constexpr int64_t kAheadBytes = NP == 1 ? 1024 : 0;

// Calls rows(Index<MR>, row0) for all rows of a direct linear, few at a time. With many rows the first group is
// the one that reads memory: two rows do that fastest; the others find the item's panels in cache.
template <int64_t MaxRows, class F>
QUIRE_INLINE void for_row_groups(int64_t m, F&& rows) {
  int64_t row0 = 0;
  if (m >= 6) {
    rows(Index<2>{}, row0);
    row0 = 2;
  }
  while (row0 < m) {
    const int64_t left = m - row0, count = left <= MaxRows ? left : 4;
    switch (count) {
      case 1: rows(Index<1>{}, row0); break;
      case 2: rows(Index<2>{}, row0); break;
      case 3: rows(Index<3>{}, row0); break;
      case 4: rows(Index<4>{}, row0); break;
      default:
        if constexpr (MaxRows >= 5) rows(Index<5>{}, row0);
        break;
    }
    row0 += count;
  }
}

// How a blocked linear is cut: row blocks of equal height (a multiple of kTileRows) times items of panels.
struct BlockedShape {
  int64_t row_groups;        // of kTileRows
  int64_t row_blocks;
  int64_t groups_per_block;
  int64_t column_items;
};
QUIRE_INLINE BlockedShape blocked_shape(const PackedLinear& w, int64_t m) {
  BlockedShape s;
  s.row_groups = ceil_div(m, kTileRows);
  s.row_blocks = ceil_div(s.row_groups, kRowBlock / kTileRows);
  s.groups_per_block = ceil_div(s.row_groups, s.row_blocks);
  s.column_items = ceil_div(w.num_panels, kItemPanels);
  return s;
}

constexpr int64_t kTileFloats = kTileRows * kPanelColumns;
constexpr int64_t kSumFloats = kRowBlock * kPanelColumns * kItemPanels;  // sums of one item

inline int64_t blocked_items(const PackedLinear& w, int64_t m) {
  const BlockedShape s = blocked_shape(w, m);
  return m < kBlockedRows ? s.column_items : s.column_items * s.row_blocks;
}
inline int64_t blocked_scratch_bytes(const PackedLinear&, int64_t m) {
  return m < kBlockedRows ? 0 : (kSumFloats + kDepth * kPanelColumns) * 4;
}
inline int64_t one_row(const PackedLinear&, int64_t) { return 1; }

}  // namespace quire::QUIRE_ISA
