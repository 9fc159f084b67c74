// Depthwise 3 x 3 convolutions over channels-last images in half precision, on the GPU. All pointers are device
// pointers to contiguous arrays. Calls queue the work on the stream and return before it is done.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace fastsam::conv {

struct DepthwiseParams {
  const void* x;       // (batch, height, width, channels)
  const void* weight;  // (3, 3, channels)
  const void* bias;    // (channels)
  const void* shift;   // (channels), added to x before the convolution, but not to its padding; may be null
  void* out;           // (batch, ceil(height / stride), ceil(width / stride), channels)
  int64_t batch, height, width, channels, stride;
  bool gelu;
};

// Convolves with one pixel of zero padding, then applies GELU if params.gelu. All arrays have type `dtype`, float16 or
// bfloat16 (otherwise throws std::invalid_argument), and start at a multiple of 16 bytes. `channels` is a multiple of
// 8.
void depthwise_cuda(DType dtype, const DepthwiseParams& params, void* stream);

}  // namespace fastsam::conv
