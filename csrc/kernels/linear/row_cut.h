// How rows and panels of a tiled linear become work items and tiles.
//
// A Shape has kRows (rows of the highest tile), kBlockRows (rows of an item), kPanels (panels of an item), and for
// kFewRows rows and less kFewPanels.
#pragma once

#include "kernel_types.h"
#include "vec/scalar.h"

namespace quire::QUIRE_ISA {

struct RowCut {
  int64_t blocks;         // row blocks, one work item each per column item
  int64_t groups;         // tiles over all rows
};

template <class Shape>
QUIRE_INLINE RowCut row_cut(int64_t m) {
  const int64_t groups = ceil_div(m, Shape::kRows);
  return {ceil_div(groups, Shape::kBlockRows / Shape::kRows), groups};
}
// First row of group g of the m rows.
QUIRE_INLINE int64_t group_row(int64_t g, int64_t groups, int64_t m) { return g * m / groups; }

template <class Shape>
QUIRE_INLINE int64_t item_panels(int64_t m) {
  return m <= Shape::kFewRows ? Shape::kFewPanels : Shape::kPanels;
}

template <class Shape>
int64_t cut_items(const PackedLinear& w, int64_t m) {
  return ceil_div(w.num_panels, item_panels<Shape>(m)) * row_cut<Shape>(m).blocks;
}
// Calls f(Index<rows>{}) for rows = 1 .. Max.
template <int Max, class F>
QUIRE_INLINE void with_rows(int64_t rows, F&& f) {
  unroll<Max>([&](auto i) {
    if (rows == i + 1) f(Index<decltype(i)::value + 1>{});
  });
}

}  // namespace quire::QUIRE_ISA
