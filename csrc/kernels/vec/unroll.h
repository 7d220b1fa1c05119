// Functions that are always inlined, and loops unrolled at compile time.
#pragma once

#include <stdint.h>

#include "isa.h"

namespace quire::QUIRE_ISA {

#define QUIRE_INLINE inline __attribute__((always_inline))

// Compile-time loop: f(Index<0>{}), f(Index<1>{}), ... Indices are constants in the front end already, so
// arrays of accumulators become registers whatever the optimizer's unroller decides.
template <int I>
struct Index {
  static constexpr int value = I;
  constexpr operator int() const { return I; }
};
template <int N, int I = 0, class F>
QUIRE_INLINE void unroll(F&& f) {
  if constexpr (I < N) {
    f(Index<I>{});
    unroll<N, I + 1>(f);
  }
}

}  // namespace quire::QUIRE_ISA
