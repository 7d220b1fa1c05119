// Plain C++.
#pragma once

#include <stdint.h>

#define QUIRE_ISA portable
#define QUIRE_VECTORS "vec/portable.h"
#define QUIRE_LANES 8

namespace quire::QUIRE_ISA {

constexpr int64_t kInt8Unit = 2;  // neighbouring inputs of a column in an int8 panel
constexpr uint8_t kInt8Flip = 0;  // int8 values are signed
constexpr int64_t kTileQueries = 48;  // rows (query row, head) of an attention item, about

}  // namespace quire::QUIRE_ISA
