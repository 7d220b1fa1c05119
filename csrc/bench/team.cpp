#include "team.h"

#include <time.h>

namespace quire::bench {

Team::Team(int num_threads) : size_(num_threads), seconds_(static_cast<size_t>(num_threads)) {
  for (int t = 1; t < size_; ++t) threads_.emplace_back([this, t] { loop(t); });
}

Team::~Team() {
  stop_ = true;
  generation_.fetch_add(1);
  for (std::thread& t : threads_) t.join();
}

namespace {
double processor_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}
}  // namespace

void Team::timed(int thread) {
  const double start = processor_seconds();
  (*work_)(thread);
  seconds_[static_cast<size_t>(thread)] = processor_seconds() - start;
}

void Team::loop(int thread) {
  int64_t seen = 0;
  for (;;) {
    for (int spins = 0; generation_.load(std::memory_order_acquire) == seen; ++spins)
      if (spins > 20000) std::this_thread::yield();
    ++seen;
    if (stop_) return;
    timed(thread);
    running_.fetch_sub(1, std::memory_order_release);
  }
}

double Team::run(const std::function<void(int)>& work) {
  work_ = &work;
  running_.store(size_ - 1);
  generation_.fetch_add(1, std::memory_order_release);
  timed(0);
  while (running_.load(std::memory_order_acquire) > 0) {}
  double total = 0;
  for (double s : seconds_) total += s;
  return total / size_;
}

}  // namespace quire::bench
