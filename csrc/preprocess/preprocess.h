// From a photo to the model's input: Pillow's antialiased bilinear resize on bytes, normalising and padding.
#pragma once

#include <cstdint>

namespace fastsam::preprocess {

// A picture of three channels at any strides (in bytes; they may be negative). `swap` reverses the channels.
struct Picture {
  const uint8_t* data;
  int64_t height, width;
  int64_t stride_y, stride_x, stride_c;
  bool swap;
};

// Resizes to (height, width, 3), contiguous: horizontally, rounded to bytes, then vertically. Throws
// std::invalid_argument for sides of 0 or above 2^23.
void resize(const Picture& picture, int64_t height, int64_t width, uint8_t* out, int64_t threads);

// Resizes to (height, width), subtracts `mean` and divides by `std` per channel in float32, and puts that in the upper
// left corner of a square of `size` pixels a side that is otherwise zero. `out` is (3, size, size), or (size, size, 3)
// if `channels_last`. Throws as `resize`, and where the content is larger than the square.
void normalise(const Picture& picture, int64_t height, int64_t width, int64_t size, const float* mean, const float* std,
               bool channels_last, float* out, int64_t threads);

}  // namespace fastsam::preprocess
