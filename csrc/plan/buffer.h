// Memory that a plan owns: 64-byte aligned, zero at first, large pieces straight from the operating system.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace quire {

// Large buffers are mapped: their pages are zero and take memory only once touched or populated. Throws std::bad_alloc.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

  // Every byte 0xff: NaN in float32, bfloat16 and float16; -1 in integers.
  void poison();

 private:
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(mapped_, other.mapped_);
  }

  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  bool mapped_ = false;
};

constexpr int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace quire
