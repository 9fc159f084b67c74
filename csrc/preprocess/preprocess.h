// Preprocessing on the CPU, from a photo to the model's input: an antialiased bilinear resize of bytes with the same
// bits as Pillow's, normalisation and padding.
#pragma once

#include <cstdint>

namespace fastsam::preprocess {

// An image of three uint8 channels at any strides, in bytes; they may be negative. `swap` reverses the order of
// channels.
struct ImageView {
  const uint8_t* data;
  int64_t height, width;
  int64_t stride_y, stride_x, stride_c;
  bool swap;
};

// Resizes an image to `out` (height, width, 3), contiguous: first horizontally, rounding to bytes, then vertically.
// From version 13 on, Pillow's own order of the two depends on the sizes. Throws std::invalid_argument for sides below
// 1 or above 2^23.
void resize(const ImageView& image, int64_t height, int64_t width, uint8_t* out, int64_t threads);

// Resizes an image to (height, width), then subtracts `mean` (3) and divides by `std` (3) per channel, in float32. The
// result is the upper left corner of `out`, which is zero elsewhere. `out` is (3, size, size), or (size, size, 3) if
// `channels_last`, contiguous. Throws as `resize`, and if height or width exceeds `size`.
void normalise(const ImageView& image, int64_t height, int64_t width, int64_t size, const float* mean, const float* std,
               bool channels_last, float* out, int64_t threads);

}  // namespace fastsam::preprocess
