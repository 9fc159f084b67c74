// The online softmax of a warp's queries over tiles of keys, and the final normalisation and store of its output.
#pragma once

#include "attention/attention_cuda_window.cuh"

namespace fastsam::attention {

template <typename T>
__device__ __forceinline__ void store_pair(T* to, float first, float second) {
  *reinterpret_cast<uint32_t*>(to) = pack<T>(first, second);
}
__device__ __forceinline__ void store_pair(float* to, float first, float second) {
  *reinterpret_cast<float2*>(to) = make_float2(first, second);
}

// The running state of a warp's kTiles x 16 queries, in fragment layout (see common/mma.h): a lane has rows group() and
// group() + 8 of each tile. `row_max` is the reference exponent (see softmax_step), `row_sum` the lane's part of the
// sum of weights, `out` the weighted sum of values.
template <int kDim, int kTiles>
struct SoftmaxState {
  float row_max[kTiles][2], row_sum[kTiles][2];
  float out[kTiles][kDim / 8][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // Finite, so that scores of minus infinity give weight 0 instead of NaN.
        row_max[i][half] = -3e38f, row_sum[i][half] = 0.0f;
      }
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) out[i][n][j] = 0.0f;
      }
    }
  }
};

// Replace scores by weights 2^(scale * score + shift - row_max) and add them to the sums. `row_max` is raised to the
// largest exponent only when that exceeds it by more than 8. Weights thus stay below 2^8, far from the limit of half
// precision, and most tiles need no rescaling of earlier sums.
template <int kDim, int kTiles, int kGroups>
__device__ __forceinline__ void softmax_step(float (&scores)[kTiles][kGroups][4], float scale,
                                             const float (&shift)[kTiles][2], SoftmaxState<kDim, kTiles>& state) {
  constexpr float kRescaleThreshold = 8.0f;
  float tile_max[kTiles][2];
  bool needs_rescale = false;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float new_max = fmaxf(scores[i][0][2 * half], scores[i][0][2 * half + 1]);
#pragma unroll
      for (int n = 1; n < kGroups; ++n)
        new_max = fmaxf(new_max, fmaxf(scores[i][n][2 * half], scores[i][n][2 * half + 1]));
      new_max = fmaxf(new_max, __shfl_xor_sync(kAllLanes, new_max, 1));
      new_max = fmaxf(new_max, __shfl_xor_sync(kAllLanes, new_max, 2));
      tile_max[i][half] = fmaf(new_max, scale, shift[i][half]);
      needs_rescale |= tile_max[i][half] > state.row_max[i][half] + kRescaleThreshold;
    }
  }
  if (__any_sync(kAllLanes, needs_rescale)) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float new_max = fmaxf(state.row_max[i][half], tile_max[i][half]);
        const float factor = exp2_approx(state.row_max[i][half] - new_max);
        state.row_max[i][half] = new_max;
        state.row_sum[i][half] *= factor;
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
          state.out[i][n][2 * half] *= factor;
          state.out[i][n][2 * half + 1] *= factor;
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const float base[2] = {shift[i][0] - state.row_max[i][0], shift[i][1] - state.row_max[i][1]};
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float weight = exp2_approx(fmaf(scores[i][n][j], scale, base[j / 2]));
        scores[i][n][j] = weight;
        state.row_sum[i][j / 2] += weight;
      }
    }
  }
}

// Normalise the sums and store them to global memory. They go through the shared memory of the warp's own queries,
// which are no longer needed, so that whole rows can be stored with 16-byte accesses.
template <typename T, int kDim, int kTiles>
__device__ __forceinline__ void store_output(const Params<T>& params, const Window<T>& window, int row,
                                             const SoftmaxState<kDim, kTiles>& state, T* queries) {
  using Shared = Tile<T, kDim>;
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float row_sum = state.row_sum[i][half];
      row_sum += __shfl_xor_sync(kAllLanes, row_sum, 1);
      row_sum += __shfl_xor_sync(kAllLanes, row_sum, 2);
      const float factor = row_sum == 0.0f ? 0.0f : 1.0f / row_sum;  // the sum is 0 if the bias excludes all keys
      const int to = row + 16 * i + 8 * half + group();
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        T* const dst = queries + Shared::element(to, 8 * n + 2 * pair());
        store_pair(dst, state.out[i][n][2 * half] * factor, state.out[i][n][2 * half + 1] * factor);
      }
    }
  }
  __syncwarp();
  for (int i = lane(); i < 16 * kTiles * Shared::kVectorsPerRow; i += kWarp) {
    const int from = row + i / Shared::kVectorsPerRow, vector = i % Shared::kVectorsPerRow;
    if (window.first + from >= window.count()) break;
    const WindowPosition position = position_of(window, window.first + from);
    T* const to = window.out + (int64_t{position.y} * params.columns + position.x) * (params.token_stride / 3) +
                  vector * Shared::kVectorSize;
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(queries + Shared::offset(from, vector));
  }
}

}  // namespace fastsam::attention
