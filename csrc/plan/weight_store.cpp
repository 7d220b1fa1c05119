#include "weight_store.h"

#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "weight_formats.h"

namespace quire {

namespace {

float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  uint32_t exponent = (half >> 10) & 0x1fu, mantissa = half & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) {
    const float value = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -value : value;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t bfloat16_bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

uint16_t half_bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {  // subnormal or zero: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

void store(void* target, DType dtype, int64_t index, float value) {
  if (dtype == DType::f32) {
    static_cast<float*>(target)[index] = value;
  } else {
    static_cast<uint16_t*>(target)[index] = dtype == DType::bf16 ? bfloat16_bits(value) : half_bits(value);
  }
}

}  // namespace

float to_float(const void* source, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::f32: return static_cast<const float*>(source)[index];
    case DType::bf16:
      return std::bit_cast<float>(static_cast<uint32_t>(static_cast<const uint16_t*>(source)[index]) << 16);
    case DType::f16: return half_to_float(static_cast<const uint16_t*>(source)[index]);
    default: throw std::invalid_argument("weights are float32, bfloat16 or float16");
  }
}

int64_t WeightStore::add_linear(WeightFormat format, int64_t n, int64_t k, int64_t group_size, bool has_zeros) {
  const WeightFormatRow& row = row_of(format);
  if (!row.takes_groups(group_size) || (has_zeros && !row.zeros))
    throw std::invalid_argument("no kernels for groups of " + std::to_string(group_size) +
                                (has_zeros ? " with zero points" : ""));
  const LinearKernels& kernels = kernels_.linear[index_of(format)];
  if (!kernels.run)
    throw std::invalid_argument("no kernels for " + std::string(row.name) + " weights in " + kernels_.isa);
  linears_.push_back(kernels.layout(n, k, group_size, has_zeros));
  linear_data_.emplace_back();
  return static_cast<int64_t>(linears_.size()) - 1;
}

int64_t WeightStore::add_vector(int64_t size) {
  vector_data_.emplace_back();
  vectors_.push_back(nullptr);
  vector_sizes_.push_back(size);
  return static_cast<int64_t>(vectors_.size()) - 1;
}

int64_t WeightStore::add_table(DType dtype, int64_t num_rows, int64_t dim) {
  EmbeddingTable table;
  table.dtype = dtype;
  table.num_rows = num_rows;
  table.dim = dim;
  tables_.push_back(std::move(table));
  return static_cast<int64_t>(tables_.size()) - 1;
}

int64_t WeightStore::add_rotary(int64_t max_len, int64_t dims) {
  const int64_t bytes = max_len * (dims / 2) * 4;
  RotaryTable table;
  table.max_len = max_len;
  table.dims = dims;
  table.cos = Buffer(bytes);
  table.sin = Buffer(bytes);
  rotaries_.push_back(std::move(table));
  return static_cast<int64_t>(rotaries_.size()) - 1;
}

void WeightStore::extend_rotary(int64_t index, int64_t num_rows, const float* cos, const float* sin) {
  RotaryTable& table = rotaries_.at(static_cast<size_t>(index));
  if (num_rows < 0 || num_rows > table.max_len - table.num_rows)
    throw std::invalid_argument("a rotary table of " + std::to_string(table.max_len) + " rows was given more");
  const int64_t half = table.dims / 2, begin = table.num_rows * half;
  std::memcpy(table.cos.as<float>() + begin, cos, static_cast<size_t>(num_rows * half * 4));
  std::memcpy(table.sin.as<float>() + begin, sin, static_cast<size_t>(num_rows * half * 4));
  table.num_rows += num_rows;
}

void WeightStore::pack_linear(int64_t index, const std::vector<RowSegment>& segments, const QuantSource* quant,
                              ThreadPool& pool) {
  PackedLinear& weight = linears_.at(static_cast<size_t>(index));
  int64_t rows = 0;
  for (const RowSegment& segment : segments) rows += segment.num_rows;
  if (rows != weight.n)
    throw std::invalid_argument("a matrix of " + std::to_string(weight.n) + " rows was given " + std::to_string(rows));
  Buffer& data = linear_data_.at(static_cast<size_t>(index));
  if (!data.data()) data = Buffer(weight.bytes);
  weight.data = data.data();
  const PackArgs args{&weight, segments.data(), static_cast<int64_t>(segments.size()), quant};
  const auto pack = kernels_.linear[index_of(weight.format)].pack;
  pool.parallel_for(weight.num_panels, [&](int64_t begin, int64_t end, int) { pack(args, begin, end, nullptr); });
}

void WeightStore::fill_vector(int64_t index, const void* source, DType dtype, int64_t size) {
  if (size != vector_size(index))
    throw std::invalid_argument("a vector of " + std::to_string(vector_size(index)) + " elements was given " +
                                std::to_string(size));
  Buffer& vector = vector_data_.at(static_cast<size_t>(index));
  vector = Buffer(size * 4);
  vectors_[static_cast<size_t>(index)] = vector.as<float>();
  for (int64_t i = 0; i < size; ++i) vector.as<float>()[i] = to_float(source, dtype, i);
}

void WeightStore::fill_table(int64_t index, const std::vector<RowSegment>& segments, ThreadPool& pool) {
  EmbeddingTable& table = tables_.at(static_cast<size_t>(index));
  const int64_t row_bytes = table.dim * dtype_bytes(table.dtype);
  if (!table.data.data()) table.data = Buffer(table.bytes());
  table.rows = table.data.data();
  std::byte* target = table.data.data();
  int64_t rows = 0;
  for (const RowSegment& segment : segments) rows += segment.num_rows;
  if (rows != table.num_rows)
    throw std::invalid_argument("a table of " + std::to_string(table.num_rows) + " rows was given " +
                                std::to_string(rows));
  for (const RowSegment& segment : segments) {
    const auto* source = static_cast<const std::byte*>(segment.rows);
    const int64_t source_bytes = segment.row_stride * dtype_bytes(segment.dtype);
    pool.parallel_for(
        segment.num_rows,
        [&, target](int64_t begin, int64_t end, int) {
          for (int64_t row = begin; row < end; ++row) {
            const std::byte* from = source + row * source_bytes;
            std::byte* to = target + row * row_bytes;
            if (segment.dtype == table.dtype) {
              std::memcpy(to, from, static_cast<size_t>(row_bytes));
            } else {
              for (int64_t i = 0; i < table.dim; ++i) store(to, table.dtype, i, to_float(from, segment.dtype, i));
            }
          }
        },
        16);
    target += segment.num_rows * row_bytes;
  }
}

const PackedLinear& WeightStore::linear(int64_t index) const { return linears_.at(static_cast<size_t>(index)); }

std::vector<WeightPiece> WeightStore::pieces() const {
  std::vector<WeightPiece> pieces;
  for (const PackedLinear& linear : linears_)
    pieces.push_back({static_cast<const std::byte*>(linear.data), linear.bytes});
  for (size_t i = 0; i < vectors_.size(); ++i)
    pieces.push_back({reinterpret_cast<const std::byte*>(vectors_[i]), vector_sizes_[i] * 4});
  for (const EmbeddingTable& table : tables_) pieces.push_back({table.rows, table.bytes()});
  return pieces;
}

void WeightStore::write_packed(const std::string& path, ThreadPool& pool) const {
  const std::vector<WeightPiece> all = pieces();
  for (const WeightPiece& piece : all)
    if (!piece.data) throw std::runtime_error(path + ": not every weight is loaded");
  write_weight_file(path, all, pool);
}

void WeightStore::map_packed(const std::string& path, ThreadPool& pool) {
  std::vector<int64_t> bytes;
  for (const WeightPiece& piece : pieces()) bytes.push_back(piece.bytes);
  packed_ = std::make_unique<WeightCopy>(path, bytes, pool);
  size_t piece = 0;
  for (PackedLinear& linear : linears_) linear.data = packed_->piece(piece++);
  for (const float*& vector : vectors_) vector = reinterpret_cast<const float*>(packed_->piece(piece++));
  for (EmbeddingTable& table : tables_) table.rows = packed_->piece(piece++);
}

int64_t WeightStore::weight_bytes() const {
  int64_t bytes = 0;
  for (const PackedLinear& linear : linears_) bytes += linear.bytes;
  for (const int64_t size : vector_sizes_) bytes += size * 4;
  for (const EmbeddingTable& table : tables_) bytes += table.bytes();
  return bytes;
}

int64_t WeightStore::constant_bytes() const {
  int64_t bytes = 0;
  for (const RotaryTable& table : rotaries_) bytes += table.num_rows * table.dims * 4;
  return bytes;
}

}  // namespace quire
