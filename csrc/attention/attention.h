// Multi-head attention over a token grid, fused: no scores, windows or padding in memory but a tile's.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace fastsam::attention {

// Attention inside windows of `window_rows` x `window_columns` tokens that tile the grid from its first token on, and
// may reach over its right and lower edge; a window of the grid's size is global attention.
struct Grid {
  int64_t batch, rows, columns;
  int64_t heads, dim;  // of a head
  int64_t window_rows, window_columns;
  // Where a token's 3 * heads * dim floats hold the head's query, and from there its key and value.
  int64_t head, key, value;
};

// q, k and v each for all heads; or, head by head, side by side.
constexpr Grid heads_together(int64_t batch, int64_t rows, int64_t columns, int64_t heads, int64_t dim,
                              int64_t window_rows, int64_t window_columns) {
  return {batch, rows, columns, heads, dim, window_rows, window_columns, dim, heads * dim, 2 * heads * dim};
}
constexpr Grid heads_apart(int64_t batch, int64_t rows, int64_t columns, int64_t heads, int64_t dim,
                           int64_t window_rows, int64_t window_columns) {
  return {batch, rows, columns, heads, dim, window_rows, window_columns, 3 * dim, dim, 2 * dim};
}

// What is attended to, and where the result goes: float32 or bfloat16, added up in float32. qkv (batch, rows, columns,
// 3 * heads * dim); padding (3 * heads * dim), what a token beyond the grid holds; out (batch, rows, columns,
// heads * dim).
struct Tokens {
  DType dtype;
  const void* qkv;
  const void* padding;
  void* out;
};

// softmax(q k / sqrt(dim) + bias) v for every token of the grid. std::invalid_argument for float16.

// The bias of query (y, x) and key (v, u) is q . rows_table[y - v + window_rows - 1] plus the same for x and u:
// rows_table (2 * window_rows - 1, dim), columns_table (2 * window_columns - 1, dim).
void with_relative_positions(const Grid& grid, const Tokens& tokens, const float* rows_table,
                             const float* columns_table, int64_t threads);

// bias (heads, n, n) for the n = window_rows * window_columns tokens of a window.
void with_bias(const Grid& grid, const Tokens& tokens, const float* bias, int64_t threads);

}  // namespace fastsam::attention
