// Eight float lanes in the compiler's vector extension, on which + - * / and comparisons work lane by lane: for
// processors with 256-bit registers, and for plain C++. Included by vec_common.h.

typedef float F32x8 __attribute__((vector_size(32)));
typedef int32_t I32x8 __attribute__((vector_size(32)));
typedef int16_t I16x16 __attribute__((vector_size(32)));
typedef uint8_t U8x32 __attribute__((vector_size(32)));
typedef float F32x8Unaligned __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t I32x8Unaligned __attribute__((vector_size(32), aligned(1), may_alias));
typedef uint8_t U8x32Unaligned __attribute__((vector_size(32), aligned(1), may_alias));

QUIRE_INLINE F32x8 load(const float* p) { return *reinterpret_cast<const F32x8Unaligned*>(p); }
QUIRE_INLINE void store(float* p, F32x8 v) { *reinterpret_cast<F32x8Unaligned*>(p) = v; }
QUIRE_INLINE I32x8 load_i32(const void* p) { return *reinterpret_cast<const I32x8Unaligned*>(p); }
QUIRE_INLINE U8x32 load_u8(const void* p) { return *reinterpret_cast<const U8x32Unaligned*>(p); }
QUIRE_INLINE void store_i32(int32_t* p, I32x8 v) { *reinterpret_cast<I32x8Unaligned*>(p) = v; }
QUIRE_INLINE F32x8 broadcast(float x) { return F32x8{x, x, x, x, x, x, x, x}; }
QUIRE_INLINE I32x8 broadcast_i32(int32_t x) { return I32x8{x, x, x, x, x, x, x, x}; }
QUIRE_INLINE F32x8 zero() { return F32x8{}; }
QUIRE_INLINE F32x8 as_f32(I32x8 v) { return reinterpret_cast<F32x8>(v); }
QUIRE_INLINE I32x8 as_i32(F32x8 v) { return reinterpret_cast<I32x8>(v); }
QUIRE_INLINE F32x8 to_f32(I32x8 v) { return __builtin_convertvector(v, F32x8); }
QUIRE_INLINE I32x8 to_i32(F32x8 v) { return __builtin_convertvector(v, I32x8); }
QUIRE_INLINE F32x8 select(I32x8 mask, F32x8 yes, F32x8 no) { return mask ? yes : no; }
QUIRE_INLINE I32x8 larger(I32x8 a, I32x8 b) { return a > b ? a : b; }

// The low halves or bytes of the lanes, at any alignment.
template <class Int>
QUIRE_INLINE void store_narrow(Int* p, I32x8 v) {
  typedef Int Narrow __attribute__((vector_size(8 * sizeof(Int))));
  const Narrow narrow = __builtin_convertvector(v, Narrow);
  __builtin_memcpy(p, &narrow, sizeof narrow);
}
