// The AVX-512 kernels: F, BW, DQ, VL. Linears and attention use 512-bit vectors; what works on short rows is the 256-bit
// code with the 32 registers and masks of AVX-512. Compiled with ISA flags: no std:: headers here.
#include "isa/table.h"
