// How a thread waits for another: first by pausing, then by giving its core away.
#pragma once

#include <chrono>
#include <cstdint>
#include <thread>

namespace quire {

inline void cpu_pause() {
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Counts one wait. `turn` pauses a few hundred times (about 20 us), then yields, and reports false once
// `limit` has passed, when the caller should sleep instead.
class SpinWait {
 public:
  explicit SpinWait(std::chrono::microseconds limit = std::chrono::microseconds::max()) : limit_(limit) {}

  bool turn() {
    if (++turns_ < kPauses) {
      cpu_pause();
      return true;
    }
    if (turns_ == kPauses) start_ = std::chrono::steady_clock::now();
    std::this_thread::yield();
    return limit_ == std::chrono::microseconds::max() || std::chrono::steady_clock::now() - start_ < limit_;
  }

 private:
  static constexpr int kPauses = 500;
  std::chrono::microseconds limit_;
  int64_t turns_ = 0;
  std::chrono::steady_clock::time_point start_{};
};

}  // namespace quire
