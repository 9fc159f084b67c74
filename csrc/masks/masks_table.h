// What one instruction set offers to masks. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

// Stands for infinite logits (half precision gives them), because 0 * infinity would spread as NaN.
constexpr float kHugeLogit = 1e30f;
// Two weighted sums of three, with weights that are rounded themselves, leave the range of their cells by less than
// this share of the cells' largest magnitude.
constexpr float kTapRounding = 4e-6f;

// An axis's output positions in blocks of 8; the last block is filled up with copies of the last position.
struct MaskTaps {
  const int32_t* first;     // each position's first cell; ascending
  const int32_t* lanes;     // each position's first cell, less that of its block's first position
  const float* weights[3];  // of the first cell and the two after it
  bool narrow;              // all cells of any block lie within 8 consecutive ones
};

struct MasksKernels {
  // dst[c * stride + r] = src[r * src_stride + c] for r < rows, c < columns, limited to +-limit; NaN gives -limit.
  void (*transpose_limited)(const float* src, int64_t src_stride, int64_t rows, int64_t columns, float limit,
                            float* dst, int64_t stride);

  // For each r < rows the 3 x 3 cells at r, r + 1, r + 2 of three columns. Sets bit r of `above` where every mean of
  // them, however rounded, is greater than `high`, and of `reaching` where one may be greater than `low`. Bits of the
  // last words beyond `rows` are undefined. Columns are readable up to rows rounded up to 64, and 2 more.
  void (*classify)(const float* a, const float* b, const float* c, int64_t rows, float high, float low, uint64_t* above,
                   uint64_t* reaching);

  // out[y] = the weighted sum of three cells of one column for y in [begin, end) and on to the block's end; begin is a
  // multiple of 8. 8 cells from any position's first one on are readable.
  void (*stretch)(const float* cells, const MaskTaps* taps, int64_t begin, int64_t end, float* out);

  // The weighted sums p of three stretched columns, n long, readable up to n rounded up to 16: bit i % 64 of
  // bits[i / 64] is set where p[i] > level, further bits of the last word are 0; counts[0] and [1] grow by the number
  // of sums above `high` and above `low`.
  void (*threshold)(const float* const* columns, const float* weights, int64_t n, float level, float high, float low,
                    uint64_t* bits, int64_t* counts);
};

}  // namespace fastsam
