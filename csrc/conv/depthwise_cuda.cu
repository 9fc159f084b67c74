// The CUDA kernel of depthwise 3 x 3 convolutions over channels-last images in half precision.
//
// A thread computes 8 channels (16 bytes) of two neighbouring output pixels, whose windows have columns in common.
// Neighbouring threads have neighbouring channels. Input that the windows of different threads share is read again from
// the GPU's caches.
#include "conv/depthwise_cuda.h"

#include "common/cuda.h"

namespace fastsam::conv {
namespace {

using namespace fastsam::cuda;

constexpr int kThreads = 128, kEach = 8, kPixels = 2;

// The 8 half-precision values of `bits` as floats.
template <typename T>
__device__ __forceinline__ void unpack_all(const uint4& bits, float (&to)[kEach]) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 two = unpack<T>(words[i]);
    to[2 * i] = two.x, to[2 * i + 1] = two.y;
  }
}

__device__ __forceinline__ float gelu_of(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }

struct Sizes {
  int height, width, out_height, out_width;
  int groups;  // of 8 channels
  int blocks;  // per row of the output
};

template <typename T, int kStride, bool kGelu>
__global__ void __launch_bounds__(kThreads) depthwise_kernel(const uint4* x, const uint4* weight, const uint4* bias,
                                                             const uint4* shift, uint4* out, Sizes sizes) {
  constexpr int kColumns = kStride * (kPixels - 1) + 3;
  const int item = static_cast<int>(blockIdx.x % sizes.blocks) * kThreads + static_cast<int>(threadIdx.x);
  const int rows_before = static_cast<int>(blockIdx.x / sizes.blocks);  // output rows, over all images
  const int image = rows_before / sizes.out_height, row = rows_before % sizes.out_height;
  const int group = item % sizes.groups, column = item / sizes.groups * kPixels;
  if (column >= sizes.out_width) return;
  float sums[kPixels][kEach], shifts[kEach] = {};
  if (shift != nullptr) unpack_all<T>(__ldg(shift + group), shifts);
  unpack_all<T>(__ldg(bias + group), sums[0]);
#pragma unroll
  for (int i = 1; i < kPixels; ++i) {
#pragma unroll
    for (int j = 0; j < kEach; ++j) sums[i][j] = sums[0][j];
  }
#pragma unroll
  for (int dy = 0; dy < 3; ++dy) {
    const int y = row * kStride + dy - 1;
    if (y < 0 || y >= sizes.height) continue;
    const uint4* from = x + (int64_t{image} * sizes.height + y) * sizes.width * sizes.groups + group;
    float factors[3][kEach];
#pragma unroll
    for (int dx = 0; dx < 3; ++dx) unpack_all<T>(__ldg(weight + (3 * dy + dx) * sizes.groups + group), factors[dx]);
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int at = column * kStride + c - 1;
      if (at < 0 || at >= sizes.width) continue;
      float values[kEach];
      unpack_all<T>(from[int64_t{at} * sizes.groups], values);
#pragma unroll
      for (int j = 0; j < kEach; ++j) values[j] += shifts[j];
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        const int dx = c - i * kStride;
        if (dx < 0 || dx > 2) continue;
#pragma unroll
        for (int j = 0; j < kEach; ++j) sums[i][j] = fmaf(values[j], factors[dx][j], sums[i][j]);
      }
    }
  }
  out += (int64_t{rows_before} * sizes.out_width + column) * sizes.groups + group;
#pragma unroll
  for (int i = 0; i < kPixels; ++i) {
    if (column + i >= sizes.out_width) break;
    float (&sum)[kEach] = sums[i];
    if (kGelu) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) sum[j] = gelu_of(sum[j]);
    }
    out[i * sizes.groups] =
        make_uint4(pack<T>(sum[0], sum[1]), pack<T>(sum[2], sum[3]), pack<T>(sum[4], sum[5]), pack<T>(sum[6], sum[7]));
  }
}

template <typename T, int kStride, bool kGelu>
void run(const Depthwise& given, cudaStream_t stream) {
  const int64_t out_height = (given.height + kStride - 1) / kStride, out_width = (given.width + kStride - 1) / kStride;
  const int64_t groups = given.channels / kEach;
  const int64_t blocks = blocks_for((out_width + kPixels - 1) / kPixels * groups, kThreads);
  const Sizes sizes{static_cast<int>(given.height), static_cast<int>(given.width), static_cast<int>(out_height),
                    static_cast<int>(out_width),    static_cast<int>(groups),      static_cast<int>(blocks)};
  launch((depthwise_kernel<T, kStride, kGelu>), blocks_for(given.batch * out_height * blocks, 1), kThreads, 0, stream,
         static_cast<const uint4*>(given.x), static_cast<const uint4*>(given.weight),
         static_cast<const uint4*>(given.bias), static_cast<const uint4*>(given.shift), static_cast<uint4*>(given.out),
         sizes);
}

template <typename T>
void run(const Depthwise& given, cudaStream_t stream) {
  if (given.stride == 1) return given.gelu ? run<T, 1, true>(given, stream) : run<T, 1, false>(given, stream);
  return given.gelu ? run<T, 2, true>(given, stream) : run<T, 2, false>(given, stream);
}

}  // namespace

void depthwise_cuda(DType dtype, const Depthwise& given, void* stream) {
  if (dtype == DType::float16) return run<half>(given, static_cast<cudaStream_t>(stream));
  if (dtype == DType::bfloat16) return run<bfloat16>(given, static_cast<cudaStream_t>(stream));
  throw std::invalid_argument("depthwise: there are kernels for float16 and bfloat16 alone");
}

}  // namespace fastsam::conv
