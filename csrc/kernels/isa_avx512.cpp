// The AVX-512 kernels: F, BW, DQ, VL. Linears and attention use 512-bit vectors; what works on short rows is the 256-bit
// code with the 32 registers and masks of AVX-512. Compiled with ISA flags: no std:: headers here.
#include <immintrin.h>

#include "kernel_types.h"

#define QUIRE_ISA avx512
#define QUIRE_INT8_QUADS
namespace quire::avx512 {
#include "impl/vec_common.h"
#include "impl/vec_avx2.h"
#include "impl/vec_avx512.h"
#include "impl/vector_math.h"
#include "impl/zmm_exp.h"
#include "impl/zmm_activation_rows.h"
#include "impl/rowwise.h"
#include "impl/draw.h"
#include "impl/norms.h"
#include "impl/rotary.h"
#include "impl/kv_write.h"
#include "impl/zmm_attention_tile.h"
#include "impl/attention.h"
#include "impl/linear_layout.h"
#include "impl/pack_float.h"
#include "impl/pack_quantized.h"
#include "impl/zmm_rows.h"
#include "impl/zmm_float.h"
#include "impl/zmm_quantize.h"
#include "impl/zmm_quantized.h"
#include "impl/linear_pack.h"
#include "impl/zmm_linear.h"
#include "impl/table.h"
}  // namespace quire::avx512
