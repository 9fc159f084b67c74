// What one instruction set offers to preprocess. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

// How one axis is resampled: output i is the sum of weights[i * stride + t] * input[first[i] + t] over t < count[i],
// plus a half, in units of 2^-kWeightBits. The weights are not negative, and zero from count[i] up to `stride`.
struct AxisTaps {
  int64_t n;       // outputs
  int64_t stride;  // weights per output, a multiple of 4
  const int32_t* first;
  const int32_t* count;
  const int32_t* weights;  // (n, stride)
  // The same weights as 16-bit halves, for instructions that multiply such: for each four taps their weights >> 15,
  // then their weights & 0x7fff.
  const int16_t* halves;  // (n, stride / 4, 2, 4)
};

struct PreprocessKernels {
  // Resamples one row of `width` RGB pixels to taps.n pixels; `swap` makes RGB of BGR. Up to 4 bytes beyond the end of
  // `out` are overwritten; nothing beyond the row is read.
  void (*resize_row)(const uint8_t* row, int64_t width, const AxisTaps& taps, bool swap, uint8_t* out);

  // out[i] = the weighted sum of rows[t][i] over t < count, for n bytes.
  void (*blend_rows)(const uint8_t* const* rows, const int32_t* weights, int64_t count, int64_t n, uint8_t* out);
};

}  // namespace fastsam
