// The constants of a plan: packed matrices, vectors, embedding tables, rotary tables. Ops name them by index.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "../threads/thread_pool.h"
#include "buffer.h"
#include "kernel_table.h"
#include "weight_file.h"

namespace quire {

struct EmbeddingTable {
  DType dtype = DType::f32;
  int64_t num_rows = 0;
  int64_t dim = 0;
  const std::byte* rows = nullptr;
  Buffer data;  // unless the rows are of a file

  int64_t bytes() const { return num_rows * dim * dtype_bytes(dtype); }
};

struct RotaryTable {
  int64_t max_len = 0;
  int64_t num_rows = 0;  // filled so far; the pages of the others take no memory
  int64_t dims = 0;      // rotated elements of a head; the tables hold dims / 2 columns
  Buffer cos;
  Buffer sin;
};

// Declared while the graph is flattened (sizes only), allocated and filled while it loads.
// Indices and addresses stay valid for the store's life.
class WeightStore {
 public:
  explicit WeightStore(const KernelTable& kernels) : kernels_(kernels) {}

  // int8: group_size 0 (per channel), 16 or a multiple of 32 up to 512; int4: 32, 64, 128. Float formats: 0.
  int64_t add_linear(WeightFormat format, int64_t n, int64_t k, int64_t group_size = 0, bool has_zeros = false);
  int64_t add_vector(int64_t size);
  int64_t add_table(DType dtype, int64_t num_rows, int64_t dim);
  int64_t add_rotary(int64_t max_len, int64_t dims);
  // The next rows of a table; steps that are running need not end. Throws std::invalid_argument beyond max_len.
  void extend_rotary(int64_t index, int64_t num_rows, const float* cos, const float* sin);

  // Rows of a checkpoint, in order, into the packed layout; integers come with their scales.
  void pack_linear(int64_t index, const std::vector<RowSegment>& segments, const QuantSource* quant, ThreadPool& pool);
  // Element-wise conversion; sizes must match exactly. Sources may be f32, bf16 or f16.
  void fill_vector(int64_t index, const void* source, DType dtype, int64_t size);
  void fill_table(int64_t index, const std::vector<RowSegment>& segments, ThreadPool& pool);

  // All matrices, vectors and tables to a new file, and from one: then nothing need be packed or filled.
  // Both throw std::runtime_error; see weight_file.h.
  void write_packed(const std::string& path, ThreadPool& pool) const;
  void map_packed(const std::string& path, ThreadPool& pool);

  const PackedLinear& linear(int64_t index) const;  // throws std::out_of_range, as do all below
  const float* vector(int64_t index) const {        // nullptr for index -1
    return index < 0 ? nullptr : vectors_.at(static_cast<size_t>(index));
  }
  int64_t vector_size(int64_t index) const { return vector_sizes_.at(static_cast<size_t>(index)); }
  const EmbeddingTable& table(int64_t index) const { return tables_.at(static_cast<size_t>(index)); }
  const RotaryTable& rotary(int64_t index) const { return rotaries_.at(static_cast<size_t>(index)); }

  int64_t weight_bytes() const;    // matrices, vectors and tables, allocated or not
  int64_t constant_bytes() const;  // rotary tables, as far as they are filled

 private:
  std::vector<WeightPiece> pieces() const;  // data is nullptr where nothing is loaded yet

  const KernelTable& kernels_;
  std::deque<PackedLinear> linears_;
  std::deque<Buffer> linear_data_;
  std::deque<Buffer> vector_data_;
  std::vector<const float*> vectors_;  // into vector_data_ or packed_
  std::vector<int64_t> vector_sizes_;
  std::deque<EmbeddingTable> tables_;
  std::deque<RotaryTable> rotaries_;
  std::unique_ptr<WeightCopy> packed_;
};

float to_float(const void* source, DType dtype, int64_t index);

}  // namespace quire
