// Conversions between Python objects and the plan's plain types.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "../plan/fields.h"
#include "kernel_types.h"
#include "weight_formats.h"

namespace quire::bindings {

namespace nb = nanobind;

using Int32Array = nb::ndarray<const int32_t, nb::c_contig, nb::device::cpu>;
using AnyArray = nb::ndarray<nb::ro, nb::device::cpu>;

inline std::vector<int32_t> to_vector(const Int32Array& array) { return {array.data(), array.data() + array.size()}; }

inline DType dtype_named(const std::string& name) {
  if (name == "float32") return DType::f32;
  if (name == "bfloat16") return DType::bf16;
  if (name == "float16") return DType::f16;
  if (name == "int8") return DType::i8;
  throw std::invalid_argument("no native dtype " + name);
}

// [rows, k] of 2- or 4-byte elements whose columns are adjacent. bfloat16 comes as its uint16 view.
inline RowSegment to_segment(const AnyArray& array, const std::string& dtype) {
  RowSegment segment;
  segment.dtype = dtype_named(dtype);
  if (array.ndim() != 2 || (array.shape(1) > 1 && array.stride(1) != 1))
    throw std::invalid_argument("a weight segment must be 2-D with adjacent columns");
  if (static_cast<int64_t>(array.itemsize()) != dtype_bytes(segment.dtype))
    throw std::invalid_argument("a weight segment's element size is not that of " + dtype);
  segment.rows = array.data();
  segment.row_stride = array.stride(0);
  segment.num_rows = static_cast<int64_t>(array.shape(0));
  return segment;
}

using Int8Matrix = nb::ndarray<const int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatMatrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// values [N, K], scales and zeros [N, num_groups] of a checkpoint that holds integers, checked against their matrix.
struct QuantizedRows {
  RowSegment segment;
  QuantSource quant;

  QuantizedRows(const PackedLinear& weight, const Int8Matrix& values, const FloatMatrix& scales,
                const std::optional<FloatMatrix>& zeros) {
    const int64_t groups = weight.group_size ? (weight.k + weight.group_size - 1) / weight.group_size : 1;
    const auto has_shape = [](const auto& array, int64_t rows, int64_t columns) {
      return static_cast<int64_t>(array.shape(0)) == rows && static_cast<int64_t>(array.shape(1)) == columns;
    };
    if (!row_of(weight.format).integers || !has_shape(values, weight.n, weight.k) ||
        !has_shape(scales, weight.n, groups) || (zeros && !has_shape(*zeros, weight.n, groups)) ||
        zeros.has_value() != (weight.has_zeros != 0))
      throw std::invalid_argument("integers, scales and zero points do not fit the matrix");
    segment = {values.data(), DType::i8, weight.k, weight.n};
    quant = {scales.data(), zeros ? zeros->data() : nullptr, groups};
  }
};

inline Fields::Value to_value(nb::handle value) {
  if (value.is_none()) return std::monostate{};
  if (nb::isinstance<nb::bool_>(value)) return nb::cast<bool>(value);
  if (nb::isinstance<nb::int_>(value)) return nb::cast<int64_t>(value);
  if (nb::isinstance<nb::float_>(value)) return nb::cast<double>(value);
  if (nb::isinstance<nb::str>(value)) return nb::cast<std::string>(value);
  if (nb::isinstance<Operand>(value)) return nb::cast<Operand>(value);
  return nb::cast<std::vector<int64_t>>(value);
}

inline Fields to_fields(const std::string& op, const nb::kwargs& given) {
  std::map<std::string, Fields::Value> values;
  for (const auto& [name, value] : given) values.emplace(nb::cast<std::string>(name), to_value(value));
  return Fields(op, std::move(values));
}

}  // namespace quire::bindings
