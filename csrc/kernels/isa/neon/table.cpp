// The kernels for baseline NEON. Compiled with ISA flags: no std:: headers here, see sources.cmake.
#include "isa/table.h"
