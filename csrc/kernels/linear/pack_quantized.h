// Packing of int8 and int4 weights, from float rows (rounded to nearest here) or from given integers and scales.
// Layout in linear/layout.h.
#pragma once

#include "linear/layout.h"
#include "linear/source_row.h"

namespace quire::QUIRE_ISA {

// How integers of one group map to weights: weight = scale * (q - zero).
struct GroupScale {
  float scale;
  float zero;
};

struct Extremes {
  float low;
  float high;
};
inline Extremes extremes(const SourceRow& row, int64_t begin, int64_t end) {
  Extremes e = {0.0f, 0.0f};  // zero is always representable
  for (int64_t k = begin; k < end; ++k) {
    const float v = element_to_f32(row.data, row.dtype, k);
    if (v < e.low) e.low = v;
    if (v > e.high) e.high = v;
  }
  return e;
}

// Scale of group `g` of row n, inputs [begin, end).
template <WeightFormat F>
GroupScale group_scale(const PackArgs& a, const SourceRow& row, int64_t n, int64_t g, int64_t begin, int64_t end) {
  const PackedLinear& w = *a.weight;
  if (row.dtype == DType::i8) {
    if (!a.quant || (a.quant->zeros && !w.has_zeros)) __builtin_trap();  // integers need scales; zeros need a place
    const int64_t at = n * a.quant->scale_stride + g;
    constexpr float default_zero = F == WeightFormat::int4 ? 8.0f : 0.0f;
    return {a.quant->scales[at], a.quant->zeros ? a.quant->zeros[at] : default_zero};
  }
  const Extremes e = extremes(row, begin, end);
  if constexpr (F == WeightFormat::int8) return {(e.high > -e.low ? e.high : -e.low) / 127.0f, 0.0f};
  if (w.has_zeros) {
    const float scale = (e.high - e.low) / 15.0f;
    return {scale, scale > 0.0f ? __builtin_rintf(-e.low / scale) : 0.0f};
  }
  // The value farthest from zero becomes q = 0, that is -8: all 16 levels are used.
  return {(e.high > -e.low ? e.high : e.low) / -8.0f, 8.0f};
}

QUIRE_INLINE float power_of_two_above(float v) {
  if (!(v > 0.0f)) return 1.0f;
  int exponent = static_cast<int>((f32_to_bits(v) >> 23) & 255) - 126;  // v < 2^exponent
  if (exponent < -120) exponent = -120;
  return bits_to_f32(static_cast<uint32_t>(exponent + 127) << 23);
}

QUIRE_INLINE int32_t quantize(const SourceRow& row, int64_t k, float inverse, float zero, int32_t low, int32_t high) {
  if (row.dtype == DType::i8) return static_cast<const int8_t*>(static_cast<const void*>(row.data))[k];
  const float q = __builtin_rintf(element_to_f32(row.data, row.dtype, k) * inverse + zero);
  return q < static_cast<float>(low) ? low : q > static_cast<float>(high) ? high : static_cast<int32_t>(q);
}

template <WeightFormat F>
void pack_quantized_panel(const PackArgs& a, int64_t panel) {
  const PackedLinear& w = *a.weight;
  uint8_t* out = panel_at(w, panel);
  __builtin_memset(out, 0, static_cast<size_t>(w.panel_bytes));
  constexpr bool int4 = F == WeightFormat::int4;
  const int64_t group = group_inputs(w), groups = num_groups(w), bytes = group_bytes<F>(w);
  const int64_t value_bytes = group * kPanelColumns / (int4 ? 2 : 1);
  float* factors = reinterpret_cast<float*>(out + w.panel_bytes - kFactorBytes);
  for (int64_t c = 0; c < min_of(kPanelColumns, w.n - panel * kPanelColumns); ++c) {
    const int64_t n = panel * kPanelColumns + c;
    const SourceRow row = source_row(a, n);
    float largest = 0.0f;
    for (int64_t g = 0; g < groups; ++g) {
      const float s = group_scale<F>(a, row, n, g, g * group, min_of(w.k, (g + 1) * group)).scale;
      largest = largest > (s < 0 ? -s : s) ? largest : (s < 0 ? -s : s);
    }
    const bool per_channel = w.group_size == 0;
    factors[c] = per_channel ? group_scale<F>(a, row, n, 0, 0, min_of(w.k, group)).scale : power_of_two_above(largest);
    for (int64_t g = 0; g < groups; ++g) {
      uint8_t* values = out + g * bytes;
      uint16_t* scales = reinterpret_cast<uint16_t*>(values + value_bytes);
      const GroupScale s = group_scale<F>(a, row, n, g, g * group, min_of(w.k, (g + 1) * group));
      float scale = s.scale;
      if (!per_channel) {
        scales[c] = f32_to_f16(s.scale / factors[c]);
        scale = f16_to_f32(scales[c]) * factors[c];  // round with the scale that will be used
        if (w.has_zeros) scales[kPanelColumns + c] = f32_to_f16(s.zero);
      }
      const float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
      for (int64_t k = g * group; k < min_of(w.k, (g + 1) * group); ++k) {
        const int64_t i = k - g * group;
        if constexpr (int4) {
          const int32_t q = quantize(row, k, inverse, s.zero, 0, 15);
          values[(i / 8) * 64 + c * 4 + i % 4] |= static_cast<uint8_t>(q << (i % 8 / 4 * 4));
        } else {
          values[int8_index(i, c)] = static_cast<uint8_t>(quantize(row, k, inverse, 0.0f, -127, 127)) ^ kInt8Flip;
        }
      }
    }
  }
}

template <WeightFormat F>
void unpack_quantized_row(const PackedLinear& w, int64_t n, float* out) {
  const uint8_t* panel = panel_at(w, n / kPanelColumns);
  const int64_t c = n % kPanelColumns, group = group_inputs(w), bytes = group_bytes<F>(w);
  constexpr bool int4 = F == WeightFormat::int4;
  const float factor = column_factors(w, n / kPanelColumns)[c];
  for (int64_t k = 0; k < w.k; ++k) {
    const uint8_t* values = panel + k / group * bytes;
    const uint16_t* scales = reinterpret_cast<const uint16_t*>(values + group * kPanelColumns / (int4 ? 2 : 1));
    const int64_t i = k % group;
    float q, zero = 0.0f;
    if constexpr (int4) {
      q = static_cast<float>((values[(i / 8) * 64 + c * 4 + i % 4] >> (i % 8 / 4 * 4)) & 15);
      zero = w.has_zeros ? f16_to_f32(scales[kPanelColumns + c]) : 8.0f;
    } else {
      q = static_cast<float>(static_cast<int8_t>(values[int8_index(i, c)] ^ kInt8Flip));
    }
    out[k] = (q - zero) * (w.group_size ? f16_to_f32(scales[c]) : 1.0f) * factor;
  }
}

template <WeightFormat F>
PackedLinear quantized_layout(int64_t n, int64_t k, int64_t group_size, bool has_zeros) {
  if (F == WeightFormat::int8 && group_size &&
      (group_size % 16 || (group_size > 16 && group_size % 32) || group_size > kInt8Block))
    __builtin_trap();
  if (F == WeightFormat::int4 && group_size != 32 && group_size != 64 && group_size != 128) __builtin_trap();
  PackedLinear w;
  w.k = k;
  w.group_size = group_size;
  w.has_zeros = F == WeightFormat::int4 && has_zeros;
  PackedLinear packed = panels_of(F, n, k, num_groups(w) * group_bytes<F>(w) + kFactorBytes);
  packed.group_size = w.group_size;
  packed.has_zeros = w.has_zeros;
  return packed;
}
template <WeightFormat F>
void pack_quantized(const PackArgs& a, int64_t begin, int64_t end, void*) {
  for (int64_t panel = begin; panel < end; ++panel) pack_quantized_panel<F>(a, panel);
}
template <WeightFormat F>
void unpack_quantized(const PackedLinear& w, int64_t begin, int64_t end, float* out) {
  for (int64_t n = begin; n < end; ++n, out += w.k) unpack_quantized_row<F>(w, n, out);
}

// Layout and packing, without the products.
template <WeightFormat F>
constexpr LinearKernels packed_integers() {
  LinearKernels kernels{};
  kernels.layout = quantized_layout<F>;
  kernels.pack = pack_quantized<F>;
  kernels.unpack = unpack_quantized<F>;
  return kernels;
}

}  // namespace quire::QUIRE_ISA
