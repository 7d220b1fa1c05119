// Where an op finds an array: in the arena or among the step's own arrays.
#pragma once

#include <cstdint>

namespace quire {

enum class Space : int32_t { arena = 0, token_ids = 1, positions = 2, logits_indices = 3 };

// What the number of rows of an operand follows, known when a step runs: tokens T, logits rows L of the slice.
enum class RowSymbol : int32_t { T = 0, L = 1 };

// [rows, width] of 4-byte elements; row r starts at offset_bytes + 4 * r * row_stride.
struct Operand {
  Space space = Space::arena;
  int64_t offset_bytes = 0;
  int64_t row_stride = 0;      // elements
  RowSymbol rows = RowSymbol::T;
  int64_t rows_per_symbol = 1;  // [T, H, d] seen as T * H rows: H
  int64_t width = 0;            // elements used of a row
};

}  // namespace quire
