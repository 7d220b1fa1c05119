// AMX modelled in C++ beside AVX-512 with VNNI and BF16.
#pragma once

#include <stdint.h>

#define QUIRE_ISA amx_model
#define QUIRE_AMX_MODEL
#define QUIRE_VECTORS "vec/avx512.h"
#define QUIRE_LANES 16

namespace quire::QUIRE_ISA {

constexpr int64_t kInt8Unit = 4;  // neighbouring inputs of a column in an int8 panel
constexpr uint8_t kInt8Flip = 0x80;  // int8 values are unsigned: value + 128

}  // namespace quire::QUIRE_ISA
