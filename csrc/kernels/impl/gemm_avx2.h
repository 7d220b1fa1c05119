// Micro-kernels of the blocked linears on AVX2. Included inside namespace quire::avx2.
// In assembly, because compilers tend to spill accumulators here or to fold the loads of b into the arithmetic.

// c[6][16] += a[k][6]^T * b[k][16], one fused multiply-add per k and element, in order.
__attribute__((noinline)) inline void gemm_6x16(int64_t k, const float* a, const float* b, float* c) {
#define QUIRE_STEP(A, B)                                                                     \
  "vmovaps " #B "(%[b]), %%ymm0\n\t vmovaps " #B "+32(%[b]), %%ymm1\n\t"                     \
  "vbroadcastss " #A "(%[a]), %%ymm2\n\t vbroadcastss " #A "+4(%[a]), %%ymm3\n\t"            \
  "vfmadd231ps %%ymm0, %%ymm2, %%ymm4\n\t vfmadd231ps %%ymm1, %%ymm2, %%ymm5\n\t"            \
  "vfmadd231ps %%ymm0, %%ymm3, %%ymm6\n\t vfmadd231ps %%ymm1, %%ymm3, %%ymm7\n\t"            \
  "vbroadcastss " #A "+8(%[a]), %%ymm2\n\t vbroadcastss " #A "+12(%[a]), %%ymm3\n\t"         \
  "vfmadd231ps %%ymm0, %%ymm2, %%ymm8\n\t vfmadd231ps %%ymm1, %%ymm2, %%ymm9\n\t"            \
  "vfmadd231ps %%ymm0, %%ymm3, %%ymm10\n\t vfmadd231ps %%ymm1, %%ymm3, %%ymm11\n\t"          \
  "vbroadcastss " #A "+16(%[a]), %%ymm2\n\t vbroadcastss " #A "+20(%[a]), %%ymm3\n\t"        \
  "vfmadd231ps %%ymm0, %%ymm2, %%ymm12\n\t vfmadd231ps %%ymm1, %%ymm2, %%ymm13\n\t"          \
  "vfmadd231ps %%ymm0, %%ymm3, %%ymm14\n\t vfmadd231ps %%ymm1, %%ymm3, %%ymm15\n\t"
  int64_t blocks = k / 4, rest = k % 4;
  __asm__ volatile(
      "vmovups (%[c]), %%ymm4\n\t vmovups 32(%[c]), %%ymm5\n\t vmovups 64(%[c]), %%ymm6\n\t"
      "vmovups 96(%[c]), %%ymm7\n\t vmovups 128(%[c]), %%ymm8\n\t vmovups 160(%[c]), %%ymm9\n\t"
      "vmovups 192(%[c]), %%ymm10\n\t vmovups 224(%[c]), %%ymm11\n\t vmovups 256(%[c]), %%ymm12\n\t"
      "vmovups 288(%[c]), %%ymm13\n\t vmovups 320(%[c]), %%ymm14\n\t vmovups 352(%[c]), %%ymm15\n\t"
      "test %[blocks], %[blocks]\n\t jz 2f\n\t"
      ".p2align 5\n\t"
      "1:\n\t" QUIRE_STEP(0, 0) QUIRE_STEP(24, 64) QUIRE_STEP(48, 128) QUIRE_STEP(72, 192)
      "add $96, %[a]\n\t add $256, %[b]\n\t dec %[blocks]\n\t jnz 1b\n\t"
      "2:\n\t test %[rest], %[rest]\n\t jz 4f\n\t"
      "3:\n\t" QUIRE_STEP(0, 0)
      "add $24, %[a]\n\t add $64, %[b]\n\t dec %[rest]\n\t jnz 3b\n\t"
      "4:\n\t"
      "vmovups %%ymm4, (%[c])\n\t vmovups %%ymm5, 32(%[c])\n\t vmovups %%ymm6, 64(%[c])\n\t"
      "vmovups %%ymm7, 96(%[c])\n\t vmovups %%ymm8, 128(%[c])\n\t vmovups %%ymm9, 160(%[c])\n\t"
      "vmovups %%ymm10, 192(%[c])\n\t vmovups %%ymm11, 224(%[c])\n\t vmovups %%ymm12, 256(%[c])\n\t"
      "vmovups %%ymm13, 288(%[c])\n\t vmovups %%ymm14, 320(%[c])\n\t vmovups %%ymm15, 352(%[c])\n\t"
      : [a] "+r"(a), [b] "+r"(b), [blocks] "+r"(blocks), [rest] "+r"(rest)
      : [c] "r"(c)
      : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
#undef QUIRE_STEP
}
