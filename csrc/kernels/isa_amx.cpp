// The AVX-512 VNNI kernels with linears of bf16, int8 and int4 weights on AMX tiles (AMX-BF16, AMX-INT8).
// Compiled with ISA flags: no std:: headers here.
#include <immintrin.h>

#include "impl/amx_tiles.h"
#include "kernel_types.h"
#include "tables.h"

#define QUIRE_ISA amx
#define QUIRE_INT8_QUADS
namespace quire {
namespace amx {
#include "impl/vec_common.h"
#include "impl/vec_avx2.h"
#include "impl/vec_avx512.h"
#include "impl/linear_layout.h"
#include "impl/zmm_rows.h"
#include "impl/zmm_quantize.h"
#include "impl/zmm_quantized.h"
#include "impl/amx_linear.h"
#include "impl/amx_table.h"
}  // namespace amx
}  // namespace quire
