// The preprocessing kernels of one instruction set. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

// How one axis is resized: output i is the sum of weights[i * stride + t] * input[first[i] + t] over t < count[i], in
// units of 2^-kWeightBits and rounded to the nearest integer. The weights are not negative, and zero from count[i] up
// to `stride`.
struct AxisTaps {
  int64_t n;       // outputs
  int64_t stride;  // weights per output, a multiple of 4
  const int32_t* first;
  const int32_t* count;
  const int32_t* weights;  // (n, stride)
  // The same weights in two parts, for instructions that multiply 16-bit integers: for every four taps, their weights
  // >> 15, then their weights & 0x7fff.
  const int16_t* halves;  // (n, stride / 4, 2, 4)
};

struct PreprocessKernels {
  // Resizes one row of `width` contiguous pixels of three bytes to taps.n pixels; `swap` reverses their channels. May
  // overwrite up to 4 bytes past the end of `out`. Reads nothing past the end of the row.
  void (*resize_row)(const uint8_t* row, int64_t width, const AxisTaps& taps, bool swap, uint8_t* out);

  // out[i] = the sum of weights[t] * rows[t][i] over t < count, rounded as in AxisTaps, for n bytes.
  void (*blend_rows)(const uint8_t* const* rows, const int32_t* weights, int64_t count, int64_t n, uint8_t* out);
};

}  // namespace fastsam
