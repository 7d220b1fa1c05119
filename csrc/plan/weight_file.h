// Packed weights on disk: pieces of memory in order, each with a checksum.
//
// Layout: a header; a table of offsets, sizes and checksums; the pieces, each at a multiple of 4096 bytes.
// It is a cache of one machine: byte order and alignment are this machine's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../threads/thread_pool.h"
#include "buffer.h"

namespace quire {

struct WeightPiece {
  const std::byte* data = nullptr;
  int64_t bytes = 0;
};

// Writes a new file. Throws std::runtime_error naming the system's reason; what was written by then is the caller's
// to remove.
void write_weight_file(const std::string& path, const std::vector<WeightPiece>& pieces, ThreadPool& pool);

// A file in memory of its own: what happens to the file afterwards does not matter. A mapped file that is cut short ends
// the process.
class WeightCopy {
 public:
  // Throws std::runtime_error when the file cannot be read, holds other sizes than `bytes`, or its checksums differ.
  WeightCopy(const std::string& path, const std::vector<int64_t>& bytes, ThreadPool& pool);

  std::byte* piece(size_t index) const { return pieces_.at(index); }

 private:
  void check(const std::string& path, const std::vector<int64_t>& bytes, ThreadPool& pool);

  Buffer copy_;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  std::vector<std::byte*> pieces_;
};

}  // namespace quire
