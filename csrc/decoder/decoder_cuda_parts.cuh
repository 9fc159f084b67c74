// What the decoder's kernels share: fragments and how they are multiplied, weights of a softmax in steps.
#pragma once

#include "common/cuda.h"
#include "common/mma.h"
#include "decoder/decoder_cuda.h"

namespace fastsam::decoder::cuda {

using namespace fastsam::cuda;

constexpr float kLog2E = 1.4426950408889634f;
// Below every score, and finite, so that scores of minus infinity get no weight.
constexpr float kNoTop = -3e38f;
// Scores may pass the largest of those before by this much, in powers of two, until sums are scaled down.
constexpr float kSlack = 8.0f;

__device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x / kWarp); }

// Has the line of global memory at this address brought to the second-level cache.
__device__ __forceinline__ void fetch_ahead(const void* address) {
#ifdef FASTSAM_CUDA_EMULATION
  (void)address;
#else
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#endif
}

// 1 / x to the last bit but one, without the steps that a division takes to be exact.
__device__ __forceinline__ float reciprocal(float x) {
#ifdef FASTSAM_CUDA_EMULATION
  return 1.0f / x;
#else
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// 16-byte vectors of a lane's part of an operand, beside those in half precision.
template <typename T>
constexpr int kWide = sizeof(T) / 2;

// What a lane has of a right factor that is 16 deep.
template <typename T>
using Right = std::conditional_t<std::is_same_v<T, float>, float4, uint2>;
__device__ __forceinline__ uint2 right_of(uint32_t first, uint32_t second) { return make_uint2(first, second); }
__device__ __forceinline__ float4 right_of(float2 first, float2 second) {
  return make_float4(first.x, first.y, second.x, second.y);
}

// The fragment of a lane in global memory.
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

// Adds 16 of depth to 8 columns.
template <typename T>
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint2 b) {
  mma_m16n8k16<T>(d, a, b.x, b.y);
}
// As two products of depth 8. A lane has two neighbours of a row or a column, where TF32 wants elements 4 apart: as a
// sum has no order, those two stand for them.
template <typename T>
__device__ __forceinline__ void multiply(float (&d)[4], const float2 (&a)[4], float4 b) {
  uint32_t high[2][4], low[2][4], right_high[2][2], right_low[2][2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      split(a[2 * half + i].x, high[half][i], low[half][i]);
      split(a[2 * half + i].y, high[half][2 + i], low[half][2 + i]);
    }
    split(half == 0 ? b.x : b.z, right_high[half][0], right_low[half][0]);
    split(half == 0 ? b.y : b.w, right_high[half][1], right_low[half][1]);
  }
  // Small products first, and sums of few: tensor cores cut off what they add, where an addition outside rounds.
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
// 32 of depth: `matrix` begins at their columns.
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
// 64 of depth.
template <typename T>
__device__ __forceinline__ void multiply_rows(float (&d)[4], const Pair<T> (&a)[4][4], const uint4* matrix) {
  multiply<T>(d, a[0], a[1], matrix);
  multiply<T>(d, a[2], a[3], matrix + kWide<T> * kWarp);
}

