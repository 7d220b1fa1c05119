// What the processor and the operating system offer.
#include "kernel_table.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace quire {

namespace {

#if defined(__x86_64__) || defined(_M_X64)
// Extended control register 0: which vector state the operating system saves.
uint64_t read_xcr0() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

CpuFeatures detect_x86() {
  CpuFeatures f;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  const bool fma = c & (1u << 12), osxsave = c & (1u << 27), avx = c & (1u << 28), f16c = c & (1u << 29);
  if (!osxsave || !avx) return f;
  const uint64_t state = read_xcr0();
  const bool ymm = (state & 0x6) == 0x6, zmm = (state & 0xe6) == 0xe6, tiles = (state & 0x60000) == 0x60000;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  f.avx2 = ymm && fma && f16c && (b & (1u << 5));
  const uint32_t f_bw_dq_vl = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);
  f.avx512 = f.avx2 && zmm && (b & f_bw_dq_vl) == f_bw_dq_vl;
  f.avx512_vnni = f.avx512 && (c & (1u << 11));
  f.amx_bf16 = tiles && (d & (1u << 22));
  f.amx_int8 = tiles && (d & (1u << 25));
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) f.avx512_bf16 = f.avx512 && (a & (1u << 5));
  return f;
}
#endif

#if defined(__aarch64__)
CpuFeatures detect_arm() {
  CpuFeatures f;
  f.neon = true;  // part of the base architecture
#if defined(__linux__)
  const unsigned long dotprod = 1ul << 20, i8mm = 1ul << 13;  // HWCAP_ASIMDDP, HWCAP2_I8MM of the kernel's interface
  f.neon_dotprod = getauxval(AT_HWCAP) & dotprod;
  f.neon_i8mm = f.neon_dotprod && (getauxval(AT_HWCAP2) & i8mm);
#endif
  return f;
}
#endif

}  // namespace

const CpuFeatures& detect_cpu() {
  // Asked once: in a virtual machine each CPUID is a trap into its host.
#if defined(__x86_64__) || defined(_M_X64)
  static const CpuFeatures features = detect_x86();
#elif defined(__aarch64__)
  static const CpuFeatures features = detect_arm();
#else
  static const CpuFeatures features;
#endif
  return features;
}

}  // namespace quire
