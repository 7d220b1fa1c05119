// AVX-512 F, BW, DQ and VL.
#pragma once

#include <stdint.h>

#define QUIRE_ISA avx512
#define QUIRE_VECTORS "vec/avx512.h"
#define QUIRE_LANES 16

namespace quire::QUIRE_ISA {

constexpr int64_t kInt8Unit = 4;  // neighbouring inputs of a column in an int8 panel
constexpr uint8_t kInt8Flip = 0x80;  // int8 values are unsigned: value + 128
constexpr int64_t kTileQueries = 48;  // rows (query row, head) of an attention item, about

}  // namespace quire::QUIRE_ISA
