// The kernels for NEON with the int8 matrix extension. Compiled with ISA flags: no std:: headers here, see sources.cmake.
#include "isa/table.h"
