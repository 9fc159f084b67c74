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
      const float2 pair = fastsam::cuda::unpack<T>(words[i]);
      to[2 * i] = pair.x, to[2 * i + 1] = pair.y;
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

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int other = kWarp / 2; other > 0; other /= 2) x += __shfl_xor_sync(kAllLanes, x, other);
  return x;
}

// kFullRow: rows have exactly kColumns columns. Otherwise they have `columns`, which is less, and some lanes have
// nothing to do.
template <typename T, int kColumns, bool kFullRow>
__global__ void __launch_bounds__(kThreads) add_norm_kernel(uint4* x, uint4* delta, const uint4* weight,
                                                            const uint4* bias, int64_t rows, int columns, float eps) {
  using V = Vector<T>;
  constexpr int kSize = V::kSize, kVectorsPerLane = kColumns / kSize / kWarp;
  if (kFullRow) columns = kColumns;
  const int vectors = columns / kSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = int64_t{blockIdx.x} * kWarps + static_cast<int>(threadIdx.x) / kWarp;
  if (row >= rows) return;
  const auto in_row = [&](int i) { return kFullRow || lane + i * kWarp < vectors; };
  x += row * vectors + lane, delta += row * vectors + lane, weight += lane, bias += lane;
  // Issue all loads before any of them is waited for.
  uint4 x_vectors[kVectorsPerLane], delta_vectors[kVectorsPerLane], factors[kVectorsPerLane], shifts[kVectorsPerLane];
#pragma unroll
  for (int i = 0; i < kVectorsPerLane; ++i) {
    if (in_row(i)) x_vectors[i] = x[i * kWarp], delta_vectors[i] = delta[i * kWarp];
  }
#pragma unroll
  for (int i = 0; i < kVectorsPerLane; ++i) {
    if (in_row(i)) factors[i] = __ldg(weight + i * kWarp), shifts[i] = __ldg(bias + i * kWarp);
  }
  float values[kVectorsPerLane][kSize], sum = 0.0f, squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kVectorsPerLane; ++i) {
    if (!in_row(i)) continue;
    float addend[kSize];
    V::unpack(x_vectors[i], values[i]);
    V::unpack(delta_vectors[i], addend);
#pragma unroll
    for (int j = 0; j < kSize; ++j) values[i][j] += addend[j];
    const uint4 rounded = V::pack(values[i]);
    x[i * kWarp] = rounded;
    V::unpack(rounded, values[i]);
#pragma unroll
    for (int j = 0; j < kSize; ++j) sum += values[i][j];
  }
  const float mean = warp_sum(sum) * (1.0f / columns);
#pragma unroll
  for (int i = 0; i < kVectorsPerLane; ++i) {
    if (!in_row(i)) continue;
#pragma unroll
    for (int j = 0; j < kSize; ++j) values[i][j] -= mean, squares = fmaf(values[i][j], values[i][j], squares);
  }
  const float scale = rsqrtf(warp_sum(squares) * (1.0f / columns) + eps);
#pragma unroll
  for (int i = 0; i < kVectorsPerLane; ++i) {
    if (!in_row(i)) continue;
    float factor[kSize], shift[kSize];
    V::unpack(factors[i], factor);
    V::unpack(shifts[i], shift);
#pragma unroll
    for (int j = 0; j < kSize; ++j) values[i][j] = fmaf(values[i][j] * scale, factor[j], shift[j]);
    delta[i * kWarp] = V::pack(values[i]);
  }
}

struct Args {
  void *x, *delta;
  const void *weight, *bias;
  int64_t rows, columns;
  float eps;
  cudaStream_t stream;
};

template <typename T, int kColumns, bool kFullRow>
void launch_kernel(const Args& args) {
  launch((add_norm_kernel<T, kColumns, kFullRow>), blocks_for(args.rows, kWarps), kThreads, 0, args.stream,
         static_cast<uint4*>(args.x), static_cast<uint4*>(args.delta), static_cast<const uint4*>(args.weight),
         static_cast<const uint4*>(args.bias), args.rows, static_cast<int>(args.columns), args.eps);
}

// Starts the kernel with the smallest multiple of kColumnStep, from kColumns on, that holds args.columns.
template <typename T, int kColumns>
void run(const Args& args) {
  if constexpr (kColumns <= kMaxColumns) {
    if (args.columns == kColumns) return launch_kernel<T, kColumns, true>(args);
    if constexpr (kColumns <= kMaxPartialColumns) {
      if (args.columns < kColumns) return launch_kernel<T, kColumns, false>(args);
    }
    run<T, kColumns + kColumnStep>(args);
  }
}

}  // namespace

void add_norm_cuda(DType dtype, void* x, void* delta, const void* weight, const void* bias, int64_t rows,
                   int64_t columns, float eps, void* stream) {
  const Args args{x, delta, weight, bias, rows, columns, eps, static_cast<cudaStream_t>(stream)};
  if (!has_kernel(columns)) {
    throw std::invalid_argument("there is no kernel for rows of " + std::to_string(columns));
  }
  switch (dtype) {
    case DType::float32:
      return run<float, kColumnStep>(args);
    case DType::float16:
      return run<half, kColumnStep>(args);
    case DType::bfloat16:
      return run<bfloat16, kColumnStep>(args);
  }
  throw std::invalid_argument("add_norm: there are no kernels for this dtype");
}

}  // namespace fastsam::norm
