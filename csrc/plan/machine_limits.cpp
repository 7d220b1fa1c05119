#include "machine_limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "buffer.h"
#include "limit_loops.h"

namespace quire {

namespace {

constexpr int64_t kReadBytes = int64_t{256} << 20;
constexpr int64_t kRounds = 16;
constexpr int64_t kIterations = 2'000'000;  // of an arithmetic loop, a round

std::atomic<uint64_t> sink{0};  // results go here, or the loops would be dropped

// Fastest of kRounds rounds of work(thread) on all threads at once, in seconds. The caller is thread 0: it holds a
// core already, and those it starts are put on others.
double best_seconds(int num_threads, const std::function<void(int)>& work) {
  double best = 1e9;
  for (int64_t round = 0; round < kRounds; ++round) {
    std::atomic<int> ready{0};
    std::vector<double> ends(static_cast<size_t>(num_threads));
    std::chrono::steady_clock::time_point start;
    const auto run = [&](int thread) {
      if (ready.fetch_add(1) == num_threads - 1) start = std::chrono::steady_clock::now(), ready.fetch_add(1);
      while (ready.load() <= num_threads) std::this_thread::yield();
      work(thread);
      ends[static_cast<size_t>(thread)] =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    std::vector<std::thread> threads;
    for (int thread = 1; thread < num_threads; ++thread) threads.emplace_back(run, thread);
    run(0);
    for (std::thread& thread : threads) thread.join();
    best = std::min(best, *std::max_element(ends.begin(), ends.end()));
  }
  return best;
}

double operations_per_s(const ArithmeticLoop& loop, int num_threads) {
  if (loop.run == nullptr) return 0.0;
  const double seconds = best_seconds(num_threads, [&](int thread) { sink += loop.run(kIterations, 1 + thread); });
  return loop.operations * static_cast<double>(kIterations) * num_threads / seconds;
}

}  // namespace

MachineLimits measure_limits(int num_threads, std::string_view kernels) {
  const Buffer data(kReadBytes);
  std::fill_n(data.as<uint64_t>(), kReadBytes / 8, uint64_t{1});  // or every page would be the one zero page
  const LimitLoops loops = limit_loops(kernels);
  const int64_t share = kReadBytes / num_threads / 4096 * 4096;
  const auto read_bytes_per_s = [&](auto* read) {
    const double seconds =
        best_seconds(num_threads, [&](int thread) { sink += read(data.data() + thread * share, share); });
    return static_cast<double>(share * num_threads) / seconds;
  };
  MachineLimits limits;
  limits.read_bytes_per_s = read_bytes_per_s(loops.read_four_streams);
  limits.single_stream_bytes_per_s = read_bytes_per_s(loops.read_one_stream);
  limits.flops_per_s = operations_per_s(loops.f32, num_threads);
  limits.bf16_flops_per_s = operations_per_s(loops.bf16, num_threads);
  limits.int8_ops_per_s = operations_per_s(loops.int8, num_threads);
  return limits;
}

}  // namespace quire
