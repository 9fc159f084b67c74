// The first block's attention of all prompts' tokens to the image. A block has 64 rows of one head. Each of its 8 warps
// computes 32 of these rows over one quarter of the image tokens, with keys and values loaded directly from global
// memory; the two groups of 32 rows read the same data at about the same time. The block then merges the quarters.
#pragma once

#include "decoder/decoder_cuda_fragments.cuh"

namespace fastsam::decoder::cuda {

constexpr int kAttentionThreads = 256, kAttentionTiles = 2, kAttentionQuarters = 4,
              kAttentionWarps = kAttentionThreads / kWarp;
constexpr int kAttentionWarpRows = kAttentionTiles * 16,
              kAttentionRows = kAttentionWarps / kAttentionQuarters * kAttentionWarpRows;

template <typename T>
__global__ void __launch_bounds__(kAttentionThreads, kSizeFactor<T> > 1 ? 2 : 3)
    first_token_to_image_kernel(const FirstTokenToImage attention) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  constexpr int kPitch = kDim + 8;  // avoids bank conflicts
  __shared__ float max_scores[kAttentionWarps][kAttentionWarpRows], weight_sums[kAttentionWarps][kAttentionWarpRows];
  alignas(16) __shared__ float outs[kAttentionWarps][kAttentionWarpRows][kPitch];
  const int64_t blocks = (attention.rows + kAttentionRows - 1) / kAttentionRows,
                quarter = count_parts(attention.panels, kAttentionQuarters);
  const int64_t head = blockIdx.x / blocks, first_of_block = blockIdx.x % blocks * kAttentionRows;
  const int64_t first = first_of_block + warp() / kAttentionQuarters * kAttentionWarpRows;
  const int64_t begin = warp() % kAttentionQuarters * quarter;
  const int64_t end = first < attention.rows ? min(begin + quarter, attention.panels) : 0;
  const T* const q = static_cast<const T*>(attention.q) + head * attention.rows * kDim;
  Pair<T> left[kAttentionTiles][4];
  float max_score[kAttentionTiles][2], weight_sum[kAttentionTiles][2] = {}, out[kAttentionTiles][2][4] = {};
#pragma unroll
  for (int i = 0; i < kAttentionTiles; ++i) {
    max_score[i][0] = max_score[i][1] = kInitialMax;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t row = min(first + 16 * i + group() + 8 * (j % 2), attention.rows - 1);
      left[i][j] = *reinterpret_cast<const Pair<T>*>(q + row * kDim + 2 * pair() + 8 * (j / 2));
    }
  }
  const auto* const keys = static_cast<const uint4*>(attention.keys);
  const auto* const values = static_cast<const uint4*>(attention.values);
  Pair<T> key[4], value[4];
  if (begin < end) {
    load_fragment(key, keys, begin * kHeads + head);
    load_fragment(value, values, head * attention.panels + begin);
  }
  for (int64_t panel = begin; panel < end; ++panel) {
    Pair<T> next_key[4], next_value[4];
    const int64_t next = min(panel + 1, end - 1);
    load_fragment(next_key, keys, next * kHeads + head);
    load_fragment(next_value, values, head * attention.panels + next);
    float scores[kAttentionTiles][2][4] = {};
    bool needs_rescale = false;
#pragma unroll
    for (int i = 0; i < kAttentionTiles; ++i) {
      multiply<T>(scores[i][0], left[i], make_right(key[0], key[2]));
      multiply<T>(scores[i][1], left[i], make_right(key[1], key[3]));
#pragma unroll
      for (int j = 0; j < 8; ++j) scores[i][j / 4][j % 4] *= kLog2E;
    }
    if (panel * 16 + 16 > attention.length) {
#pragma unroll
      for (int i = 0; i < kAttentionTiles; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const bool inside = panel * 16 + 8 * (j / 4) + 2 * pair() + j % 2 < attention.length;
          if (!inside) scores[i][j / 4][j % 4] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kAttentionTiles; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j)
        needs_rescale |= scores[i][j / 4][j % 4] > max_score[i][j % 4 / 2] + kRescaleThreshold;
    }
    if (__any_sync(kAllLanes, needs_rescale)) {
#pragma unroll
      for (int i = 0; i < kAttentionTiles; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float new_max = max_score[i][half];
#pragma unroll
          for (int j = 0; j < 4; ++j) new_max = fmaxf(new_max, scores[i][j / 2][2 * half + j % 2]);
          new_max = row_max(new_max);
          // Rescale only rows that need it: a prompt's result must not depend on other prompts' rows in the warp.
          const bool is_raised = new_max > max_score[i][half] + kRescaleThreshold;
          const float factor = is_raised ? exp2_approx(max_score[i][half] - new_max) : 1.0f;
          max_score[i][half] = is_raised ? new_max : max_score[i][half], weight_sum[i][half] *= factor;
#pragma unroll
          for (int j = 0; j < 4; ++j) out[i][j / 2][2 * half + j % 2] *= factor;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kAttentionTiles; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        float& score = scores[i][j / 4][j % 4];
        score = exp2_approx(score - max_score[i][j % 4 / 2]);
        weight_sum[i][j % 4 / 2] += score;
      }
      Pair<T> weights[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) weights[j] = pack<T>(scores[i][j / 2][j % 2 * 2], scores[i][j / 2][j % 2 * 2 + 1]);
      multiply<T>(out[i][0], weights, make_right(value[0], value[2]));
      multiply<T>(out[i][1], weights, make_right(value[1], value[3]));
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) key[j] = next_key[j], value[j] = next_value[j];
  }
