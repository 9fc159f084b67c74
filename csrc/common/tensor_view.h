// Non-owning views of the caller's memory.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace fastsam {

// N masks of H x W bytes at any strides (in bytes; they may be negative or zero). Non-zero is foreground.
struct MaskView {
  const uint8_t* data;
  int64_t n, height, width;
  int64_t stride_n, stride_y, stride_x;

  FASTSAM_HD const uint8_t* at(int64_t image, int64_t y, int64_t x) const {
    return data + image * stride_n + y * stride_y + x * stride_x;
  }
};

// N concatenated lists: list i is values[offsets[i]] up to, but excluding, values[offsets[i + 1]].
template <typename T>
struct RaggedView {
  const T* values;
  int64_t size;            // of values
  const int64_t* offsets;  // (n + 1)
  int64_t n;

  FASTSAM_HD const T* begin(int64_t i) const { return values + offsets[i]; }
  FASTSAM_HD const T* end(int64_t i) const { return values + offsets[i + 1]; }
  FASTSAM_HD int64_t length(int64_t i) const { return offsets[i + 1] - offsets[i]; }
};

}  // namespace fastsam
