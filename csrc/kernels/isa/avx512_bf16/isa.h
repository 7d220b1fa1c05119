// AVX-512 with VNNI and BF16 (vdpbf16ps).
#pragma once

#include <stdint.h>

#define QUIRE_ISA avx512_bf16
#define QUIRE_VECTORS "vec/avx512.h"
#define QUIRE_LANES 16
#define QUIRE_BF16_DOT

namespace quire::QUIRE_ISA {

constexpr int64_t kInt8Unit = 4;  // neighbouring inputs of a column in an int8 panel
constexpr uint8_t kInt8Flip = 0x80;  // int8 values are unsigned: value + 128
constexpr int64_t kTileQueries = 96;  // rows (query row, head) of an attention item, about

}  // namespace quire::QUIRE_ISA
