// Convolutions over channels-last images, float32, with batch normalisation already folded into weights and biases.
//
// Every function reads dense arrays of the shapes in its comment and writes all of `out`. "Same" padding: an output
// of height (H + stride - 1) / stride. Results don't depend on `threads`, not even in the last bit.
#pragma once

#include <cstdint>

namespace fastsam::conv {

struct Shape {
  int64_t batch, height, width, channels;
};

// A 3 x 3 convolution halves (stride 2, rounded up) or keeps (stride 1) each side.
inline int64_t strided(int64_t size, int64_t stride) { return (size + stride - 1) / stride; }

struct MbconvWeights {
  int64_t hidden, out_channels;
  const float* expand;          // (hidden, channels)
  const float* expand_bias;     // (hidden)
  const float* depthwise;       // (hidden, 3, 3)
  const float* depthwise_bias;  // (hidden)
  const float* project;         // (out_channels, hidden)
  const float* project_bias;    // (out_channels)
};

// 1 x 1, GELU, depthwise 3 x 3, GELU, 1 x 1; with `residual` (stride 1, as many channels out as in) also + x and GELU.
// The widened image exists only as three rows at a time.
void mbconv(const float* x, const Shape& shape, const MbconvWeights& weights, int64_t stride, bool residual, float* out,
            int64_t threads);

// weight: (channels, 3, 3); bias: (channels).
void depthwise3x3(const float* x, const Shape& shape, const float* weight, const float* bias, int64_t stride, bool gelu,
                  float* out, int64_t threads);

// weight: (out_channels, channels, 3, 3); bias: (out_channels).
void conv3x3(const float* x, const Shape& shape, const float* weight, const float* bias, int64_t out_channels,
             int64_t stride, bool gelu, float* out, int64_t threads);

struct StemWeights {
  int64_t hidden, out_channels;
  const float* first;        // (hidden, channels, 3, 3)
  const float* first_bias;   // (hidden)
  const float* second;       // (out_channels, hidden, 3, 3)
  const float* second_bias;  // (out_channels)
};

// Images (batch, channels, height, width) through a 3 x 3 of stride 2, GELU and another 3 x 3 of stride 2, to channels
// last. The half-size image exists only as three rows at a time.
void stem(const float* images, const Shape& shape, const StemWeights& weights, float* out, int64_t threads);

}  // namespace fastsam::conv
