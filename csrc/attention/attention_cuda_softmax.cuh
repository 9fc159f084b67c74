// The online softmax of a warp's queries over tiles of keys, and the final normalisation and store of its output.
#pragma once

#include "attention/attention_cuda_window.cuh"

namespace fastsam::attention {

template <typename T>
__device__ __forceinline__ void store_two(T* to, float first, float second) {
  *reinterpret_cast<uint32_t*>(to) = pack<T>(first, second);
}
__device__ __forceinline__ void store_two(float* to, float first, float second) {
  *reinterpret_cast<float2*>(to) = make_float2(first, second);
}

// The running state of a warp's kTiles x 16 queries, in fragment layout (see common/mma.h): a lane has rows group() and
// group() + 8 of each tile. `top` is the reference exponent (see softmax_step), `total` the lane's part of the sum of
// weights, `out` the weighted sum of values.
template <int kDim, int kTiles>
struct Sums {
  float top[kTiles][2], total[kTiles][2];
  float out[kTiles][kDim / 8][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // Finite, so that scores of minus infinity give weight 0 instead of NaN.
        top[i][half] = -3e38f, total[i][half] = 0.0f;
      }
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) out[i][n][j] = 0.0f;
      }
    }
  }
};

// Replace scores by weights 2^(scale * score + shift - top) and add them to the sums. `top` is raised to the largest
// exponent only when that exceeds it by more than 8. Weights thus stay below 2^8, far from the limit of half precision,
// and most tiles need no rescaling of earlier sums.
template <int kDim, int kTiles, int kGroups>
__device__ __forceinline__ void softmax_step(float (&scores)[kTiles][kGroups][4], float scale,
                                             const float (&shift)[kTiles][2], Sums<kDim, kTiles>& sums) {
  constexpr float kSlack = 8.0f;
  float high[kTiles][2];
  bool behind = false;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = fmaxf(scores[i][0][2 * half], scores[i][0][2 * half + 1]);
#pragma unroll
      for (int n = 1; n < kGroups; ++n) top = fmaxf(top, fmaxf(scores[i][n][2 * half], scores[i][n][2 * half + 1]));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
      high[i][half] = fmaf(top, scale, shift[i][half]);
      behind |= high[i][half] > sums.top[i][half] + kSlack;
    }
  }
  if (__any_sync(kAllLanes, behind)) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float top = fmaxf(sums.top[i][half], high[i][half]);
        const float factor = exp2_approx(sums.top[i][half] - top);
        sums.top[i][half] = top;
        sums.total[i][half] *= factor;
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
          sums.out[i][n][2 * half] *= factor;
          sums.out[i][n][2 * half + 1] *= factor;
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const float base[2] = {shift[i][0] - sums.top[i][0], shift[i][1] - sums.top[i][1]};
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float weight = exp2_approx(fmaf(scores[i][n][j], scale, base[j / 2]));
        scores[i][n][j] = weight;
        sums.total[i][j / 2] += weight;
      }
    }
  }
}

// Normalise the sums and store them to global memory. They go through the shared memory of the warp's own queries,
// which are no longer needed, so that whole rows can be stored with 16-byte accesses.
template <typename T, int kDim, int kTiles>
__device__ __forceinline__ void write_out(const Job<T>& job, const Window<T>& window, int row,
                                          const Sums<kDim, kTiles>& sums, T* queries) {
  using Shared = Tile<T, kDim>;
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = sums.total[i][half];
      total += __shfl_xor_sync(kAllLanes, total, 1);
      total += __shfl_xor_sync(kAllLanes, total, 2);
      const float factor = total == 0.0f ? 0.0f : 1.0f / total;  // total is 0 if the bias excludes all keys
      const int to = row + 16 * i + 8 * half + group();
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        T* const at = queries + Shared::element(to, 8 * n + 2 * pair());
        store_two(at, sums.out[i][n][2 * half] * factor, sums.out[i][n][2 * half + 1] * factor);
      }
    }
  }
  __syncwarp();
  for (int i = lane(); i < 16 * kTiles * Shared::kVectors; i += kWarp) {
    const int from = row + i / Shared::kVectors, vector = i % Shared::kVectors;
    if (window.first + from >= window.count()) break;
    const Place at = place_of(window, window.first + from);
    T* const to = window.out + (int64_t{at.y} * job.columns + at.x) * (job.token / 3) + vector * Shared::kVector;
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(queries + Shared::offset(from, vector));
  }
}

}  // namespace fastsam::attention
