// The gate of a gated linear.
#pragma once

#include "isa.h"
#include "kernel_types.h"

namespace quire::QUIRE_ISA {

// The last step of a gated linear: y = act(y) * tile for rows of `columns` columns, y at their first.
inline void gate_tile(const LinearArgs& a, int64_t rows, int64_t columns, const float* tile, int64_t tile_stride,
                      float* y) {
  ActivationArgs args;
  args.act = a.act;
  args.x = y;
  args.x_stride = a.y_stride;
  args.up = tile;
  args.up_stride = tile_stride;
  args.dim = columns;
  args.y = y;
  args.y_stride = a.y_stride;
  a.gate(args, 0, rows, nullptr);
}

}  // namespace quire::QUIRE_ISA
