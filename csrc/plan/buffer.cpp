#include "buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace quire {

namespace {
constexpr int64_t kMapFrom = int64_t{1} << 20;
}

Buffer::Buffer(int64_t bytes) : bytes_(round_up(bytes, 64)), mapped_(bytes_ >= kMapFrom) {
  if (bytes_ == 0) return;
  if (mapped_) {
    void* mapped =
        mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    madvise(mapped, static_cast<size_t>(bytes_), MADV_HUGEPAGE);  // a wish: without it only speed is lost
#endif
    data_ = static_cast<std::byte*>(mapped);
    return;
  }
  void* allocated = std::aligned_alloc(64, static_cast<size_t>(bytes_));
  if (!allocated) throw std::bad_alloc();
  data_ = static_cast<std::byte*>(allocated);
  std::memset(data_, 0, static_cast<size_t>(bytes_));
}

Buffer::~Buffer() {
  if (mapped_) {
    munmap(data_, static_cast<size_t>(bytes_));
  } else {
    std::free(data_);
  }
}

void Buffer::poison() {
  if (bytes_) std::memset(data_, 0xff, static_cast<size_t>(bytes_));
}

}  // namespace quire
