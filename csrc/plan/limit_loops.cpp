#include "limit_loops.h"

#include "kernel_table.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace quire {

namespace {

constexpr int kChains = 12;  // independent accumulators: they cover latency times throughput of two units

// The accumulators of the loops below by name, and their instructions as text: gcc 12 keeps arrays of vectors that
// intrinsics write on the stack, and the loop would measure the stack.
#define QUIRE_CHAINS(OP) OP(c0) OP(c1) OP(c2) OP(c3) OP(c4) OP(c5) OP(c6) OP(c7) OP(c8) OP(c9) OP(c10) OP(c11)

template <typename Vector>
uint64_t fold(const Vector& vector) {
  uint64_t sum = 0;
  for (size_t i = 0; i < sizeof(Vector) / sizeof(vector[0]); ++i) sum ^= static_cast<uint64_t>(vector[i]);
  return sum;
}

// Reads and float32 multiply-adds with vectors of BYTES, compiled for TARGET.
#define QUIRE_LIMIT_LOOPS(NAME, BYTES, TARGET)                                                     \
  typedef float F32_##NAME __attribute__((vector_size(BYTES)));                                    \
  typedef uint64_t U64_##NAME __attribute__((vector_size(BYTES)));                                 \
  template <int kStreams>                                                                          \
  TARGET uint64_t read_##NAME(const std::byte* data, int64_t bytes) {                              \
    constexpr int kLine = 64 / BYTES, kAhead = 8 / kStreams; /* lines of a stream an iteration */  \
    const int64_t part = bytes / kStreams / (64 * kAhead) * (64 * kAhead);                         \
    U64_##NAME sums[kStreams * kLine] = {};                                                        \
    for (int64_t i = 0; i < part; i += 64 * kAhead)                                                \
      for (int stream = 0; stream < kStreams; ++stream) {                                          \
        const auto* lines = reinterpret_cast<const U64_##NAME*>(data + stream * part + i);         \
        for (int j = 0; j < kAhead * kLine; ++j) sums[stream * kLine + j % kLine] ^= lines[j];     \
      }                                                                                            \
    uint64_t sum = 0;                                                                              \
    for (const U64_##NAME& s : sums)                                                               \
      for (int i = 0; i < BYTES / 8; ++i) sum ^= s[i];                                             \
    return sum;                                                                                    \
  }                                                                                                \
  TARGET uint64_t multiply_add_##NAME(int64_t iterations, int seed) {                              \
    F32_##NAME c[kChains];                                                                         \
    const F32_##NAME a = F32_##NAME{} + 1e-3f * static_cast<float>(seed), b = F32_##NAME{} + 0.5f; \
    for (F32_##NAME& chain : c) chain = a;                                                         \
    for (int64_t i = 0; i < iterations; ++i)                                                       \
      for (int j = 0; j < kChains; ++j) c[j] = c[j] * b + a;                                       \
    for (int j = 1; j < kChains; ++j) c[0] += c[j];                                                \
    return static_cast<uint64_t>(c[0][0] + c[0][BYTES / 4 - 1]);                                   \
  }                                                                                                \
  constexpr double kF32_##NAME = 2.0 * (BYTES / 4) * kChains;

QUIRE_LIMIT_LOOPS(baseline, 16, )

#if defined(__x86_64__)
QUIRE_LIMIT_LOOPS(avx2, 32, __attribute__((target("avx2,fma"))))
QUIRE_LIMIT_LOOPS(avx512, 64, __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq"))))

// Products of unsigned and signed bytes in pairs, then in fours, then the sum: three instructions for 32 products.
__attribute__((target("avx2"))) uint64_t int8_avx2(int64_t iterations, int seed) {
  const __m256i a = _mm256_set1_epi8(static_cast<char>(seed & 1)), b = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
#define QUIRE_START(c) __m256i c = a;
#define QUIRE_STEP(c)                                                                \
  {                                                                                  \
    __m256i t;                                                                       \
    asm volatile("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0" \
                 : "+x"(c), "=&x"(t)                                                 \
                 : "x"(a), "x"(b), "x"(ones));                                       \
  }
#define QUIRE_ADD(c) sum = _mm256_add_epi32(sum, c);
  QUIRE_CHAINS(QUIRE_START)
  for (int64_t i = 0; i < iterations; ++i) { QUIRE_CHAINS(QUIRE_STEP) }
  __m256i sum = _mm256_setzero_si256();
  QUIRE_CHAINS(QUIRE_ADD)
  return fold(sum);
#undef QUIRE_START
#undef QUIRE_STEP
#undef QUIRE_ADD
}

#define QUIRE_DOT_LOOP(NAME, TARGET, INSTRUCTION, BITS)                           \
  TARGET uint64_t NAME(int64_t iterations, int seed) {                            \
    const __m512i a = _mm512_set1_epi16(static_cast<short>((BITS) + (seed & 1))); \
    QUIRE_CHAINS(QUIRE_START)                                                     \
    for (int64_t i = 0; i < iterations; ++i) { QUIRE_CHAINS(INSTRUCTION) }        \
    __m512i sum = _mm512_setzero_si512();                                         \
    QUIRE_CHAINS(QUIRE_ADD)                                                       \
    return fold(sum);                                                             \
  }
#define QUIRE_START(c) __m512i c = _mm512_setzero_si512();
#define QUIRE_ADD(c) sum = _mm512_xor_si512(sum, c);
#define QUIRE_INT8(c) asm volatile("vpdpbusd %1, %1, %0" : "+v"(c) : "v"(a));
#define QUIRE_BF16(c) asm volatile("vdpbf16ps %1, %1, %0" : "+v"(c) : "v"(a));
QUIRE_DOT_LOOP(int8_avx512, __attribute__((target("avx512f,avx512vnni"))), QUIRE_INT8, 0x0101)
QUIRE_DOT_LOOP(bf16_avx512, __attribute__((target("avx512f,avx512bf16"))), QUIRE_BF16, 0x3a00)  // small normal numbers
#elif defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
uint64_t int8_dot(int64_t iterations, int seed) {
  const int8x16_t a = vdupq_n_s8(static_cast<int8_t>(seed & 1));
#define QUIRE_START(c) int32x4_t c = vdupq_n_s32(0);
#define QUIRE_STEP(c) asm volatile("sdot %0.4s, %1.16b, %1.16b" : "+w"(c) : "w"(a));
#define QUIRE_ADD(c) sum = vaddq_s32(sum, c);
  QUIRE_CHAINS(QUIRE_START)
  for (int64_t i = 0; i < iterations; ++i) { QUIRE_CHAINS(QUIRE_STEP) }
  int32x4_t sum = vdupq_n_s32(0);
  QUIRE_CHAINS(QUIRE_ADD)
  return fold(sum);
}
#endif

// What the kernels of a name use of this processor; "" = all of it.
CpuFeatures used_by(std::string_view kernels) {
  CpuFeatures cpu = detect_cpu();
  if (kernels == "portable") cpu = {};
  if (kernels == "avx2") cpu = {.avx2 = cpu.avx2};
  if (kernels == "avx512") cpu.avx512_vnni = cpu.avx512_bf16 = false;
  if (kernels == "avx512_vnni") cpu.avx512_bf16 = false;
  if (kernels == "neon") cpu.neon_dotprod = false;
  return cpu;
}

}  // namespace

LimitLoops limit_loops(std::string_view kernels) {
  [[maybe_unused]] const CpuFeatures cpu = used_by(kernels);
  LimitLoops loops{read_baseline<4>, read_baseline<1>, {multiply_add_baseline, kF32_baseline}, {}, {}};
#if defined(__x86_64__)
  if (cpu.avx2) {
    loops = {read_avx2<4>, read_avx2<1>, {multiply_add_avx2, kF32_avx2}, {}, {int8_avx2, 2.0 * 32 * kChains}};
  }
  if (cpu.avx512) {
    loops.read_four_streams = read_avx512<4>, loops.read_one_stream = read_avx512<1>;
    loops.f32 = {multiply_add_avx512, kF32_avx512};
  }
  if (cpu.avx512_vnni) loops.int8 = {int8_avx512, 2.0 * 64 * kChains};
  if (cpu.avx512_bf16) loops.bf16 = {bf16_avx512, 2.0 * 32 * kChains};
#elif defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
  if (cpu.neon_dotprod) loops.int8 = {int8_dot, 2.0 * 16 * kChains};
#endif
  return loops;
}

}  // namespace quire
