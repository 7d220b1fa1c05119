// NEON with the dot product extension (sdot).
#pragma once

#include <stdint.h>

#define QUIRE_ISA neon_dotprod
#define QUIRE_VECTORS "vec/neon.h"
#define QUIRE_LANES 8
#define QUIRE_VECTOR_PAIRS

namespace quire::QUIRE_ISA {

constexpr int64_t kInt8Unit = 4;  // neighbouring inputs of a column in an int8 panel
constexpr uint8_t kInt8Flip = 0;  // int8 values are signed
constexpr int64_t kTileQueries = 48;  // rows (query row, head) of an attention item, about

}  // namespace quire::QUIRE_ISA
