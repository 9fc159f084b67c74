// Helpers shared by the CPU convolutions: packed weights, a window of three rows that moves down an image, and the
// division into strips and parts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "common/floats.h"
#include "common/isa.h"
#include "common/panels.h"

namespace fastsam::conv {

// `size` floats of 0, aligned to a cache line.
inline Floats zeros(int64_t size) {
  Floats floats(size);
  std::memset(floats.data(), 0, sizeof(float) * static_cast<size_t>(size));
  return floats;
}

// The weights (n, channels, taps) of a dense convolution as the right-hand side (k = taps * channels, n) of a matrix
// product, packed in panels (common/gemm.inc), and its bias. Both are padded with zeros to a multiple of 16 columns.
struct PackedWeights {
  int64_t k, n;
  Floats panels, bias;

  PackedWeights(const float* weight, const float* bias_data, int64_t n_, int64_t channels, int64_t taps)
      : k(taps * channels), n(n_), panels(zeros(padded(n_) * k)), bias(zeros(padded(n_))) {
    for (int64_t column = 0; column < n; ++column) {
      const float* source = weight + column * k;
      float* panel = panels.data() + column / kPanel * kPanel * k + column % kPanel;
      for (int64_t channel = 0; channel < channels; ++channel) {
        for (int64_t tap = 0; tap < taps; ++tap) panel[(tap * channels + channel) * kPanel] = *source++;
      }
    }
    std::copy(bias_data, bias_data + n, bias.data());
  }
};

// The weights (channels, 3, 3) of a depthwise convolution, transposed to (9, channels), and its bias. Channels are
// padded with zeros to a multiple of 16.
struct PackedDepthwiseWeights {
  int64_t channels;  // padded
  Floats weights, bias;

  PackedDepthwiseWeights(const float* weight, const float* bias_data, int64_t n)
      : channels(padded(n)), weights(zeros(9 * channels)), bias(zeros(channels)) {
    for (int64_t channel = 0; channel < n; ++channel) {
      for (int64_t tap = 0; tap < 9; ++tap) weights.data()[tap * channels + channel] = weight[channel * 9 + tap];
    }
    std::copy(bias_data, bias_data + n, bias.data());
  }
};

// The three input rows under one strip of an output row, cut to the columns that the strip needs, with zeros outside
// the image. Rows are kept while the window moves down, so that each is made only once per strip.
class RowWindow {
 public:
  // width: outputs of the widest strip; stride: input pixels from one window to the next; channels: floats per pixel,
  // padding included.
  RowWindow(int64_t width, int64_t stride, int64_t channels)
      : stride_(stride),
        channels_(channels),
        row_size_(((width - 1) * stride + 3) * channels),
        rows_(zeros(3 * row_size_)) {
    clear();
  }

  // Drops all rows. Call before another strip or image.
  void clear() { cached_rows_[0] = cached_rows_[1] = cached_rows_[2] = kNone; }

  // Sets window[0..2] to the three input rows of outputs (y, x) to (y, x + width - 1), each starting at the left edge
  // of the first output's window. Rows that are missing are made by load_row(row, from, to, destination), which writes
  // pixels [from, to) of that row of the image.
  template <typename LoadRow>
  void load(int64_t y, int64_t x, int64_t width, int64_t image_height, int64_t image_width, const LoadRow& load_row,
            const float* window[3]) {
    const int64_t left = x * stride_ - 1, right = left + (width - 1) * stride_ + 3;
    const int64_t from = std::max<int64_t>(0, left), to = std::min(image_width, right);
    for (int64_t ky = 0; ky < 3; ++ky) {
      const int64_t row = y * stride_ - 1 + ky, slot = (row + 3) % 3;
      float* data = rows_.data() + slot * row_size_;
      window[ky] = data;
      if (cached_rows_[slot] == row) continue;
      cached_rows_[slot] = row;
      if (row < 0 || row >= image_height) {
        zero(data, right - left);
        continue;
      }
      zero(data, from - left);
      load_row(row, from, to, data + (from - left) * channels_);
      zero(data + (to - left) * channels_, right - to);
    }
  }

 private:
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::min();

  void zero(float* data, int64_t pixels) const {
    std::memset(data, 0, static_cast<size_t>(pixels * channels_) * sizeof(float));
  }

  int64_t stride_, channels_, row_size_;
  Floats rows_;
  int64_t cached_rows_[3];
};

// Width of the strips into which rows of `width` outputs are cut, so that a window of three input rows, `channels`
// floats per pixel, takes at most about 200 KB of the L2 cache.
inline int64_t strip_width(int64_t width, int64_t stride, int64_t channels) {
  const int64_t columns = std::max<int64_t>(18, 52 * 1024 / (3 * channels));
  const int64_t widest = std::max<int64_t>(1, (columns - 3) / stride + 1);
  const int64_t strips = (width + widest - 1) / widest;
  return (width + strips - 1) / strips;
}

// The fewest output rows that are worth a thread, given the number of multiplications per row.
inline int64_t rows_grain(int64_t multiplications_per_row) { return 1 + 4'000'000 / (multiplications_per_row + 1); }

// Calls work(image, first row, end row, first column, columns) for every strip of output rows [begin, end). These rows
// are numbered consecutively over all images.
template <typename Work>
void for_each_strip(int64_t begin, int64_t end, int64_t height, int64_t width, int64_t strip, const Work& work) {
  while (begin < end) {
    const int64_t image = begin / height, first = begin % height;
    const int64_t last = std::min(height, first + end - begin);
    for (int64_t x = 0; x < width; x += strip) work(image, first, last, x, std::min(strip, width - x));
    begin += last - first;
  }
}

}  // namespace fastsam::conv