// A fragment in shared memory is four matrices of 8 rows of 4 pairs, so that it can be read as it is, or transposed: in
// half precision by ldmatrix, and of floats element by element, for which even rows come before odd ones, so that no
// two lanes meet in a bank. The lane's place in a matrix:
template <typename T>
__device__ __forceinline__ int place() {
  return lane();
}
template <>
__device__ __forceinline__ int place<float>() {
  return (group() / 2 + group() % 2 * 4) * 4 + pair();
}
template <typename T>
__device__ __forceinline__ void store_fragment(Pair<T>* to, const Pair<T> (&from)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) to[i * kWarp + place<T>()] = from[i];
}
template <typename T>
__device__ __forceinline__ void load_stored(uint32_t (&to)[4], const uint32_t* from) {
  ldmatrix_x4(to, from + 4 * lane());
}
template <typename T>
__device__ __forceinline__ void load_stored(float2 (&to)[4], const float2* from) {
#pragma unroll
  for (int i = 0; i < 4; ++i) to[i] = from[i * kWarp + place<T>()];
}
// Each of the four matrices transposed.
template <typename T>
__device__ __forceinline__ void load_turned(uint32_t (&to)[4], const uint32_t* from) {
  ldmatrix_x4_trans(to, from + 4 * lane());
}
template <typename T>
__device__ __forceinline__ void load_turned(float2 (&to)[4], const float2* from) {
  const auto* const elements = reinterpret_cast<const float*>(from);
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // rows 2 * pair and the one after, of column `group`
    const int at = i * 2 * kWarp + pair() * 8 + group();
    to[i] = make_float2(elements[at], elements[at + 32]);
  }
}
// All of it transposed: two matrices beside the diagonal change places. In half precision the lanes that point to their
// rows do.
template <typename T>
__device__ __forceinline__ void load_transposed(uint32_t (&to)[4], const uint32_t* from) {
  const int row = lane() % 8 + lane() / 8 % 2 * 16 + lane() / 16 * 8;
  ldmatrix_x4_trans(to, from + 4 * row);
}
template <typename T>
__device__ __forceinline__ void load_transposed(float2 (&to)[4], const float2* from) {
  load_turned<T>(to, from);
  const float2 other = to[1];
  to[1] = to[2], to[2] = other;
}
// The left factor of 16 tokens, which lie along rows of coefficients in global memory: two times 8, of which `present`
// and `present_after` are there.
__device__ __forceinline__ void load_columns(float2 (&to)[4], const float* rows, int present, const float* after,
                                             int present_after) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float* const from = (i / 2 == 0 ? rows : after) + i % 2 * 8 + group();
    const int left = (i / 2 == 0 ? present : present_after) - 2 * pair();
    to[i].x = left > 0 ? from[2 * pair() * 16] : 0.0f;
    to[i].y = left > 1 ? from[2 * pair() * 16 + 16] : 0.0f;
  }
}

// `count` 16-byte vectors, or floats, to shared memory, by `threads` threads of which this one is number `thread`.
__device__ __forceinline__ void copy_vectors(void* to, const void* from, int count, int thread, int threads) {
  for (int i = thread; i < count; i += threads) {
    cp_async_16(static_cast<uint4*>(to) + i, static_cast<const uint4*>(from) + i);
  }
}
__device__ __forceinline__ void copy_floats(float* to, const float* from, int count, int thread, int threads,
                                            float times = 1.0f) {
  for (int i = thread; i < count; i += threads) to[i] = from[i] * times;
}

// The sum or the largest over the four lanes of a row, or the eight of a column.
__device__ __forceinline__ float sum_of_row(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}
__device__ __forceinline__ float top_of_row(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}
__device__ __forceinline__ float sum_of_column(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 4);
  x += __shfl_xor_sync(kAllLanes, x, 8);
  return x + __shfl_xor_sync(kAllLanes, x, 16);
}
__device__ __forceinline__ float top_of_column(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 4));
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 8));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 16));
}

// The softmax over a head's tokens in place: d holds 16 image tokens x 8 of them, minus infinity where there is none.
__device__ __forceinline__ void softmax_of_tokens(float (&d)[4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float top = kLog2E * top_of_row(fmaxf(d[2 * half], d[2 * half + 1]));
#pragma unroll
    for (int j = 0; j < 2; ++j) d[2 * half + j] = power_of_two(fmaf(d[2 * half + j], kLog2E, -top));
    const float share = reciprocal(sum_of_row(d[2 * half] + d[2 * half + 1]));
    d[2 * half] *= share, d[2 * half + 1] *= share;
  }
}

}  // namespace fastsam::decoder::cuda
