#include "fork_generation.h"

#include <pthread.h>

#include <atomic>

namespace quire {

namespace {
std::atomic<int> generation{0};
}

int fork_generation() {
  static const int registered =
      pthread_atfork(nullptr, nullptr, [] { generation.fetch_add(1, std::memory_order_relaxed); });
  (void)registered;
  return generation.load(std::memory_order_relaxed);
}

}  // namespace quire
