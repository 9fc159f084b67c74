// Fused multi-head attention over a token grid, on the CPU. It reads the packed output of the qkv linear layer and
// writes the heads' outputs. Scores, windows and padding never exist in memory as a whole, only one tile at a time.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace fastsam::attention {

// The geometry of a call. Attention takes place within windows of `window_rows` x `window_columns` tokens, which tile
// the grid from its first token on and may extend beyond its right and lower edges. A window of the grid's size is
// global attention.
struct Grid {
  int64_t batch, rows, columns;
  int64_t heads, dim;  // dim: channels per head
  int64_t window_rows, window_columns;
  // Layout of a token's 3 * heads * dim numbers: `head_stride` is the offset from one head's query to the next head's,
  // `key_offset` and `value_offset` are the offsets from a query to the same head's key and value.
  int64_t head_stride, key_offset, value_offset;
};

// The two layouts in use. grid_bs3hd: the queries of all heads, then all keys, then all values. grid_bsh3d: for
// each head its query, key and value.
constexpr Grid grid_bs3hd(int64_t batch, int64_t rows, int64_t columns, int64_t heads, int64_t dim, int64_t window_rows,
                          int64_t window_columns) {
  return {batch, rows, columns, heads, dim, window_rows, window_columns, dim, heads * dim, 2 * heads * dim};
}
constexpr Grid grid_bsh3d(int64_t batch, int64_t rows, int64_t columns, int64_t heads, int64_t dim, int64_t window_rows,
                          int64_t window_columns) {
  return {batch, rows, columns, heads, dim, window_rows, window_columns, 3 * dim, dim, 2 * dim};
}

// Input and output, float32 or bfloat16; sums are float32. qkv (batch, rows, columns, 3 * heads * dim); padding
// (3 * heads * dim), the qkv of every token beyond the grid, may be null if no window extends beyond it; out (batch,
// rows, columns, heads * dim).
struct Operands {
  DType dtype;
  const void* qkv;
  const void* padding;
  void* out;
};

// Both functions compute softmax(q k / sqrt(dim) + bias) v for every token of the grid; tokens beyond it are keys only.
// Both throw std::invalid_argument for float16.

// The bias of query (y, x) and key (v, u) is q . rel_pos_h[y - v + window_rows - 1]
// + q . rel_pos_w[x - u + window_columns - 1], with the unscaled query q; rel_pos_h (2 * window_rows - 1, dim),
// rel_pos_w (2 * window_columns - 1, dim).
void with_relative_positions(const Grid& grid, const Operands& operands, const float* rel_pos_h, const float* rel_pos_w,
                             int64_t threads);

// The bias is a dense array (heads, n, n) of query and key, for the n = window_rows * window_columns tokens of a
// window.
void with_bias(const Grid& grid, const Operands& operands, const float* bias, int64_t threads);

}  // namespace fastsam::attention
