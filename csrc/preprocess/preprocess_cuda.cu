// Kernels of preprocess_cuda.h, in three launches: weights of both axes, horizontal resize, vertical resize with
// output. The integer arithmetic is the CPU's, so that results are equal to the bit.
#include "preprocess/preprocess_cuda.h"

#include <stdexcept>
#include <string>

#include "common/cuda.h"
#include "preprocess/axis_weights.h"

namespace fastsam::preprocess {
namespace {

constexpr int kThreads = 128;
// Input rows per thread of the horizontal pass, for which it reads the weights once.
constexpr int kRows = 4;
// Neighbouring pixels per thread of the vertical pass: 12 bytes, or three words of the image between the passes.
constexpr int kPixels = 4;
constexpr int32_t kWeightHalf = int32_t{1} << (kWeightBits - 1);

// How one axis is resampled, `n` outputs: weight t of output i is weights[i * per_output + t * per_tap].
struct DeviceAxis {
  int64_t in, n, per_output, per_tap;
  int32_t *first, *count, *weights;
};

// The layout of the scratch memory.
struct ScratchLayout {
  DeviceAxis columns, rows;
  uint8_t* intermediate;  // (in_height, pitch): the image resized horizontally, RGB
  int64_t pitch, bytes;
};

void check_side(int64_t side) {
  if (side >= 1 && side <= kMaxSide) return;
  throw std::invalid_argument("images must have sides from 1 to " + std::to_string(kMaxSide) + " pixels; got " +
                              std::to_string(side));
}

// scratch may be null if only `bytes` is wanted. Throws std::invalid_argument for sides out of range.
ScratchLayout plan_scratch(int64_t in_height, int64_t in_width, int64_t height, int64_t width, void* scratch) {
  for (const int64_t side : {in_height, in_width, height, width}) check_side(side);
  int64_t used = 0;
  const auto allocate = [&](int64_t bytes) {
    const auto address = reinterpret_cast<uintptr_t>(scratch) + static_cast<uintptr_t>(used);
    used += (bytes + 15) / 16 * 16;
    return reinterpret_cast<uint8_t*>(address);
  };
  // In the horizontal pass neighbouring threads compute neighbouring outputs, so that weights are stored tap by tap. In
  // the vertical pass all threads of a block use the weights of one output, which are stored side by side.
  const auto axis = [&](int64_t in, int64_t n, bool tap_by_tap) {
    const int64_t taps = max_taps(in, n), words = 4;
    DeviceAxis device_axis{in, n, tap_by_tap ? 1 : taps, tap_by_tap ? n : 1, nullptr, nullptr, nullptr};
    device_axis.first = reinterpret_cast<int32_t*>(allocate(n * words));
    device_axis.count = reinterpret_cast<int32_t*>(allocate(n * words));
    device_axis.weights = reinterpret_cast<int32_t*>(allocate(n * taps * words));
    return device_axis;
  };
  ScratchLayout layout{};
  layout.columns = axis(in_width, width, true);
  layout.rows = axis(in_height, height, false);
  layout.pitch = (width + kPixels - 1) / kPixels * 3 * kPixels;
  layout.intermediate = allocate(in_height * layout.pitch);
  layout.bytes = used;
  return layout;
}

// Computes the weights of output i of an axis.
__device__ void compute_weights(const DeviceAxis& axis, int64_t i) {
  const TriangleFilter filter = make_triangle(axis.in, axis.n, i);
  const double total = filter.total();
  int32_t count = 1;
  int32_t* weight = axis.weights + i * axis.per_output;
  for (int64_t x = filter.begin; x < filter.end; ++x, weight += axis.per_tap) {
    *weight = filter.weight(x, total);
    if (*weight != 0) count = static_cast<int32_t>(x - filter.begin) + 1;
  }
  axis.first[i] = static_cast<int32_t>(filter.begin);
  axis.count[i] = count;
}

// One thread per output of either axis.
__global__ void __launch_bounds__(kThreads) weights_kernel(DeviceAxis columns, DeviceAxis rows) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < columns.n) {
    compute_weights(columns, i);
  } else if (i < columns.n + rows.n) {
    compute_weights(rows, i - columns.n);
  }
}

// A sum in units of 2^-kWeightBits, which includes one half for rounding, as a byte.
__device__ uint8_t to_byte(int32_t sum) {
  const int32_t value = sum >> kWeightBits;
  return static_cast<uint8_t>(value > 255 ? 255 : value);
}

