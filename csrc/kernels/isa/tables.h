// The table of each instruction set; which of them were built, select.cpp and sources.cmake know.
#pragma once

#include "kernel_types.h"

namespace quire {

namespace portable {
const KernelTable& table();
}
namespace avx2 {
const KernelTable& table();
}
namespace avx512 {
const KernelTable& table();
}
namespace avx512_vnni {
const KernelTable& table();
}
namespace avx512_bf16 {
const KernelTable& table();
}
namespace amx {
const KernelTable& table();
}
namespace neon {
const KernelTable& table();
}
namespace neon_dotprod {
const KernelTable& table();
}
namespace neon_i8mm {
const KernelTable& table();
}

}  // namespace quire
