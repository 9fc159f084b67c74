// Device functions that the mask decoder's kernels share: loading, storing and multiplying fragments, and reductions.
// The layouts are those of decoder_cuda.h. Products, stores and reductions are warp-collective.
#pragma once

#include "common/cuda.h"
#include "common/mma.h"
#include "decoder/decoder_cuda.h"

namespace fastsam::decoder::cuda {

using namespace fastsam::cuda;

constexpr float kLog2E = 1.4426950408889634f;
// Initial reference exponent of a softmax: below every score, but finite, so that scores of minus infinity get weight
// 0.
constexpr float kInitialMax = -3e38f;
// Scores may exceed the reference exponent by this much before the sums are rescaled: weights stay below 2^8.
constexpr float kRescaleThreshold = 8.0f;

__device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x / kWarp); }

// Prefetch the cache line at this address of global memory into the second-level cache.
__device__ __forceinline__ void prefetch_l2(const void* address) {
#ifdef FASTSAM_CUDA_EMULATION
  (void)address;
#else
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#endif
}

// 1 / x to 1 ulp, cheaper than a correctly rounded division.
__device__ __forceinline__ float reciprocal(float x) {
#ifdef FASTSAM_CUDA_EMULATION
  return 1.0f / x;
#else
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// Number of 16-byte vectors of an operand in T, relative to 16-bit elements: 1, or 2 for float32.
template <typename T>
constexpr int kSizeFactor = sizeof(T) / 2;

// A lane's part of a right factor (depth 16 x 8 columns): two pairs.
template <typename T>
using Right = std::conditional_t<std::is_same_v<T, float>, float4, uint2>;
__device__ __forceinline__ uint2 make_right(uint32_t first, uint32_t second) { return make_uint2(first, second); }
__device__ __forceinline__ float4 make_right(float2 first, float2 second) {
  return make_float4(first.x, first.y, second.x, second.y);
}

// Load the lane's part of fragment `number` from global memory.
__device__ __forceinline__ void load_fragment(uint32_t (&to)[4], const uint4* fragments, int64_t number) {
  const uint4 four = __ldg(fragments + number * kWarp + lane());
  to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}
__device__ __forceinline__ void load_fragment(float2 (&to)[4], const uint4* fragments, int64_t number) {
  const auto* const from = reinterpret_cast<const float4*>(fragments) + number * 2 * kWarp + lane();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float4 four = __ldg(from + i * kWarp);
    to[2 * i] = make_float2(four.x, four.y), to[2 * i + 1] = make_float2(four.z, four.w);
  }
}

// d (16 x 8) += a (16 x 16) * b (16 x 8).
template <typename T>
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint2 b) {
  mma_m16n8k16<T>(d, a, b.x, b.y);
}
// In float32, two steps of depth 8, each number split into a high and a low TF32 part. A lane holds two elements
// adjacent in depth, but TF32 fragments want elements 4 apart. Since the order of the depth is arbitrary, the former
// stand for the latter in both factors.
template <typename T>
__device__ __forceinline__ void multiply(float (&d)[4], const float2 (&a)[4], float4 b) {
  uint32_t high[2][4], low[2][4], right_high[2][2], right_low[2][2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      split_tf32(a[2 * half + i].x, high[half][i], low[half][i]);
      split_tf32(a[2 * half + i].y, high[half][2 + i], low[half][2 + i]);
    }
    split_tf32(half == 0 ? b.x : b.z, right_high[half][0], right_low[half][0]);
    split_tf32(half == 0 ? b.y : b.w, right_high[half][1], right_low[half][1]);
  }
  // Tensor cores truncate when they accumulate. So add up the small products first, start the sum at zero to keep it
  // short, and add it to d by ordinary additions, which round.
  float sum[4] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    mma_m16n8k8_tf32(sum, low[half], right_high[half][0], right_high[half][1]);
    mma_m16n8k8_tf32(sum, high[half], right_low[half][0], right_low[half][1]);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) mma_m16n8k8_tf32(sum, high[half], right_high[half][0], right_high[half][1]);
#pragma unroll
  for (int j = 0; j < 4; ++j) d[j] += sum[j];
}
// The same with depth 32; `matrix` points to the right factor in shared memory.
template <typename T>
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a0)[4], const uint32_t (&a1)[4],
                                         const uint4* matrix) {
  const uint4 b = matrix[lane()];
  mma_m16n8k16<T>(d, a0, b.x, b.y);
  mma_m16n8k16<T>(d, a1, b.z, b.w);
}
template <typename T>
__device__ __forceinline__ void multiply(float (&d)[4], const float2 (&a0)[4], const float2 (&a1)[4],
                                         const uint4* matrix) {
  const auto* const from = reinterpret_cast<const float4*>(matrix) + lane();
  multiply<T>(d, a0, from[0]);
  multiply<T>(d, a1, from[kWarp]);
}
// The same with depth 64: two consecutive matrices.
template <typename T>
__device__ __forceinline__ void multiply_rows(float (&d)[4], const Pair<T> (&a)[4][4], const uint4* matrix) {
  multiply<T>(d, a[0], a[1], matrix);
  multiply<T>(d, a[2], a[3], matrix + kSizeFactor<T> * kWarp);
}

