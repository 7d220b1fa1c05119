// Packed weights on disk: pieces of memory in order, each with a checksum; mapped, they are ready without a copy.
//
// Layout: a header; a table of offsets, sizes and checksums; the pieces, each at a multiple of 4096 bytes.
// It is a cache of one machine: byte order and alignment are this machine's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../threads/thread_pool.h"

namespace quire {

struct WeightPiece {
  const std::byte* data = nullptr;
  int64_t bytes = 0;
};

// Writes a new file. Throws std::runtime_error naming the system's reason; what was written by then is the caller's
// to remove.
void write_weight_file(const std::string& path, const std::vector<WeightPiece>& pieces, ThreadPool& pool);

// A mapped file; its pages are read only and shared with every process that maps it.
class MappedWeights {
 public:
  // Throws std::runtime_error when the file cannot be mapped, holds other sizes than `bytes`, or its checksums differ.
  MappedWeights(const std::string& path, const std::vector<int64_t>& bytes, ThreadPool& pool);
  ~MappedWeights();
  MappedWeights(const MappedWeights&) = delete;
  MappedWeights& operator=(const MappedWeights&) = delete;

  std::byte* piece(size_t index) const { return pieces_.at(index); }

 private:
  void check(const std::string& path, const std::vector<int64_t>& bytes, ThreadPool& pool);

  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  std::vector<std::byte*> pieces_;
};

}  // namespace quire
