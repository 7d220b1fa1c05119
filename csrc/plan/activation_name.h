// Activations by the names that fields give them.
#pragma once

#include "fields.h"
#include "kernel_types.h"

namespace quire {

inline Activation activation_named(const Fields& f, const std::string& name) {
  if (name == "silu") return Activation::silu;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_tanh") return Activation::gelu_tanh;
  if (name == "relu") return Activation::relu;
  if (name == "quick_gelu") return Activation::quick_gelu;
  throw f.error("act", "names no activation: " + name);
}

}  // namespace quire
