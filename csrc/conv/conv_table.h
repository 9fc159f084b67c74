// What one instruction set offers to conv. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

// out (rows x columns) = f(a (rows x k) * weights + bias [+ residual]), f being GELU or nothing.
//
// Row r of `a` is the concatenation of `parts` pieces of `part_k` values, piece i at a[i] + r * a_stride: for a
// convolution these are the rows of its window, whose pixels lie side by side.
struct ConvProduct {
  const float* const* a;
  int64_t parts, part_k, a_stride, rows;
  const float* panels;  // packed as common/gemm.inc describes, k = parts * part_k
  const float* bias;    // (columns), zeros up to the next multiple of 16
  int64_t columns;
  const float* residual;  // or null
  int64_t residual_stride;
  bool gelu;
  float* out;
  int64_t out_stride;
  float* sums;  // scratch of rows x columns (rounded up to 16), used where k is long
};

// One row of a depthwise 3 x 3 convolution over pixels of `channels` values, a multiple of 16.
struct ConvDepthwiseRow {
  const float* window[3];  // rows of the input, each from the left edge of the first output's window
  int64_t stride;          // 1 or 2
  int64_t width, channels;
  const float* weights;  // (9, channels)
  const float* bias;     // (channels)
  bool gelu;
  float* out;  // (width, channels)
};

struct ConvKernels {
  void (*product)(const ConvProduct& work);
  void (*depthwise_row)(const ConvDepthwiseRow& work);
};

}  // namespace fastsam
