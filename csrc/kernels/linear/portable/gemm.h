// Micro-kernel of the blocked float linears in plain C++.
#pragma once

#include "linear/portable/cut.h"
#include "vec/portable.h"

namespace quire::QUIRE_ISA {

// c[6][16] += a[k][6]^T * b[k][16], one multiply-add per k and element, in order. Tiles of 2 x 8 fit any register file.
struct PortableGemm {
  static void run(int64_t k, const float* a, const float* b, float* c) {
    for (int64_t r = 0; r < kTileRows; r += 2)
      for (int64_t h = 0; h < kPanelColumns; h += 8) {
        F32x8 c0 = load(c + r * kPanelColumns + h), c1 = load(c + (r + 1) * kPanelColumns + h);
        for (int64_t i = 0; i < k; ++i) {
          const F32x8 w = load(b + i * kPanelColumns + h);
          c0 = fma(broadcast(a[i * kTileRows + r]), w, c0);
          c1 = fma(broadcast(a[i * kTileRows + r + 1]), w, c1);
        }
        store(c + r * kPanelColumns + h, c0);
        store(c + (r + 1) * kPanelColumns + h, c1);
      }
  }
};

}  // namespace quire::QUIRE_ISA
