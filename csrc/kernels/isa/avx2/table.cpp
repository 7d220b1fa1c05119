// The AVX2 + FMA + F16C kernels. Compiled with ISA flags: no std:: headers here, see sources.cmake.
#include "isa/table.h"
