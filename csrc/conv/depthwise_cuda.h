// Depthwise 3 x 3 convolutions over channels-last images in half precision, on the GPU. Pointers are device pointers,
// calls return before the work is done.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace fastsam::conv {

struct Depthwise {
  const void* x;       // (batch, height, width, channels)
  const void* weight;  // (3, 3, channels)
  const void* bias;    // (channels)
  const void* shift;   // (channels), added to x first; may be null
  void* out;           // (batch, ceil(height / stride), ceil(width / stride), channels)
  int64_t batch, height, width, channels, stride;
  bool gelu;
};

// Padding 1; then, where asked for, GELU. All of one type, float16 or bfloat16, each at a multiple of 16 bytes;
// channels are a multiple of 8.
void depthwise_cuda(DType dtype, const Depthwise& given, void* stream);

}  // namespace fastsam::conv
