// The kernels for NEON with the dot product extension. Compiled with ISA flags: no std:: headers here, see sources.cmake.
#include "isa/table.h"