// The horizontal pass: resizes all rows of the image to the output's width. Each thread computes one output pixel of
// kRows rows; `tiles` blocks cover the width.
__global__ void __launch_bounds__(kThreads)
    resize_rows_kernel(ImageView image, DeviceAxis columns, unsigned tiles, uint8_t* __restrict__ out, int64_t pitch) {
  const int64_t x = static_cast<int64_t>(blockIdx.x % tiles) * kThreads + threadIdx.x;
  const int64_t y = static_cast<int64_t>(blockIdx.x / tiles) * kRows;
  if (x >= columns.n) return;
  const int32_t count = columns.count[x];
  const int32_t* weights = columns.weights + x;
  const uint8_t* pixel = image.data + y * image.stride_y + columns.first[x] * image.stride_x;
  const int64_t red = image.swap ? 2 * image.stride_c : 0, blue = 2 * image.stride_c - red;
  // Rows below the image are replaced by its last row, and their results discarded.
  int64_t row[kRows];
  int32_t sum[kRows][3];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    row[r] = (y + r < image.height ? r : image.height - 1 - y) * image.stride_y;
    for (int c = 0; c < 3; ++c) sum[r][c] = kWeightHalf;
  }
  for (int32_t t = 0; t < count; ++t, weights += columns.per_tap, pixel += image.stride_x) {
    const int32_t weight = *weights;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      sum[r][0] += weight * __ldg(pixel + row[r] + red);
      sum[r][1] += weight * __ldg(pixel + row[r] + image.stride_c);
      sum[r][2] += weight * __ldg(pixel + row[r] + blue);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (y + r >= image.height) break;
    for (int c = 0; c < 3; ++c) out[(y + r) * pitch + 3 * x + c] = to_byte(sum[r][c]);
  }
}

// Writes the resized image as bytes. Called for pixels x to x + 3 of row y; rgb holds those inside `width`, or is null
// if all four lie outside the resized image.
struct ByteWriter {
  uint8_t* out;
  int64_t width;

  __device__ void operator()(int64_t y, int64_t x, const uint8_t* rgb) const {
    const int64_t pixels = width - x < kPixels ? width - x : kPixels;
    for (int i = 0; i < 3 * kPixels; ++i) {
      if (i < 3 * pixels) out[3 * (y * width + x) + i] = rgb[i];
    }
  }
};

// Writes the model's input, a square of side `size` that is zero outside the resized image. Called like ByteWriter.
// kAligned: rows begin at multiples of 16 bytes.
template <bool kChannelsLast, bool kAligned>
struct NormalisedWriter {
  float* out;
  int64_t width, size;
  float mean[3], std[3];

  __device__ void operator()(int64_t y, int64_t x, const uint8_t* rgb) const {
    float value[kPixels][3];
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        const bool inside = rgb != nullptr && x + i < width;
        value[i][c] = inside ? __fdiv_rn(__fsub_rn(static_cast<float>(rgb[3 * i + c]), mean[c]), std[c]) : 0.0f;
      }
    }
    if (kChannelsLast) {
      float* to = out + 3 * (y * size + x);
      write(to, value[0][0], value[0][1], value[0][2], value[1][0], 3 * (size - x));
      write(to + 4, value[1][1], value[1][2], value[2][0], value[2][1], 3 * (size - x) - 4);
      write(to + 8, value[2][2], value[3][0], value[3][1], value[3][2], 3 * (size - x) - 8);
    } else {
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        write(out + (c * size + y) * size + x, value[0][c], value[1][c], value[2][c], value[3][c], size - x);
      }
    }
  }

  // Stores those of the four values that lie inside the row, the first `remaining`.
  __device__ static void write(float* to, float a, float b, float c, float d, int64_t remaining) {
    if (kAligned) {
      *reinterpret_cast<float4*>(to) = make_float4(a, b, c, d);
      return;
    }
    if (remaining > 0) to[0] = a;
    if (remaining > 1) to[1] = b;
    if (remaining > 2) to[2] = c;
    if (remaining > 3) to[3] = d;
  }
};

