// The kernel of norm_cuda.h: a residual sum and the LayerNorm that follows it.
//
// A warp processes one row and keeps it in registers, so that each value is read once and written once. The kernel
// takes about the time of this memory traffic, part of which is served from the GPU's cache, where the previous layer
// left it.
#include "norm/norm_cuda.h"

#include "common/cuda.h"

namespace fastsam::norm {
namespace {

using namespace fastsam::cuda;

constexpr int kThreads = 128, kWarps = kThreads / kWarp;

// Converts between the 16 bytes that a lane reads at a time and kSize floats.
template <typename T>
struct Vector {
  static constexpr int kSize = 8;

  __device__ static void unpack(const uint4& bits, float (&to)[kSize]) {
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 two = fastsam::cuda::unpack<T>(words[i]);
      to[2 * i] = two.x, to[2 * i + 1] = two.y;
    }
  }
  __device__ static uint4 pack(const float (&x)[kSize]) {
    using fastsam::cuda::pack;
    return make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]), pack<T>(x[4], x[5]), pack<T>(x[6], x[7]));
  }
};
template <>
struct Vector<float> {
  static constexpr int kSize = 4;

  __device__ static void unpack(const uint4& bits, float (&to)[kSize]) {
    to[0] = __uint_as_float(bits.x), to[1] = __uint_as_float(bits.y);
    to[2] = __uint_as_float(bits.z), to[3] = __uint_as_float(bits.w);
  }
  __device__ static uint4 pack(const float (&x)[kSize]) {
    return make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3]));
  }
};

__device__ __forceinline__ float sum_of_warp(float x) {
#pragma unroll
  for (int other = kWarp / 2; other > 0; other /= 2) x += __shfl_xor_sync(kAllLanes, x, other);
  return x;
}

// kWhole: rows have exactly kColumns columns. Otherwise they have `columns`, which is less, and some lanes have nothing
// to do.
template <typename T, int kColumns, bool kWhole>
__global__ void __launch_bounds__(kThreads) add_norm_kernel(uint4* x, uint4* delta, const uint4* weight,
                                                            const uint4* bias, int64_t rows, int columns, float eps) {
  using V = Vector<T>;
  constexpr int kSize = V::kSize, kEach = kColumns / kSize / kWarp;
  if (kWhole) columns = kColumns;
  const int words = columns / kSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = int64_t{blockIdx.x} * kWarps + static_cast<int>(threadIdx.x) / kWarp;
  if (row >= rows) return;
  const auto has = [&](int i) { return kWhole || lane + i * kWarp < words; };
  x += row * words + lane, delta += row * words + lane, weight += lane, bias += lane;
  // Issue all loads before any of them is waited for.
  uint4 first[kEach], second[kEach], factors[kEach], shifts[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (has(i)) first[i] = x[i * kWarp], second[i] = delta[i * kWarp];
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (has(i)) factors[i] = __ldg(weight + i * kWarp), shifts[i] = __ldg(bias + i * kWarp);
  }
  float values[kEach][kSize], sum = 0.0f, squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (!has(i)) continue;
    float more[kSize];
    V::unpack(first[i], values[i]);
    V::unpack(second[i], more);
#pragma unroll
    for (int j = 0; j < kSize; ++j) values[i][j] += more[j];
    const uint4 rounded = V::pack(values[i]);
    x[i * kWarp] = rounded;
    V::unpack(rounded, values[i]);
#pragma unroll
    for (int j = 0; j < kSize; ++j) sum += values[i][j];
  }
  const float mean = sum_of_warp(sum) * (1.0f / columns);
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (!has(i)) continue;
#pragma unroll
    for (int j = 0; j < kSize; ++j) values[i][j] -= mean, squares = fmaf(values[i][j], values[i][j], squares);
  }
  const float scale = rsqrtf(sum_of_warp(squares) * (1.0f / columns) + eps);
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (!has(i)) continue;
    float factor[kSize], shift[kSize];
    V::unpack(factors[i], factor);
    V::unpack(shifts[i], shift);
#pragma unroll
    for (int j = 0; j < kSize; ++j) values[i][j] = fmaf(values[i][j] * scale, factor[j], shift[j]);
    delta[i * kWarp] = V::pack(values[i]);
  }
}

struct Job {
  void *x, *delta;
  const void *weight, *bias;
  int64_t rows, columns;
  float eps;
  cudaStream_t stream;
};

template <typename T, int kColumns, bool kWhole>
void start(const Job& job) {
  launch((add_norm_kernel<T, kColumns, kWhole>), blocks_for(job.rows, kWarps), kThreads, 0, job.stream,
         static_cast<uint4*>(job.x), static_cast<uint4*>(job.delta), static_cast<const uint4*>(job.weight),
         static_cast<const uint4*>(job.bias), job.rows, static_cast<int>(job.columns), job.eps);
}

// Starts the kernel with the smallest multiple of kStep, from kColumns on, that holds the job's columns.
template <typename T, int kColumns>
void run(const Job& job) {
  if constexpr (kColumns <= kMost) {
    if (job.columns == kColumns) return start<T, kColumns, true>(job);
    if constexpr (kColumns <= kMostInPart) {
      if (job.columns < kColumns) return start<T, kColumns, false>(job);
    }
    run<T, kColumns + kStep>(job);
  }
}

}  // namespace

void add_norm_cuda(DType dtype, void* x, void* delta, const void* weight, const void* bias, int64_t rows,
                   int64_t columns, float eps, void* stream) {
  const Job job{x, delta, weight, bias, rows, columns, eps, static_cast<cudaStream_t>(stream)};
  if (!has_kernel(columns)) {
    throw std::invalid_argument("there is no kernel for rows of " + std::to_string(columns));
  }
  switch (dtype) {
    case DType::float32:
      return run<float, kStep>(job);
    case DType::float16:
      return run<half, kStep>(job);
    case DType::bfloat16:
      return run<bfloat16, kStep>(job);
  }
  throw std::invalid_argument("add_norm: there are no kernels for this dtype");
}

}  // namespace fastsam::norm
