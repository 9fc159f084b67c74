// Threads, strips and scratch memory of the convolutions in conv.h; the kernels of the instruction set do the
// arithmetic.
#include "conv/conv.h"

#include "common/fork_join.h"
#include "conv/conv_common.h"

namespace fastsam::conv {
namespace {

// Computes `width` outputs of one row of a dense 3 x 3 convolution as a matrix product. The three pixels of each window
// row lie side by side in memory, so that they are one piece of the product's k. partial_sums: scratch of
// partial_sums_size(weights.n) floats.
void convolve_row(const ConvKernels& isa, const float* const window[3], int64_t channels, int64_t stride, int64_t width,
                  const PackedWeights& weights, bool gelu, float* partial_sums, float* out, int64_t out_stride) {
  // Outputs per product, so that their partial sums stay in the L2 cache.
  const int64_t block = std::max<int64_t>(12, 24 * 1024 / padded(weights.n) / 12 * 12);
  for (int64_t x = 0; x < width; x += block) {
    const float* pieces[3];
    for (int ky = 0; ky < 3; ++ky) pieces[ky] = window[ky] + x * stride * channels;
    isa.gemm({pieces, 3, 3 * channels, stride * channels, std::min(block, width - x), weights.panels.data(),
              weights.bias.data(), weights.n, nullptr, 0, gelu, out + x * out_stride, out_stride, partial_sums});
  }
}

// Floats of scratch that convolve_row needs for n output channels.
int64_t partial_sums_size(int64_t n) { return std::max<int64_t>(12 * padded(n), 24 * 1024); }

}  // namespace

void mbconv(const float* x, const Shape& shape, const MbconvWeights& weights, int64_t stride, bool residual, float* out,
            int64_t threads) {
  const int64_t hidden = padded(weights.hidden), channels = shape.channels, n = weights.out_channels;
  const int64_t height = conv_output_size(shape.height, stride), width = conv_output_size(shape.width, stride);
  if (shape.batch * height * width == 0) return;
  const PackedWeights expand(weights.expand, weights.expand_bias, weights.hidden, channels, 1);
  const PackedDepthwiseWeights depthwise(weights.depthwise, weights.depthwise_bias, weights.hidden);
  const PackedWeights project(weights.project, weights.project_bias, n, weights.hidden, 1);
  const int64_t strip = strip_width(width, stride, hidden);
  const int64_t columns = (strip - 1) * stride + 3;
  const ConvKernels& isa = kernels().conv;
  const int64_t work_per_row = width * weights.hidden * (stride * stride * channels + 9 + n);
  fork_join(threads, shape.batch * height, rows_grain(work_per_row), [&](int64_t begin, int64_t end) {
    RowWindow rows(strip, stride, hidden);
    const Floats depthwise_out = zeros(strip * hidden),
                 partial_sums = zeros(std::max(columns * hidden, strip * padded(n)));
    for_each_strip(begin, end, height, width, strip,
                   [&](int64_t image, int64_t first, int64_t last, int64_t left, int64_t size) {
                     const float* input = x + image * shape.height * shape.width * channels;
                     const auto expand_row = [&](int64_t y, int64_t from, int64_t to, float* row) {
                       const float* pixels = input + (y * shape.width + from) * channels;
                       // The padding channels of `row` become GELU(0) = 0.
                       isa.gemm({&pixels, 1, channels, channels, to - from, expand.panels.data(), expand.bias.data(),
                                 hidden, nullptr, 0, true, row, hidden, partial_sums.data()});
                     };
                     rows.clear();
                     for (int64_t y = first; y < last; ++y) {
                       const float* window[3];
                       rows.load(y, left, size, shape.height, shape.width, expand_row, window);
                       isa.depthwise_row({{window[0], window[1], window[2]},
                                          stride,
                                          size,
                                          hidden,
                                          depthwise.weights.data(),
                                          depthwise.bias.data(),
                                          true,
                                          depthwise_out.data()});
                       const float* source = depthwise_out.data();
                       const float* residual_row = residual ? input + (y * width + left) * channels : nullptr;
                       isa.gemm({&source, 1, weights.hidden, hidden, size, project.panels.data(), project.bias.data(),
                                 n, residual_row, channels, residual, out + ((image * height + y) * width + left) * n,
                                 n, partial_sums.data()});
                     }
                   });
  });
}

void depthwise3x3(const float* x, const Shape& shape, const float* weight, const float* bias, int64_t stride, bool gelu,
                  float* out, int64_t threads) {
  const int64_t channels = shape.channels, padded_channels = padded(channels);
  const int64_t height = conv_output_size(shape.height, stride), width = conv_output_size(shape.width, stride);
  if (shape.batch * height * width == 0) return;
  const PackedDepthwiseWeights weights(weight, bias, channels);
  const int64_t strip = strip_width(width, stride, padded_channels);
  const ConvKernels& isa = kernels().conv;
  fork_join(threads, shape.batch * height, rows_grain(width * channels * 36), [&](int64_t begin, int64_t end) {
    RowWindow rows(strip, stride, padded_channels);
    const Floats depthwise_out = zeros(strip * padded_channels);
    for_each_strip(begin, end, height, width, strip,
                   [&](int64_t image, int64_t first, int64_t last, int64_t left, int64_t size) {
                     const float* input = x + image * shape.height * shape.width * channels;
                     const auto copy = [&](int64_t y, int64_t from, int64_t to, float* row) {
                       const float* pixels = input + (y * shape.width + from) * channels;
                       if (padded_channels == channels) {
                         std::copy(pixels, pixels + (to - from) * channels, row);
                         return;
                       }
                       for (int64_t i = 0; i < to - from; ++i) {
                         std::copy(pixels + i * channels, pixels + (i + 1) * channels, row + i * padded_channels);
                       }
                     };
                     rows.clear();
                     for (int64_t y = first; y < last; ++y) {
                       const float* window[3];
                       rows.load(y, left, size, shape.height, shape.width, copy, window);
                       float* target = out + ((image * height + y) * width + left) * channels;
                       isa.depthwise_row({{window[0], window[1], window[2]},
                                          stride,
                                          size,
                                          padded_channels,
                                          weights.weights.data(),
                                          weights.bias.data(),
                                          gelu,
                                          padded_channels == channels ? target : depthwise_out.data()});
                       if (padded_channels == channels) continue;
                       for (int64_t i = 0; i < size; ++i) {
                         const float* pixel = depthwise_out.data() + i * padded_channels;
                         std::copy(pixel, pixel + channels, target + i * channels);
                       }
                     }
                   });
  });
}

void conv3x3(const float* x, const Shape& shape, const float* weight, const float* bias, int64_t out_channels,
             int64_t stride, bool gelu, float* out, int64_t threads) {
  const int64_t channels = shape.channels;
  const int64_t height = conv_output_size(shape.height, stride), width = conv_output_size(shape.width, stride);
  if (shape.batch * height * width == 0) return;
  const PackedWeights weights(weight, bias, out_channels, channels, 9);
  const int64_t strip = strip_width(width, stride, channels);
  const ConvKernels& isa = kernels().conv;
  const int64_t grain = rows_grain(width * weights.k * out_channels);
  fork_join(threads, shape.batch * height, grain, [&](int64_t begin, int64_t end) {
    RowWindow rows(strip, stride, channels);
    const Floats partial_sums = zeros(partial_sums_size(out_channels));
    for_each_strip(begin, end, height, width, strip,
                   [&](int64_t image, int64_t first, int64_t last, int64_t left, int64_t size) {
                     const float* input = x + image * shape.height * shape.width * channels;
                     const auto copy = [&](int64_t y, int64_t from, int64_t to, float* row) {
                       const float* pixels = input + (y * shape.width + from) * channels;
                       std::copy(pixels, pixels + (to - from) * channels, row);
                     };
                     rows.clear();
                     for (int64_t y = first; y < last; ++y) {
                       const float* window[3];
                       rows.load(y, left, size, shape.height, shape.width, copy, window);
                       convolve_row(isa, window, channels, stride, size, weights, gelu, partial_sums.data(),
                                    out + ((image * height + y) * width + left) * out_channels, out_channels);
                     }
                   });
  });
}

void stem(const float* images, const Shape& shape, const StemWeights& weights, float* out, int64_t threads) {
  const int64_t channels = shape.channels, hidden = weights.hidden, n = weights.out_channels;
  const int64_t half_height = conv_output_size(shape.height, 2), half_width = conv_output_size(shape.width, 2);
  const int64_t height = conv_output_size(half_height, 2), width = conv_output_size(half_width, 2);
  if (shape.batch * height * width == 0) return;
  const PackedWeights first_weights(weights.first, weights.first_bias, hidden, channels, 9);
  const PackedWeights second_weights(weights.second, weights.second_bias, n, hidden, 9);
  const ConvKernels& isa = kernels().conv;
  const int64_t grain = rows_grain(width * (4 * first_weights.k * hidden + second_weights.k * n));
  fork_join(threads, shape.batch * height, grain, [&](int64_t begin, int64_t end) {
    // Two windows, the first of which feeds the second. They hold whole rows: these have few channels.
    RowWindow input_rows(half_width, 2, channels), hidden_rows(width, 2, hidden);
    const Floats partial_sums = zeros(std::max(partial_sums_size(hidden), partial_sums_size(n)));
    for_each_strip(
        begin, end, height, width, width, [&](int64_t image, int64_t first, int64_t last, int64_t left, int64_t size) {
          const float* planes = images + image * channels * shape.height * shape.width;
          const auto interleave = [&](int64_t y, int64_t from, int64_t to, float* row) {
            for (int64_t c = 0; c < channels; ++c) {
              const float* source = planes + (c * shape.height + y) * shape.width;
              for (int64_t x = from; x < to; ++x) row[(x - from) * channels + c] = source[x];
            }
          };
          const auto convolve = [&](int64_t y, int64_t from, int64_t to, float* row) {
            const float* window[3];
            input_rows.load(y, from, to - from, shape.height, shape.width, interleave, window);
            convolve_row(isa, window, channels, 2, to - from, first_weights, true, partial_sums.data(), row, hidden);
          };
          input_rows.clear();
          hidden_rows.clear();
          for (int64_t y = first; y < last; ++y) {
            const float* window[3];
            hidden_rows.load(y, left, size, half_height, half_width, convolve, window);
            convolve_row(isa, window, hidden, 2, size, second_weights, false, partial_sums.data(),
                         out + ((image * height + y) * width + left) * n, n);
          }
        });
  });
}

}  // namespace fastsam::conv
