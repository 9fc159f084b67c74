// 3 x 3 and 1 x 1 convolutions of float32 images on the CPU. Batch normalisation must already be folded into the
// weights and biases.
//
// The caller passes contiguous arrays of the shapes in each comment; images are channels-last, (batch, height, width,
// channels). Every function writes all of `out`. Images are padded with one pixel of zeros on each side, so that an
// output has (height + stride - 1) / stride rows, and columns likewise. Results are bit-identical for every number of
// threads.
#pragma once

#include <cstdint>

namespace fastsam::conv {

struct Shape {
  int64_t batch, height, width, channels;
};

// The side of the output of a 3 x 3 convolution: `size` / `stride`, rounded up.
inline int64_t conv_output_size(int64_t size, int64_t stride) { return (size + stride - 1) / stride; }

struct MbconvWeights {
  int64_t hidden, out_channels;
  const float* expand;          // (hidden, channels)
  const float* expand_bias;     // (hidden)
  const float* depthwise;       // (hidden, 3, 3)
  const float* depthwise_bias;  // (hidden)
  const float* project;         // (out_channels, hidden)
  const float* project_bias;    // (out_channels)
};

// An MBConv block: 1 x 1 to `hidden` channels, GELU, depthwise 3 x 3, GELU, 1 x 1 to out_channels. With `residual`,
// which needs stride 1 and as many channels out as in, then adds x and applies GELU. Only three rows of the hidden
// image are in memory at a time.
void mbconv(const float* x, const Shape& shape, const MbconvWeights& weights, int64_t stride, bool residual, float* out,
            int64_t threads);

// A depthwise 3 x 3 convolution, then GELU if `gelu`. weight: (channels, 3, 3); bias: (channels).
void depthwise3x3(const float* x, const Shape& shape, const float* weight, const float* bias, int64_t stride, bool gelu,
                  float* out, int64_t threads);

// A dense 3 x 3 convolution, then GELU if `gelu`. weight: (out_channels, channels, 3, 3); bias: (out_channels).
void conv3x3(const float* x, const Shape& shape, const float* weight, const float* bias, int64_t out_channels,
             int64_t stride, bool gelu, float* out, int64_t threads);

struct StemWeights {
  int64_t hidden, out_channels;
  const float* first;        // (hidden, channels, 3, 3)
  const float* first_bias;   // (hidden)
  const float* second;       // (out_channels, hidden, 3, 3)
  const float* second_bias;  // (out_channels)
};

// The first layers of an encoder: a 3 x 3 of stride 2, GELU, and another 3 x 3 of stride 2. `images` is channels-first,
// (batch, channels, height, width); `out` is channels-last. Only three rows of the half-size image are in memory at a
// time.
void stem(const float* images, const Shape& shape, const StemWeights& weights, float* out, int64_t threads);

}  // namespace fastsam::conv
