// Packing and unpacking of a linear's weights by format.
#pragma once

#include "linear/pack_float.h"
#include "linear/pack_quantized.h"

namespace quire::QUIRE_ISA {

inline void linear_pack(const PackArgs& a, int64_t begin, int64_t end, void*) {
  for (int64_t panel = begin; panel < end; ++panel) {
    switch (a.weight->format) {
      case WeightFormat::f32: pack_float_panel<WeightFormat::f32>(a, panel); break;
      case WeightFormat::bf16: pack_float_panel<WeightFormat::bf16>(a, panel); break;
      case WeightFormat::f16: pack_float_panel<WeightFormat::f16>(a, panel); break;
      default: pack_quantized_panel(a, panel); break;
    }
  }
}

inline void linear_unpack(const PackedLinear& w, int64_t begin, int64_t end, float* out) {
  for (int64_t n = begin; n < end; ++n, out += w.k) {
    switch (w.format) {
      case WeightFormat::f32: unpack_float_row<WeightFormat::f32>(w, n, out); break;
      case WeightFormat::bf16: unpack_float_row<WeightFormat::bf16>(w, n, out); break;
      case WeightFormat::f16: unpack_float_row<WeightFormat::f16>(w, n, out); break;
      default: unpack_quantized_row(w, n, out); break;
    }
  }
}

}  // namespace quire::QUIRE_ISA
