// What the machine can do: memory read bandwidth and multiply-add rate. Compiled for AVX2 where that exists.
#pragma once

#include <cstdint>

namespace quire::bench {

// Reads [data, data + bytes) as `streams` parallel sequential streams (1 or 4); returns a value that must be used.
float read_streams(const float* data, int64_t bytes, int streams);

// Runs `iterations` rounds of independent multiply-adds; returns a value that must be used.
float multiply_adds(int64_t iterations);
constexpr int64_t kFlopsPerIteration = 12 * 8 * 2;

}  // namespace quire::bench
