// What the weight formats are: a row each. For callers of the kernels, like kernel_table.h.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "kernel_types.h"

namespace quire {

struct WeightFormatRow {
  WeightFormat format;
  std::string_view name;  // as the bindings take it
  bool integers;  // packed from integers and scales too, see QuantSource
  bool zeros;  // may have zero points
  bool (*takes_groups)(int64_t group_size);  // 0 = none: per channel, or no scales at all
};

inline constexpr WeightFormatRow kWeightFormatRows[kWeightFormats] = {
    {WeightFormat::f32, "float32", false, false, [](int64_t g) { return g == 0; }},
    {WeightFormat::bf16, "bfloat16", false, false, [](int64_t g) { return g == 0; }},
    {WeightFormat::f16, "float16", false, false, [](int64_t g) { return g == 0; }},
    {WeightFormat::int8, "int8", true, false, [](int64_t g) { return g == 16 || (g >= 0 && g % 32 == 0 && g <= 512); }},
    {WeightFormat::int4, "int4", true, true, [](int64_t g) { return g == 32 || g == 64 || g == 128; }},
};

inline const WeightFormatRow& row_of(WeightFormat format) { return kWeightFormatRows[index_of(format)]; }

// Throws std::invalid_argument when there is none of that name.
inline WeightFormat format_named(std::string_view name) {
  for (const WeightFormatRow& row : kWeightFormatRows)
    if (row.name == name) return row.format;
  throw std::invalid_argument("no native weight format " + std::string(name));
}

}  // namespace quire
