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

constexpr int kThreads = 128, kChannelsPerThread = 8, kPixels = 2;

// The 8 half-precision values of `bits` as floats.
template <typename T>
__device__ __forceinline__ void unpack_all(const uint4& bits, float (&to)[kChannelsPerThread]) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack<T>(words[i]);
    to[2 * i] = pair.x, to[2 * i + 1] = pair.y;
  }
}

__device__ __forceinline__ float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }

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
  float sums[kPixels][kChannelsPerThread], shifts[kChannelsPerThread] = {};
  if (shift != nullptr) unpack_all<T>(__ldg(shift + group), shifts);
  unpack_all<T>(__ldg(bias + group), sums[0]);
#pragma unroll
  for (int i = 1; i < kPixels; ++i) {
#pragma unroll
    for (int j = 0; j < kChannelsPerThread; ++j) sums[i][j] = sums[0][j];
  }
#pragma unroll
  for (int dy = 0; dy < 3; ++dy) {
    const int y = row * kStride + dy - 1;
    if (y < 0 || y >= sizes.height) continue;
    const uint4* from = x + (int64_t{image} * sizes.height + y) * sizes.width * sizes.groups + group;
    float weights[3][kChannelsPerThread];
#pragma unroll
    for (int dx = 0; dx < 3; ++dx) unpack_all<T>(__ldg(weight + (3 * dy + dx) * sizes.groups + group), weights[dx]);
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int at = column * kStride + c - 1;
      if (at < 0 || at >= sizes.width) continue;
      float values[kChannelsPerThread];
      unpack_all<T>(from[int64_t{at} * sizes.groups], values);
#pragma unroll
      for (int j = 0; j < kChannelsPerThread; ++j) values[j] += shifts[j];
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        const int dx = c - i * kStride;
        if (dx < 0 || dx > 2) continue;
#pragma unroll
        for (int j = 0; j < kChannelsPerThread; ++j) sums[i][j] = fmaf(values[j], weights[dx][j], sums[i][j]);
      }
    }
  }
  out += (int64_t{rows_before} * sizes.out_width + column) * sizes.groups + group;
#pragma unroll
  for (int i = 0; i < kPixels; ++i) {
    if (column + i >= sizes.out_width) break;
    float (&sum)[kChannelsPerThread] = sums[i];
    if (kGelu) {
#pragma unroll
      for (int j = 0; j < kChannelsPerThread; ++j) sum[j] = gelu(sum[j]);
    }
    out[i * sizes.groups] =
        make_uint4(pack<T>(sum[0], sum[1]), pack<T>(sum[2], sum[3]), pack<T>(sum[4], sum[5]), pack<T>(sum[6], sum[7]));
  }
}

template <typename T, int kStride, bool kGelu>
void run(const DepthwiseParams& params, cudaStream_t stream) {
  const int64_t out_height = (params.height + kStride - 1) / kStride,
                out_width = (params.width + kStride - 1) / kStride;
  const int64_t groups = params.channels / kChannelsPerThread;
  const int64_t blocks = blocks_for((out_width + kPixels - 1) / kPixels * groups, kThreads);
  const Sizes sizes{static_cast<int>(params.height), static_cast<int>(params.width), static_cast<int>(out_height),
                    static_cast<int>(out_width),     static_cast<int>(groups),       static_cast<int>(blocks)};
  launch((depthwise_kernel<T, kStride, kGelu>), blocks_for(params.batch * out_height * blocks, 1), kThreads, 0, stream,
         static_cast<const uint4*>(params.x), static_cast<const uint4*>(params.weight),
         static_cast<const uint4*>(params.bias), static_cast<const uint4*>(params.shift),
         static_cast<uint4*>(params.out), sizes);
}

template <typename T>
void run(const DepthwiseParams& params, cudaStream_t stream) {
  if (params.stride == 1) return params.gelu ? run<T, 1, true>(params, stream) : run<T, 1, false>(params, stream);
  return params.gelu ? run<T, 2, true>(params, stream) : run<T, 2, false>(params, stream);
}

}  // namespace

void depthwise_cuda(DType dtype, const DepthwiseParams& params, void* stream) {
  if (dtype == DType::float16) return run<half>(params, static_cast<cudaStream_t>(stream));
  if (dtype == DType::bfloat16) return run<bfloat16>(params, static_cast<cudaStream_t>(stream));
  throw std::invalid_argument("depthwise: there are kernels for float16 and bfloat16 alone");
}

}  // namespace fastsam::conv
