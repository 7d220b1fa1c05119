// Activations of rows: the kernel.
#pragma once

#include "isa.h"
#if QUIRE_LANES == 16
#include "rows/zmm/activation_rows.h"
#else
#include "rows/activation_rows.h"
#endif

namespace quire::QUIRE_ISA {

inline void activation(const ActivationArgs& a, int64_t begin, int64_t end, void*) {
  switch (a.act) {
    case Activation::silu: return activation_rows<Activation::silu>(a, begin, end);
    case Activation::gelu: return activation_rows<Activation::gelu>(a, begin, end);
    case Activation::gelu_tanh: return activation_rows<Activation::gelu_tanh>(a, begin, end);
    case Activation::relu: return activation_rows<Activation::relu>(a, begin, end);
    case Activation::quick_gelu: return activation_rows<Activation::quick_gelu>(a, begin, end);
  }
}

}  // namespace quire::QUIRE_ISA
