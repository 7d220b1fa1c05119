// The kernels of AMX with tile instructions modelled in C++, so that everything but the instructions is tested where
// there are none. Needs AVX-512 with VNNI and BF16; compiled with ISA flags.
#include <immintrin.h>
#include <stdint.h>

#define QUIRE_AMX_MODEL
#include "impl/amx_tiles.h"
#include "kernel_types.h"

#define QUIRE_ISA amx_model
#define QUIRE_INT8_QUADS
namespace quire {
namespace avx512_vnni {
const KernelTable& table();
}
namespace amx_model {
#include "impl/vec_common.h"
#include "impl/vec_avx2.h"
#include "impl/vec_avx512.h"
#include "impl/linear_layout.h"
#include "impl/zmm_rows.h"
#include "impl/zmm_quantize.h"
#include "impl/zmm_quantized.h"
#include "impl/amx_linear.h"
#include "impl/amx_table.h"
}  // namespace amx_model
}  // namespace quire
