// The attention kernels of one instruction set, as a table of functions. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

// One head of one window (or of the whole token grid). The packed q, k and v are read directly from the output of the
// linear layer; tokens of the window beyond the grid are keys, but not queries. Elements of qkv, padding and out are
// float32, or the bits of bfloat16; strides are in elements.
struct AttentionWindow {
  const void* qkv;      // the head's query of the window's first token
  const void* padding;  // the head's query of a token beyond the grid; not read if there are none
  void* out;            // the head's output of the window's first token
  int64_t token_stride,
      row_stride;  // from one token of qkv to the next, and from one row of the token grid to the next
  int64_t out_token_stride, out_row_stride;
  int64_t key_offset, value_offset;  // from a query to the same token's key, and to its value
  int64_t dim;
  int64_t rows, columns;            // of the window: rows * columns keys
  int64_t grid_rows, grid_columns;  // of the part on the grid: grid_rows * grid_columns queries
  float scale;                      // of scores: log2(e) / sqrt(dim), because weights are computed as powers of two
  // Exactly one of these is not null. `positions`: the position tables times sqrt(dim), in panels of 16 columns
  // (common/gemm.inc), first the rows' table, then the columns' table, each from the most positive distance
  // (query - key) to the most negative one; see pack_positions in attention_cpu.cpp. `bias`: the head's row-major bias
  // (queries, keys) over all tokens of the window.
  const float* positions;
  const float* bias;
};

struct AttentionKernels {
  // Pack keys into panels (ceil(keys / 16), dim, 16) and values into panels (ceil(dim / 16), keys, 16), with zeros
  // beyond the end. In bfloat16, each float holds a pair: two adjacent channels of a key, or the values of two adjacent
  // keys, which halves the middle dimension (rounded up).
  void (*pack)(const AttentionWindow& window, float* keys, float* values);
  // Return the number of floats of scratch memory that `attend` needs.
  int64_t (*scratch)(const AttentionWindow& window);
  // Write the outputs of queries [begin, end), numbered along the rows of the part on the grid, from packed keys and
  // values.
  void (*attend)(const AttentionWindow& window, const float* keys, const float* values, int64_t begin, int64_t end,
                 float* scratch);
};

}  // namespace fastsam
