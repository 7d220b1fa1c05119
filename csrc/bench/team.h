// A small team of spinning threads for benchmarks.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace quire::bench {

class Team {
 public:
  explicit Team(int num_threads);
  ~Team();
  int size() const { return size_; }

  // Runs work(thread) on every thread and returns the mean processor time a thread spent in it, in seconds: the
  // wall time there would be if nothing else ran on the machine and the work were evenly split.
  double run(const std::function<void(int)>& work);

 private:
  void loop(int thread);
  void timed(int thread);
  int size_;
  const std::function<void(int)>* work_ = nullptr;
  std::atomic<int64_t> generation_{0};
  std::atomic<int> running_{0};
  std::atomic<bool> stop_{false};
  std::vector<double> seconds_;
  std::vector<std::thread> threads_;
};

}  // namespace quire::bench
