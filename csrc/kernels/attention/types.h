// What the attention tiles of every width share.
#pragma once

#include <stdint.h>

#include "isa.h"

namespace quire::QUIRE_ISA {

// Keys [first, last) of a block that a row sees.
struct KeyRange {
  int64_t first;
  int64_t last;
};

struct ScoreRule {
  float softcap;
  float slope;        // ALiBi, 0 = none
  float first_offset; // (index of the block's first key) - (index of the row)
  const float* k_scales = nullptr;  // of a quantized block's keys and values
  const float* v_scales = nullptr;
};

}  // namespace quire::QUIRE_ISA