// The vertical pass: resizes the columns of `intermediate` and passes the result to `write`. `tiles` blocks cover an
// output row of `out_width` pixels.
template <typename Write>
__global__ void __launch_bounds__(kThreads)
    blend_rows_kernel(const uint8_t* __restrict__ intermediate, int64_t pitch, DeviceAxis rows, int64_t width,
                      int64_t out_width, unsigned tiles, Write write) {
  const int64_t x = (static_cast<int64_t>(blockIdx.x % tiles) * kThreads + threadIdx.x) * kPixels;
  const int64_t y = blockIdx.x / tiles;
  if (x >= out_width) return;
  if (y >= rows.n || x >= width) {
    write(y, x, nullptr);
    return;
  }
  const int32_t count = rows.count[y];
  const int32_t* weights = rows.weights + y * rows.per_output;
  const uint8_t* from = intermediate + rows.first[y] * pitch + 3 * x;
  int32_t sum[3 * kPixels];
#pragma unroll
  for (int i = 0; i < 3 * kPixels; ++i) sum[i] = kWeightHalf;
  for (int32_t t = 0; t < count; ++t, from += pitch) {
    const int32_t weight = weights[t];
#pragma unroll
    for (int word = 0; word < 3; ++word) {
      const uint32_t packed = __ldg(reinterpret_cast<const uint32_t*>(from) + word);
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[4 * word + i] += weight * static_cast<int32_t>(packed >> (8 * i) & 0xffu);
    }
  }
  uint8_t rgb[3 * kPixels];
#pragma unroll
  for (int i = 0; i < 3 * kPixels; ++i) rgb[i] = to_byte(sum[i]);
  write(y, x, rgb);
}

template <typename Write>
void run(const ScratchLayout& layout, const ImageView& image, int64_t out_height, int64_t out_width, const Write& write,
         cudaStream_t stream) {
  const int64_t width = layout.columns.n;
  launch(weights_kernel, cuda::blocks_for(width + layout.rows.n, kThreads), kThreads, 0, stream, layout.columns,
         layout.rows);
  const unsigned blocks_x = cuda::blocks_for(width, kThreads);
  const int64_t groups = (image.height + kRows - 1) / kRows;
  launch(resize_rows_kernel, cuda::blocks_for(blocks_x * groups, 1), kThreads, 0, stream, image, layout.columns,
         blocks_x, layout.intermediate, layout.pitch);
  const unsigned tiles = cuda::blocks_for(out_width, kThreads * kPixels);
  launch(blend_rows_kernel<Write>, cuda::blocks_for(tiles * out_height, 1), kThreads, 0, stream, layout.intermediate,
         layout.pitch, layout.rows, width, out_width, tiles, write);
}

template <bool kChannelsLast, bool kAligned>
void run_normalised(const ScratchLayout& layout, const ImageView& image, int64_t size, const float* mean,
                    const float* std, float* out, cudaStream_t stream) {
  NormalisedWriter<kChannelsLast, kAligned> write{
      out, layout.columns.n, size, {mean[0], mean[1], mean[2]}, {std[0], std[1], std[2]}};
  run(layout, image, size, size, write, stream);
}

}  // namespace

int64_t scratch_bytes(int64_t in_height, int64_t in_width, int64_t height, int64_t width) {
  return plan_scratch(in_height, in_width, height, width, nullptr).bytes;
}

void resize_cuda(const ImageView& image, int64_t height, int64_t width, void* scratch, uint8_t* out, void* stream) {
  const ScratchLayout layout = plan_scratch(image.height, image.width, height, width, scratch);
  run(layout, image, height, width, ByteWriter{out, width}, static_cast<cudaStream_t>(stream));
}

void normalise_cuda(const ImageView& image, int64_t height, int64_t width, int64_t size, const float* mean,
                    const float* std, bool channels_last, void* scratch, float* out, void* stream) {
  const ScratchLayout layout = plan_scratch(image.height, image.width, height, width, scratch);
  if (size < height || size < width) throw std::invalid_argument("the content must fit into the square of size `size`");
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const bool is_aligned = size % 4 == 0 && reinterpret_cast<uintptr_t>(out) % 16 == 0;
  if (channels_last && is_aligned) {
    run_normalised<true, true>(layout, image, size, mean, std, out, cuda_stream);
  } else if (channels_last) {
    run_normalised<true, false>(layout, image, size, mean, std, out, cuda_stream);
  } else if (is_aligned) {
    run_normalised<false, true>(layout, image, size, mean, std, out, cuda_stream);
  } else {
    run_normalised<false, false>(layout, image, size, mean, std, out, cuda_stream);
  }
}

}  // namespace fastsam::preprocess
