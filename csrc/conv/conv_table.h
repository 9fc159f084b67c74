// The convolution kernels of one instruction set. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

// A matrix product: out (rows, columns) = f(a (rows, k) * weights (k, columns) + bias + residual), where f is GELU or
// the identity.
//
// Row r of `a` is the concatenation of `parts` pieces of `part_k` floats; piece i starts at a[i] + r * a_stride. In a
// 3 x 3 convolution the pieces are the three rows of a window, whose pixels lie side by side.
struct ConvGemm {
  const float* const* a;
  int64_t parts, part_k, a_stride, rows;
  const float* panels;  // packed as common/gemm.inc describes, k = parts * part_k
  const float* bias;    // (columns), zeros up to the next multiple of 16
  int64_t columns;
  const float* residual;  // (rows, columns), or null
  int64_t residual_stride;
  bool gelu;
  float* out;
  int64_t out_stride;
  float* sums;  // scratch of rows * (columns rounded up to 16), used if k is long
};

// One row of a depthwise 3 x 3 convolution, `width` outputs. `channels` is a multiple of 16.
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
  void (*gemm)(const ConvGemm& args);
  void (*depthwise_row)(const ConvDepthwiseRow& args);
};

}  // namespace fastsam
