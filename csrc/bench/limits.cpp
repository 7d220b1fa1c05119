#include "limits.h"

namespace quire::bench {
namespace {

typedef float F32x8 __attribute__((vector_size(32)));
typedef float F32x8Unaligned __attribute__((vector_size(32), aligned(4), may_alias));

// Eight sums, two lines per stream and step: no accumulator leaves its register.
template <int Streams>
float read(const float* data, int64_t floats) {
  constexpr int kSums = 8, kVectors = kSums / Streams;
  F32x8 sum[kSums] = {};
  const int64_t part = floats / Streams / (kVectors * 8) * (kVectors * 8);
  for (int64_t i = 0; i < part; i += kVectors * 8) {
#pragma GCC unroll 8
    for (int j = 0; j < kSums; ++j)
      sum[j] = sum[j] + *reinterpret_cast<const F32x8Unaligned*>(data + (j / kVectors) * part + i + (j % kVectors) * 8);
  }
  F32x8 all = {};
  for (F32x8 s : sum) all = all + s;
  return all[0] + all[3];
}

}  // namespace

float read_streams(const float* data, int64_t bytes, int streams) {
  return streams == 4 ? read<4>(data, bytes / 4) : read<1>(data, bytes / 4);
}

float multiply_adds(int64_t iterations) {
  F32x8 c[12], a = {1e-9f, 2e-9f, 3e-9f, 4e-9f, 5e-9f, 6e-9f, 7e-9f, 8e-9f}, b = a + 0.5f;
  for (F32x8& v : c) v = a;
  for (int64_t i = 0; i < iterations; ++i) {
    __asm__ volatile("" : "+x"(a), "+x"(b));
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) c[j] = a * b + c[j];
  }
  F32x8 all = {};
  for (F32x8 v : c) all = all + v;
  return all[0];
}

}  // namespace quire::bench
