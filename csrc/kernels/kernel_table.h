// The one header that callers of the kernels include.
#pragma once

#include <string_view>
#include <vector>

#include "kernel_types.h"

namespace quire {

// What the processor and the operating system offer. Fields that this platform cannot have stay false.
struct CpuFeatures {
  bool avx2 = false;         // AVX2 + FMA + F16C, with ymm state enabled
  bool avx512 = false;       // F, BW, DQ, VL, with zmm state enabled
  bool avx512_vnni = false;
  bool avx512_bf16 = false;
  bool amx_bf16 = false;
  bool amx_int8 = false;
  bool neon = false;
  bool neon_dotprod = false;  // sdot
  bool neon_i8mm = false;     // smmla, and sdot
};

const CpuFeatures& detect_cpu();

// Names of the tables that were built and that this machine can run, best first; "portable" is always last.
// "avx512_bf16" rounds the activations of bf16 linears to bf16: it stands behind the tables that do not.
// So does "amx", which besides was never run on a processor that has it.
std::vector<std::string_view> available_kernels();

// The best table for this machine, or the one named. Throws std::invalid_argument, with the available names,
// when `force` was not built or the machine cannot run it. The reference lives for ever.
const KernelTable& select_kernels(std::string_view force = "");

}  // namespace quire
