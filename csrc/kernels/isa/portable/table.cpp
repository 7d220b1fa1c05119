// The kernels in plain C++, for any processor; also what the other ISAs are compared with.
#include "isa/table.h"
