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

// c[6][16] (i32) = a[pairs][6] (pairs of int16)^T * b[pairs][16][2] (int16).
__attribute__((noinline)) inline void gemm_i16_6x16(int64_t pairs, const int32_t* a, const int16_t* b, int32_t* c) {
#define QUIRE_ROW(OFFSET, C0, C1)                                                              \
  "vpbroadcastd " #OFFSET "(%[a]), %%ymm2\n\t"                                                 \
  "vpmaddwd %%ymm0, %%ymm2, %%ymm3\n\t vpmaddwd %%ymm1, %%ymm2, %%ymm2\n\t"                    \
  "vpaddd %%ymm3, %%ymm" #C0 ", %%ymm" #C0 "\n\t vpaddd %%ymm2, %%ymm" #C1 ", %%ymm" #C1 "\n\t"
#define QUIRE_STEP(A, B)                                                                       \
  "vmovdqa " #B "(%[b]), %%ymm0\n\t vmovdqa " #B "+32(%[b]), %%ymm1\n\t"                       \
  QUIRE_ROW(A, 4, 5) QUIRE_ROW(A + 4, 6, 7) QUIRE_ROW(A + 8, 8, 9)                             \
  QUIRE_ROW(A + 12, 10, 11) QUIRE_ROW(A + 16, 12, 13) QUIRE_ROW(A + 20, 14, 15)
  int64_t halves = pairs / 2;  // pairs is a multiple of 16
  __asm__ volatile(
      "vpxor %%xmm4, %%xmm4, %%xmm4\n\t vpxor %%xmm5, %%xmm5, %%xmm5\n\t vpxor %%xmm6, %%xmm6, %%xmm6\n\t"
      "vpxor %%xmm7, %%xmm7, %%xmm7\n\t vpxor %%xmm8, %%xmm8, %%xmm8\n\t vpxor %%xmm9, %%xmm9, %%xmm9\n\t"
      "vpxor %%xmm10, %%xmm10, %%xmm10\n\t vpxor %%xmm11, %%xmm11, %%xmm11\n\t vpxor %%xmm12, %%xmm12, %%xmm12\n\t"
      "vpxor %%xmm13, %%xmm13, %%xmm13\n\t vpxor %%xmm14, %%xmm14, %%xmm14\n\t vpxor %%xmm15, %%xmm15, %%xmm15\n\t"
      ".p2align 5\n\t"
      "1:\n\t" QUIRE_STEP(0, 0) QUIRE_STEP(24, 64)
      "add $48, %[a]\n\t add $128, %[b]\n\t dec %[halves]\n\t jnz 1b\n\t"
      "vmovdqu %%ymm4, (%[c])\n\t vmovdqu %%ymm5, 32(%[c])\n\t vmovdqu %%ymm6, 64(%[c])\n\t"
      "vmovdqu %%ymm7, 96(%[c])\n\t vmovdqu %%ymm8, 128(%[c])\n\t vmovdqu %%ymm9, 160(%[c])\n\t"
      "vmovdqu %%ymm10, 192(%[c])\n\t vmovdqu %%ymm11, 224(%[c])\n\t vmovdqu %%ymm12, 256(%[c])\n\t"
      "vmovdqu %%ymm13, 288(%[c])\n\t vmovdqu %%ymm14, 320(%[c])\n\t vmovdqu %%ymm15, 352(%[c])\n\t"
      : [a] "+r"(a), [b] "+r"(b), [halves] "+r"(halves)
      : [c] "r"(c)
      : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
#undef QUIRE_STEP
#undef QUIRE_ROW
}

QUIRE_INLINE F32x8 add_int4_block(F32x8 sums, I32x8 dot, int32_t x_sum, float x_scale, const uint16_t* scales, const uint16_t* zeros);

// dots[6][16 lanes of 2] (i16) = a[8][6] (quads of int8)^T * b[8][16][4] (nibbles in bytes): one block of 32 inputs.
__attribute__((noinline)) inline void dot_u8_6x16(const int32_t* a, const uint8_t* b, int16_t* dots) {
#define QUIRE_ROW(OFFSET, C0, C1)                                                              \
  "vpbroadcastd " #OFFSET "(%[a]), %%ymm2\n\t"                                                 \
  "vpmaddubsw %%ymm2, %%ymm0, %%ymm3\n\t vpmaddubsw %%ymm2, %%ymm1, %%ymm2\n\t"                \
  "vpaddw %%ymm3, %%ymm" #C0 ", %%ymm" #C0 "\n\t vpaddw %%ymm2, %%ymm" #C1 ", %%ymm" #C1 "\n\t"
#define QUIRE_STEP(A, B)                                                                       \
  "vmovdqa " #B "(%[b]), %%ymm0\n\t vmovdqa " #B "+32(%[b]), %%ymm1\n\t"                       \
  QUIRE_ROW(A, 4, 5) QUIRE_ROW(A + 4, 6, 7) QUIRE_ROW(A + 8, 8, 9)                             \
  QUIRE_ROW(A + 12, 10, 11) QUIRE_ROW(A + 16, 12, 13) QUIRE_ROW(A + 20, 14, 15)
  __asm__ volatile(
      "vpxor %%xmm4, %%xmm4, %%xmm4\n\t vpxor %%xmm5, %%xmm5, %%xmm5\n\t vpxor %%xmm6, %%xmm6, %%xmm6\n\t"
      "vpxor %%xmm7, %%xmm7, %%xmm7\n\t vpxor %%xmm8, %%xmm8, %%xmm8\n\t vpxor %%xmm9, %%xmm9, %%xmm9\n\t"
      "vpxor %%xmm10, %%xmm10, %%xmm10\n\t vpxor %%xmm11, %%xmm11, %%xmm11\n\t vpxor %%xmm12, %%xmm12, %%xmm12\n\t"
      "vpxor %%xmm13, %%xmm13, %%xmm13\n\t vpxor %%xmm14, %%xmm14, %%xmm14\n\t vpxor %%xmm15, %%xmm15, %%xmm15\n\t"
      QUIRE_STEP(0, 0) QUIRE_STEP(24, 64) QUIRE_STEP(48, 128) QUIRE_STEP(72, 192)
      QUIRE_STEP(96, 256) QUIRE_STEP(120, 320) QUIRE_STEP(144, 384) QUIRE_STEP(168, 448)
      "vmovdqu %%ymm4, (%[c])\n\t vmovdqu %%ymm5, 32(%[c])\n\t vmovdqu %%ymm6, 64(%[c])\n\t"
      "vmovdqu %%ymm7, 96(%[c])\n\t vmovdqu %%ymm8, 128(%[c])\n\t vmovdqu %%ymm9, 160(%[c])\n\t"
      "vmovdqu %%ymm10, 192(%[c])\n\t vmovdqu %%ymm11, 224(%[c])\n\t vmovdqu %%ymm12, 256(%[c])\n\t"
      "vmovdqu %%ymm13, 288(%[c])\n\t vmovdqu %%ymm14, 320(%[c])\n\t vmovdqu %%ymm15, 352(%[c])\n\t"
      :
      : [a] "r"(a), [b] "r"(b), [c] "r"(dots)
      : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
#undef QUIRE_STEP
#undef QUIRE_ROW
}

// One block of 32 inputs: sums[6][16] += scaled dots.
inline void gemm_u8_6x16(const int32_t* a, const uint8_t* b, const int32_t* x_sums, const float* x_scales,
                         const uint16_t* scales, const uint16_t* zeros, float* sums) {
  alignas(32) int16_t dots[kTileRows * 32];
  dot_u8_6x16(a, b, dots);
  for (int64_t r = 0; r < kTileRows; ++r)
    for (int64_t h = 0; h < kPanelColumns; h += 8) {
      I16x16 dot;
      __builtin_memcpy(&dot, dots + (r * kPanelColumns + h) * 2, sizeof dot);
      float* at = sums + r * kPanelColumns + h;
      store(at, add_int4_block(load(at), add_pairs(dot), x_sums[r], x_scales[r], scales + h, zeros ? zeros + h : nullptr));
    }
}
