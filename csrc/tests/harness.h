// A few lines of test harness: random inputs, checks that count, a list of tests run for every kernel table.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernel_table.h"

namespace quire::testing {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// SplitMix64: small, seeded, the same everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  float uniform(float low, float high) { return low + (high - low) * static_cast<float>(bits() >> 40) / 16777216.0f; }
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  std::vector<float> floats(size_t count, float low = -1.0f, float high = 1.0f) {
    std::vector<float> v(count);
    for (float& x : v) x = uniform(low, high);
    return v;
  }

 private:
  uint64_t state_;
};

// Memory at 64-byte alignment, exactly `bytes` long, so that the address sanitizer sees every overrun.
class AlignedBytes {
 public:
  explicit AlignedBytes(int64_t bytes, int fill = 0xff) : size_(bytes), data_(nullptr) {
    if (posix_memalign(&data_, 64, static_cast<size_t>(bytes > 0 ? bytes : 1)) != 0) std::abort();
    std::memset(data_, fill, static_cast<size_t>(bytes));  // 0xff: floats are NaN, ids are -1
  }
  ~AlignedBytes() { std::free(data_); }
  AlignedBytes(const AlignedBytes&) = delete;
  AlignedBytes& operator=(const AlignedBytes&) = delete;
  template <class T = void>
  T* as() {
    return static_cast<T*>(data_);
  }
  int64_t size() const { return size_; }

 private:
  int64_t size_;
  void* data_;
};

class Checker {
 public:
  void expect(bool ok, const std::string& what) {
    ++checks_;
    if (ok) return;
    ++failures_;
    if (failures_ <= 40) std::printf("FAIL [%s] %s\n", isa.c_str(), what.c_str());
  }
  // |got - want| <= absolute + relative * |want|
  void close(double got, double want, double absolute, double relative, const std::string& what) {
    const bool ok = std::fabs(got - want) <= absolute + relative * std::fabs(want) || got == want ||
                    (std::isnan(got) && std::isnan(want));
    expect(ok, ok ? std::string() : what + ": got " + std::to_string(got) + ", want " + std::to_string(want));
  }
  void same_bits(const float* a, const float* b, int64_t count, const std::string& what) {
    expect(count == 0 || std::memcmp(a, b, static_cast<size_t>(count) * sizeof(float)) == 0, what + ": bits differ");
  }
  int failures() const { return failures_; }
  long checks() const { return checks_; }
  std::string isa;

 private:
  int failures_ = 0;
  long checks_ = 0;
};

inline uint16_t to_bf16(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  if (std::isnan(f)) return 0x7fc0;
  return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
inline float from_bf16(uint16_t h) {
  const uint32_t u = static_cast<uint32_t>(h) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
// f16 through arithmetic only: independent of the kernels' bit manipulation.
inline float from_f16(uint16_t h) {
  const int exponent = (h >> 10) & 31, fraction = h & 1023;
  const float sign = h & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? kNaN : sign * std::numeric_limits<float>::infinity();
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
  return sign * std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
}
inline uint16_t to_f16(float f) {
  if (std::isnan(f)) return 0x7e00;
  const uint16_t sign = std::signbit(f) ? 0x8000 : 0;
  const double a = std::fabs(static_cast<double>(f));
  if (a == 0.0) return sign;
  if (a >= 65520.0) return static_cast<uint16_t>(sign | 0x7c00);
  int exponent = 0;
  std::frexp(a, &exponent);
  const int lowest = std::max(exponent - 11, -24);  // weight of the last bit
  const double units = std::nearbyint(std::ldexp(a, -lowest));
  if (lowest == -24) return static_cast<uint16_t>(sign | static_cast<uint16_t>(units));
  // units in [1024, 2048]; 2048 carries into the exponent by itself
  return static_cast<uint16_t>(sign | (static_cast<uint16_t>((lowest + 24) << 10) + static_cast<uint16_t>(units)));
}

// Values rounded to a dtype: the bytes as they lie in memory, and what they mean.
struct Typed {
  std::vector<uint8_t> bytes;
  std::vector<float> values;
};
inline Typed typed(const std::vector<float>& source, DType dtype) {
  Typed t;
  t.values = source;
  t.bytes.resize(source.size() * static_cast<size_t>(dtype_bytes(dtype)));
  for (size_t i = 0; i < source.size(); ++i) {
    if (dtype == DType::f32) {
      std::memcpy(&t.bytes[i * 4], &source[i], 4);
    } else {
      const uint16_t h = dtype == DType::bf16 ? to_bf16(source[i]) : to_f16(source[i]);
      std::memcpy(&t.bytes[i * 2], &h, 2);
      t.values[i] = dtype == DType::bf16 ? from_bf16(h) : from_f16(h);
    }
  }
  return t;
}

inline const char* dtype_name(DType t) {
  return t == DType::f32 ? "f32" : t == DType::bf16 ? "bf16" : t == DType::f16 ? "f16" : "i8";
}

// Vectors of `dim` as an int8 cache keeps them: values are scale * q.
struct QuantizedVectors {
  std::vector<int8_t> q;
  std::vector<float> scales, values;
};
inline QuantizedVectors quantized(const std::vector<float>& source, int64_t dim) {
  QuantizedVectors result;
  for (size_t begin = 0; begin < source.size(); begin += static_cast<size_t>(dim)) {
    float most = 0;
    bool finite = true;
    for (int64_t i = 0; i < dim; ++i) {
      most = std::fmax(most, std::fabs(source[begin + i]));
      finite = finite && std::isfinite(source[begin + i]);
    }
    const float scale = finite ? most / 127.0f : kNaN;
    result.scales.push_back(scale);
    for (int64_t i = 0; i < dim; ++i) {
      const float units = finite && scale > 0 ? std::nearbyint(source[begin + i] / scale) : 0.0f;
      const float bounded = std::fmin(127.0f, std::fmax(-127.0f, units));
      result.q.push_back(static_cast<int8_t>(bounded));
      result.values.push_back(scale * bounded);
    }
  }
  return result;
}

#ifdef __SANITIZE_THREAD__
constexpr bool kTwoThreads = true;
#else
constexpr bool kTwoThreads = false;
#endif

// Runs items [0, count) in uneven pieces, backwards: kernels must not care. Under the thread sanitizer two threads
// share the pieces, so that two items that write the same memory are found.
template <class Args>
void run_in_pieces(RangeKernel<Args> kernel, const Args& args, int64_t count, int64_t scratch_bytes = 0) {
  const auto run = [&](int only) {
    AlignedBytes scratch(scratch_bytes);
    int64_t end = count, piece = 1;
    for (int i = 0; end > 0; ++i) {
      const int64_t begin = end > piece ? end - piece : 0;
      if (!kTwoThreads || i % 2 == only) kernel(args, begin, end, scratch_bytes ? scratch.as() : nullptr);
      end = begin;
      piece = piece % 3 + 1;
    }
  };
  if constexpr (kTwoThreads) {
    std::thread other(run, 1);
    run(0);
    other.join();
  } else {
    run(0);
  }
}

using Test = void (*)(const KernelTable&, Checker&);
void test_linear(const KernelTable& table, Checker& check);
void test_rowwise(const KernelTable& table, Checker& check);
void test_cache(const KernelTable& table, Checker& check);
void test_attention(const KernelTable& table, Checker& check);

}  // namespace quire::testing
