// The kernels in plain C++, for any processor; also what the other ISAs are compared with.
#include "kernel_types.h"

#define QUIRE_ISA portable
namespace quire::portable {
#include "impl/vec_common.h"
#include "impl/vec_portable.h"
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
#include "impl/gemm_portable.h"
#include "impl/linear_float.h"
#include "impl/quantize_rows.h"
#include "impl/linear_int8.h"
#include "impl/linear_int4.h"
#include "impl/linear_pack.h"
#include "impl/linear.h"
#include "impl/table.h"
}  // namespace quire::portable
