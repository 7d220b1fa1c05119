// The kernels for NEON with the dot product extension. Compiled with ISA flags: no std:: headers here, see sources.cmake.
#include <arm_neon.h>

#include "kernel_types.h"

#define QUIRE_ISA neon_dotprod
#define QUIRE_VECTOR_PAIRS
#define QUIRE_INT8_UNIT 4
namespace quire::neon_dotprod {
#include "impl/vec_common.h"
#include "impl/vec_neon.h"
#include "impl/vector_math.h"
#include "impl/activation_rows.h"
#include "impl/rowwise.h"
#include "impl/draw.h"
#include "impl/norms.h"
#include "impl/rotary.h"
#include "impl/kv_write.h"
#include "impl/attention_tile.h"
#include "impl/attention.h"
#include "impl/linear_layout.h"
#include "impl/pack_float.h"
#include "impl/pack_quantized.h"
#include "impl/gemm_neon.h"
#include "impl/linear_float.h"
#include "impl/quantize_rows.h"
#include "impl/neon_dot.h"
#include "impl/neon_quantized.h"
#include "impl/linear_pack.h"
#include "impl/neon_linear.h"
#include "impl/table.h"
}  // namespace quire::neon_dotprod
