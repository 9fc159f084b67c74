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

// The fragment of a lane in global memory.
__device__ __forceinline__ void load_fragment(uint32_t (&to)[4], const uint4* fragments, int64_t number) {
  const uint4 four = __ldg(fragments + number * kWarp + lane());
  to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}

template <typename T>
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint2 b) {
  mma_m16n8k16<T>(d, a, b.x, b.y);
}
// 32 of depth.
template <typename T>
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a0)[4], const uint32_t (&a1)[4], uint4 b) {
  mma_m16n8k16<T>(d, a0, b.x, b.y);
  mma_m16n8k16<T>(d, a1, b.z, b.w);
}
// Adds 64 of depth to 8 columns: `matrix` begins at theirs.
template <typename T>
__device__ __forceinline__ void multiply_rows(float (&d)[4], const uint32_t (&a)[4][4], const uint4* matrix) {
  multiply<T>(d, a[0], a[1], matrix[lane()]);
  multiply<T>(d, a[2], a[3], matrix[kWarp + lane()]);
}

// A fragment in shared memory is four matrices of 8 rows of 16 bytes, pair by pair, so that ldmatrix gives it back as
// it is, or transposed.
__device__ __forceinline__ void store_fragment(uint32_t* to, const uint32_t (&from)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) to[i * kWarp + lane()] = from[i];
}
__device__ __forceinline__ void load_stored(uint32_t (&to)[4], const uint32_t* from) {
  ldmatrix_x4(to, from + 4 * lane());
}
// Transposed, its two matrices beside the diagonal change places: the lanes that point to their rows do.
__device__ __forceinline__ void load_transposed(uint32_t (&to)[4], const uint32_t* from) {
  const int row = lane() % 8 + lane() / 8 % 2 * 16 + lane() / 16 * 8;
  ldmatrix_x4_trans(to, from + 4 * row);
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
