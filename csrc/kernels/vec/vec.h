// The vectors of the ISA at hand.
#pragma once

#include "isa.h"
#include QUIRE_VECTORS
