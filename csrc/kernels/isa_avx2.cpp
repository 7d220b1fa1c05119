// The AVX2 + FMA + F16C kernels. Compiled with ISA flags: no std:: headers here, see sources.cmake.
#include <immintrin.h>

#include "kernel_types.h"

#define QUIRE_ISA avx2
namespace quire::avx2 {
#include "impl/vec_common.h"
#include "impl/vec_avx2.h"
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
#include "impl/ymm_rows.h"
#include "impl/ymm_float.h"
#include "impl/ymm_quantize.h"
#include "impl/ymm_int8.h"
#include "impl/ymm_int4.h"
#include "impl/linear_pack.h"
#include "impl/ymm_linear.h"
#include "impl/table.h"
}  // namespace quire::avx2
