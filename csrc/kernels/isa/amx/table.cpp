// The AVX-512 VNNI kernels with linears of bf16, int8 and int4 weights on AMX tiles (AMX-BF16, AMX-INT8).
// Compiled with ISA flags: no std:: headers here.
#include "isa/amx/table.h"
