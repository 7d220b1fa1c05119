// Cuts scratch memory into arrays on cache lines of their own.
#pragma once

#include "vec/scalar.h"

namespace quire::QUIRE_ISA {

struct ScratchCut {
  uint8_t* base;
  int64_t used = 0;  // bytes

  template <class T>
  QUIRE_INLINE T* take(int64_t count) {
    T* p = reinterpret_cast<T*>(base + used);
    used += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return p;
  }
};

}  // namespace quire::QUIRE_ISA
