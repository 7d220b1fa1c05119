// The rows of a checkpoint that a packed weight is made of.
#pragma once

#include "isa.h"
#include "kernel_types.h"

namespace quire::QUIRE_ISA {

// Row n of a weight that lies in several segments.
struct SourceRow {
  const uint8_t* data;
  DType dtype;
};
inline SourceRow source_row(const PackArgs& a, int64_t n) {
  for (int64_t s = 0; s < a.num_segments; ++s) {
    const RowSegment& segment = a.segments[s];
    if (n < segment.num_rows)
      return {static_cast<const uint8_t*>(segment.rows) + n * segment.row_stride * dtype_bytes(segment.dtype),
              segment.dtype};
    n -= segment.num_rows;
  }
  __builtin_trap();  // num_rows of the segments do not sum to n
}

}  // namespace quire::QUIRE_ISA