// A fragment in shared memory is stored as four 8 x 8 matrices (8 rows of 4 pairs), so that it can be read as it is, or
// transposed. 16-bit elements are read by ldmatrix. Floats are read element by element; their even rows are stored
// before the odd ones to avoid bank conflicts. `pair_index` is the index of the lane's pair in a matrix.
template <typename T>
__device__ __forceinline__ int pair_index() {
  return lane();
}
template <>
__device__ __forceinline__ int pair_index<float>() {
  return (group() / 2 + group() % 2 * 4) * 4 + pair();
}
template <typename T>
__device__ __forceinline__ void store_fragment(Pair<T>* to, const Pair<T> (&from)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) to[i * kWarp + pair_index<T>()] = from[i];
}
template <typename T>
__device__ __forceinline__ void load_shared(uint32_t (&to)[4], const uint32_t* from) {
  ldmatrix_x4(to, from + 4 * lane());
}
template <typename T>
__device__ __forceinline__ void load_shared(float2 (&to)[4], const float2* from) {
#pragma unroll
  for (int i = 0; i < 4; ++i) to[i] = from[i * kWarp + pair_index<T>()];
}
// Load with each of the four matrices transposed.
template <typename T>
__device__ __forceinline__ void load_tiles_transposed(uint32_t (&to)[4], const uint32_t* from) {
  ldmatrix_x4_trans(to, from + 4 * lane());
}
template <typename T>
__device__ __forceinline__ void load_tiles_transposed(float2 (&to)[4], const float2* from) {
  const auto* const elements = reinterpret_cast<const float*>(from);
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // rows 2 * pair and the one after, of column `group`
    const int at = i * 2 * kWarp + pair() * 8 + group();
    to[i] = make_float2(elements[at], elements[at + 32]);
  }
}
// Load the whole fragment transposed: besides transposing each matrix, swap the two off the diagonal. For 16-bit
// elements this is done by the addresses that the lanes pass to ldmatrix.
template <typename T>
__device__ __forceinline__ void load_transposed(uint32_t (&to)[4], const uint32_t* from) {
  const int row = lane() % 8 + lane() / 8 % 2 * 16 + lane() / 16 * 8;
  ldmatrix_x4_trans(to, from + 4 * row);
}
template <typename T>
__device__ __forceinline__ void load_transposed(float2 (&to)[4], const float2* from) {
  load_tiles_transposed<T>(to, from);
  const float2 other = to[1];
  to[1] = to[2], to[2] = other;
}
// Load a left factor, 16 tokens x 16 coefficients, from the state in global memory, where a row is one coefficient of
// 16 tokens. The first 8 coefficients are rows of `rows`, of which only `count` exist, the other 8 are rows of
// `after`, of which only `count_after` exist; the rest is zero.
__device__ __forceinline__ void load_columns(float2 (&to)[4], const float* rows, int count, const float* after,
                                             int count_after) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float* const from = (i / 2 == 0 ? rows : after) + i % 2 * 8 + group();
    const int left = (i / 2 == 0 ? count : count_after) - 2 * pair();
    to[i].x = left > 0 ? from[2 * pair() * 16] : 0.0f;
    to[i].y = left > 1 ? from[2 * pair() * 16 + 16] : 0.0f;
  }
}

// Copy `count` 16-byte vectors (asynchronously), or floats, to shared memory, by `threads` threads, of which this is
// number `thread`.
__device__ __forceinline__ void copy_vectors(void* to, const void* from, int count, int thread, int threads) {
  for (int i = thread; i < count; i += threads) {
    cp_async_16(static_cast<uint4*>(to) + i, static_cast<const uint4*>(from) + i);
  }
}
__device__ __forceinline__ void copy_floats(float* to, const float* from, int count, int thread, int threads,
                                            float times = 1.0f) {
  for (int i = thread; i < count; i += threads) to[i] = from[i] * times;
}

// The sum or the maximum over the four lanes of an accumulator's row, or the eight lanes of a column.
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}
__device__ __forceinline__ float column_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 4);
  x += __shfl_xor_sync(kAllLanes, x, 8);
  return x + __shfl_xor_sync(kAllLanes, x, 16);
}
__device__ __forceinline__ float column_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 4));
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 8));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 16));
}

// Softmax over a head's prompt tokens, in place: d holds scores of 16 image tokens x 8 prompt tokens, minus infinity
// for prompt tokens that don't exist.
__device__ __forceinline__ void softmax_of_tokens(float (&d)[4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float max_score = kLog2E * row_max(fmaxf(d[2 * half], d[2 * half + 1]));
#pragma unroll
    for (int j = 0; j < 2; ++j) d[2 * half + j] = exp2_approx(fmaf(d[2 * half + j], kLog2E, -max_score));
    const float inverse_sum = reciprocal(row_sum(d[2 * half] + d[2 * half + 1]));
    d[2 * half] *= inverse_sum, d[2 * half + 1] *= inverse_sum;
  }
}

}  // namespace fastsam::decoder::cuda
