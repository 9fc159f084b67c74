// What one instruction set offers to attention. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

// One head of one window (or of the whole token grid). The packed q, k and v are read where the linear layer left
// them; tokens of the window that lie beyond the grid are keys, but not queries. Numbers of qkv, padding and out are
// float32, or the bits of bfloat16.
struct AttentionWindow {
  const void* qkv;      // the head's query of the window's first token
  const void* padding;  // the head's query of a token beyond the grid; not read where there are none
  void* out;            // the head's output of the window's first token
  int64_t token, line;  // numbers from one token of qkv to the next, and from one row of the token grid to the next
  int64_t out_token, out_line;
  int64_t key, value;  // numbers from a query to the same token's key, and to its value
  int64_t dim;
  int64_t rows, columns;            // of the window: rows * columns keys
  int64_t grid_rows, grid_columns;  // the part of it that is on the grid: grid_rows * grid_columns queries
  float scale;                      // of scores, log2(e) included: weights are powers of two
  // One of the two. Position tables, times sqrt(dim), in panels of 16 columns (common/gemm.inc): those of the rows
  // first, then those of the columns, each from the most negative distance (query - key) to the most positive one,
  // reversed; see pack_positions in attention_cpu.cpp. Or the head's bias (keys, keys), as PyTorch holds it.
  const float* positions;
  const float* bias;
};

struct AttentionKernels {
  // Keys to panels (ceil(keys / 16), dim, 16) and values to panels (ceil(dim / 16), keys, 16), zeros beyond the end; of
  // bfloat16, pairs of a key's numbers, and of neighbouring keys' values, take a float's place.
  void (*pack)(const AttentionWindow& window, float* keys, float* values);
  // Floats of scratch memory that `attend` needs.
  int64_t (*scratch)(const AttentionWindow& window);
  // Writes the outputs of queries [begin, end), counted along the rows of the part on the grid.
  void (*attend)(const AttentionWindow& window, const float* keys, const float* values, int64_t begin, int64_t end,
                 float* scratch);
};

}  // namespace fastsam
