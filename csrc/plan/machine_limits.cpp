#include "machine_limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "buffer.h"
#include "kernel_table.h"

namespace quire {

namespace {

constexpr int64_t kReadBytes = int64_t{256} << 20;
constexpr int64_t kRounds = 6;
constexpr int64_t kMultiplyAdds = 4'000'000;  // of every chain, a round
constexpr int kChains = 12;                   // independent accumulators: latency times throughput of two FMA ports

typedef float F32x8 __attribute__((vector_size(32)));
typedef uint64_t U64x4 __attribute__((vector_size(32)));

// The same loops compiled for AVX2 where the processor has it, and for the build's baseline.
#define QUIRE_LIMIT_LOOPS(NAME, TARGET)                                                       \
  TARGET uint64_t read_##NAME(const std::byte* data, int64_t bytes) {                         \
    const int64_t part = bytes / 4 / 64 * 64;                                                 \
    U64x4 sums[8] = {};                                                                       \
    for (int64_t i = 0; i < part; i += 64)                                                    \
      for (int stream = 0; stream < 4; ++stream) {                                            \
        const auto* line = reinterpret_cast<const U64x4*>(data + stream * part + i);          \
        sums[2 * stream] ^= line[0];                                                          \
        sums[2 * stream + 1] ^= line[1];                                                      \
      }                                                                                       \
    uint64_t sum = 0;                                                                         \
    for (const U64x4& s : sums) sum ^= s[0] ^ s[1] ^ s[2] ^ s[3];                             \
    return sum;                                                                               \
  }                                                                                           \
  TARGET float multiply_add_##NAME(int64_t iterations, float seed) {                          \
    F32x8 c[kChains];                                                                         \
    const F32x8 a = F32x8{} + seed, b = F32x8{} + 0.5f;                                       \
    for (F32x8& chain : c) chain = a;                                                         \
    for (int64_t i = 0; i < iterations; ++i)                                                  \
      for (int j = 0; j < kChains; ++j) c[j] = c[j] * b + a;                                  \
    F32x8 all = {};                                                                           \
    for (const F32x8& chain : c) all += chain;                                                \
    return all[0] + all[7];                                                                   \
  }

QUIRE_LIMIT_LOOPS(baseline, )
#if defined(__x86_64__)
QUIRE_LIMIT_LOOPS(avx2, __attribute__((target("avx2,fma"))))
#endif

std::atomic<uint64_t> sink{0};  // results go here, or the loops would be dropped

// Fastest of kRounds rounds of work(thread) on all threads at once, in seconds.
double best_seconds(int num_threads, const std::function<void(int)>& work) {
  double best = 1e9;
  for (int64_t round = 0; round < kRounds; ++round) {
    std::atomic<int> ready{0};
    std::vector<std::thread> threads;
    std::vector<double> ends(static_cast<size_t>(num_threads));
    std::chrono::steady_clock::time_point start;
    for (int thread = 0; thread < num_threads; ++thread) {
      threads.emplace_back([&, thread] {
        if (ready.fetch_add(1) == num_threads - 1) start = std::chrono::steady_clock::now(), ready.fetch_add(1);
        while (ready.load() <= num_threads) std::this_thread::yield();
        work(thread);
        ends[static_cast<size_t>(thread)] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      });
    }
    for (std::thread& thread : threads) thread.join();
    best = std::min(best, *std::max_element(ends.begin(), ends.end()));
  }
  return best;
}

}  // namespace

MachineLimits measure_limits(int num_threads) {
  const Buffer data(kReadBytes);
  std::fill_n(data.as<uint64_t>(), kReadBytes / 8, uint64_t{1});  // or every page would be the one zero page
  auto* read = read_baseline;
  auto* multiply_add = multiply_add_baseline;
#if defined(__x86_64__)
  if (detect_cpu().avx2) read = read_avx2, multiply_add = multiply_add_avx2;
#endif
  const int64_t share = kReadBytes / num_threads / 256 * 256;
  const double read_s = best_seconds(num_threads, [&](int thread) { sink += read(data.data() + thread * share, share); });
  const double flop_s = best_seconds(num_threads, [&](int thread) {
    sink += static_cast<uint64_t>(multiply_add(kMultiplyAdds, 1e-3f * static_cast<float>(1 + thread)));
  });
  const double flops = 2.0 * 8 * kChains * static_cast<double>(kMultiplyAdds) * num_threads;
  return {static_cast<double>(share * num_threads) / read_s, flops / flop_s};
}

}  // namespace quire
