// The kernels of AMX with tile instructions modelled in C++, so that everything but the instructions is tested where
// there are none. Needs AVX-512 with VNNI and BF16; compiled with ISA flags and with the isa.h of amx_model/.
#include "isa/amx/table.h"