#pragma unroll
  for (int i = 0; i < kAttentionTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = 16 * i + 8 * half + group();
      const float sum = row_sum(weight_sum[i][half]);
      if (pair() == 0) max_scores[warp()][row] = max_score[i][half], weight_sums[warp()][row] = sum;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        *reinterpret_cast<float2*>(&outs[warp()][row][8 * j + 2 * pair()]) =
            make_float2(out[i][j][2 * half], out[i][j][2 * half + 1]);
      }
    }
  }
  __syncthreads();  // all quarters are in shared memory
  // Merge: each thread has four channels of a row.
  static_assert(kAttentionThreads == kAttentionRows * kDim / 4);
  const int block_row = static_cast<int>(threadIdx.x) / 4, channel = static_cast<int>(threadIdx.x) % 4 * 4;
  const int first_quarter = block_row / kAttentionWarpRows * kAttentionQuarters, row = block_row % kAttentionWarpRows;
  if (first_of_block + block_row >= attention.rows) return;
  float merged_max = kInitialMax, sum = 0.0f, x[4] = {};
#pragma unroll
  for (int i = 0; i < kAttentionQuarters; ++i) merged_max = fmaxf(merged_max, max_scores[first_quarter + i][row]);
#pragma unroll
  for (int i = 0; i < kAttentionQuarters; ++i) {
    const float factor = exp2_approx(max_scores[first_quarter + i][row] - merged_max);
    const float4 four = *reinterpret_cast<const float4*>(&outs[first_quarter + i][row][channel]);
    sum = fmaf(weight_sums[first_quarter + i][row], factor, sum);
    x[0] = fmaf(four.x, factor, x[0]), x[1] = fmaf(four.y, factor, x[1]);
    x[2] = fmaf(four.z, factor, x[2]), x[3] = fmaf(four.w, factor, x[3]);
  }
  const float inverse_sum = 1.0f / sum;
  T* const to = static_cast<T*>(attention.out) + (head * attention.rows + first_of_block + block_row) * kDim + channel;
  *reinterpret_cast<Right<T>*>(to) =
      make_right(pack<T>(x[0] * inverse_sum, x[1] * inverse_sum), pack<T>(x[2] * inverse_sum, x[3] * inverse_sum));
#endif
}

}  // namespace fastsam::decoder::cuda
