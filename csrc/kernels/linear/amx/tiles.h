// AMX tile instructions by tile number, and in tests a model of them in plain C++ (QUIRE_AMX_MODEL).
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TILELOADD ... TDPBSUD.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "isa.h"

#ifndef QUIRE_AMX_MODEL

#define QUIRE_TILE_CONFIGURE(config) _tile_loadconfig(config)
#define QUIRE_TILE_RELEASE() _tile_release()
#define QUIRE_TILE_ZERO(t) _tile_zero(t)
#define QUIRE_TILE_LOAD(t, p, stride) _tile_loadd(t, p, stride)
#define QUIRE_TILE_STORE(t, p, stride) _tile_stored(t, p, stride)
#define QUIRE_TILE_DOT_BF16(c, a, b) _tile_dpbf16ps(c, a, b)
#define QUIRE_TILE_DOT_S8_U8(c, a, b) _tile_dpbsud(c, a, b)

#else

namespace quire::amx_model {

struct Tile {
  int rows = 0, row_bytes = 0;
  alignas(64) uint8_t data[16][64] = {};
};
inline thread_local Tile tiles[8];

inline void configure(const void* config) {
  const uint8_t* bytes = static_cast<const uint8_t*>(config);
  for (int t = 0; t < 8; ++t) {
    tiles[t] = Tile{};
    __builtin_memcpy(&tiles[t].row_bytes, bytes + 16 + 2 * t, 2);
    tiles[t].rows = bytes[48 + t];
  }
}
inline void release() {
  for (Tile& t : tiles) t = Tile{};
}
inline void zero_tile(int t) { __builtin_memset(tiles[t].data, 0, sizeof tiles[t].data); }
inline void load_tile(int t, const void* p, int64_t stride) {
  zero_tile(t);
  for (int r = 0; r < tiles[t].rows; ++r)
    __builtin_memcpy(tiles[t].data[r], static_cast<const uint8_t*>(p) + r * stride,
                     static_cast<size_t>(tiles[t].row_bytes));
}
inline void store_tile_rows(int t, void* p, int64_t stride) {
  for (int r = 0; r < tiles[t].rows; ++r)
    __builtin_memcpy(static_cast<uint8_t*>(p) + r * stride, tiles[t].data[r], static_cast<size_t>(tiles[t].row_bytes));
}
// Tiles belong to a thread: the loops over them need no watching, which would take minutes.
#define QUIRE_MODEL_LOOP __attribute__((no_sanitize_thread))
QUIRE_MODEL_LOOP inline float bf16_at(const uint8_t* row, int i) {
  uint16_t h;
  __builtin_memcpy(&h, row + 2 * i, 2);
  const uint32_t u = static_cast<uint32_t>(h) << 16;
  float f;
  __builtin_memcpy(&f, &u, 4);
  return f;
}
// Even and odd inputs are summed apart, then both are added to the tile.
QUIRE_MODEL_LOOP inline void dot_bf16(int c, int a, int b) {
  for (int r = 0; r < tiles[c].rows; ++r)
    for (int n = 0; n < tiles[c].row_bytes / 4; ++n) {
      float even = 0.0f, odd = 0.0f, sum;
      for (int k = 0; k < tiles[a].row_bytes / 4; ++k) {
        even = __builtin_fmaf(bf16_at(tiles[a].data[r], 2 * k), bf16_at(tiles[b].data[k], 2 * n), even);
        odd = __builtin_fmaf(bf16_at(tiles[a].data[r], 2 * k + 1), bf16_at(tiles[b].data[k], 2 * n + 1), odd);
      }
      __builtin_memcpy(&sum, tiles[c].data[r] + 4 * n, 4);
      sum += even + odd;
      __builtin_memcpy(tiles[c].data[r] + 4 * n, &sum, 4);
    }
}
QUIRE_MODEL_LOOP inline void dot_s8_u8(int c, int a, int b) {
  for (int r = 0; r < tiles[c].rows; ++r)
    for (int n = 0; n < tiles[c].row_bytes / 4; ++n) {
      int32_t sum;
      __builtin_memcpy(&sum, tiles[c].data[r] + 4 * n, 4);
      for (int k = 0; k < tiles[a].row_bytes; ++k)
        sum += static_cast<int8_t>(tiles[a].data[r][k]) * tiles[b].data[k / 4][4 * n + k % 4];
      __builtin_memcpy(tiles[c].data[r] + 4 * n, &sum, 4);
    }
}

}  // namespace quire::amx_model

#define QUIRE_TILE_CONFIGURE(config) quire::amx_model::configure(config)
#define QUIRE_TILE_RELEASE() quire::amx_model::release()
#define QUIRE_TILE_ZERO(t) quire::amx_model::zero_tile(t)
#define QUIRE_TILE_LOAD(t, p, stride) quire::amx_model::load_tile(t, p, stride)
#define QUIRE_TILE_STORE(t, p, stride) quire::amx_model::store_tile_rows(t, p, stride)
#define QUIRE_TILE_DOT_BF16(c, a, b) quire::amx_model::dot_bf16(c, a, b)
#define QUIRE_TILE_DOT_S8_U8(c, a, b) quire::amx_model::dot_s8_u8(c, a, b)

#endif
