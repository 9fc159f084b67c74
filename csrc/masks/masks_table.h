// The mask kernels of one instruction set. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

// Logits are limited to this magnitude. Half precision can produce infinite ones, and a weight of 0 times infinity
// would be NaN.
constexpr float kHugeLogit = 1e30f;
// Bound on rounding: an interpolated pixel, two weighted sums of three with rounded weights, leaves the range of its
// cells by less than this fraction of the cells' largest magnitude.
constexpr float kTapRounding = 4e-6f;

// An axis's output positions in blocks of 8. The last block is padded with copies of the last position.
struct MaskTaps {
  const int32_t* first;         // each position's first cell; ascending
  const int32_t* lane_offsets;  // each position's first cell minus that of its block's first position
  const float* weights[3];      // of the first cell and the two after it
  bool fits_in_register;        // each block reads at most 8 consecutive cells
};

struct MasksKernels {
  // dst[c * stride + r] = src[r * src_stride + c] for r < rows, c < columns, clamped to +-limit; NaN becomes -limit.
  void (*transpose_limited)(const float* src, int64_t src_stride, int64_t rows, int64_t columns, float limit,
                            float* dst, int64_t stride);

  // For each r < rows, looks at the 3 x 3 cells r, r + 1, r + 2 of the columns a, b and c. Sets bit r of `above_high`
  // if every mean of them, however rounded, is greater than `high`. Sets bit r of `maybe_above_low` if some mean may be
  // greater than `low`. Bits of the last words beyond `rows` are undefined. Columns must be readable up to rows rounded
  // up to 64, plus 2.
  void (*classify)(const float* a, const float* b, const float* c, int64_t rows, float high, float low,
                   uint64_t* above_high, uint64_t* maybe_above_low);

  // out[y] = the weighted sum of three cells of one column, for y from begin, a multiple of 8, to end rounded up to a
  // multiple of 8. From each position's first cell on, 8 cells must be readable.
  void (*interpolate_column)(const float* cells, const MaskTaps* taps, int64_t begin, int64_t end, float* out);

  // Computes p = the weighted sum of three interpolated columns of n values, readable up to n rounded up to 16. Bit i %
  // 64 of bits[i / 64] is set if p[i] > level; the other bits of the last word are 0. Adds the number of values above
  // `high` to counts[0] and of those above `low` to counts[1].
  void (*threshold)(const float* const* columns, const float* weights, int64_t n, float level, float high, float low,
                    uint64_t* bits, int64_t* counts);
};

}  // namespace fastsam
