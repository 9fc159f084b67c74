// All prompts' tokens look at the one image: a warp attends with 32 of a head's rows, straight from global memory.
#pragma once

#include "decoder/decoder_cuda_parts.cuh"

namespace fastsam::decoder::cuda {

constexpr int kLookThreads = 128, kLookTiles = 2, kLookRows = kLookThreads / kWarp * kLookTiles * 16;

template <typename T>
__global__ void __launch_bounds__(kLookThreads) first_look_kernel(const FirstLook look) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  const int64_t blocks = (look.rows + kLookRows - 1) / kLookRows;
  const int64_t head = blockIdx.x / blocks, first = blockIdx.x % blocks * kLookRows + warp() * kLookTiles * 16;
  if (first >= look.rows) return;
  const T* const q = static_cast<const T*>(look.q) + head * look.rows * kDim;
  uint32_t left[kLookTiles][4];
  float top[kLookTiles][2], total[kLookTiles][2] = {}, out[kLookTiles][2][4] = {};
#pragma unroll
  for (int i = 0; i < kLookTiles; ++i) {
    top[i][0] = top[i][1] = kNoTop;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t row = min(first + 16 * i + group() + 8 * (j % 2), look.rows - 1);
      left[i][j] = *reinterpret_cast<const uint32_t*>(q + row * kDim + 2 * pair() + 8 * (j / 2));
    }
  }
  const auto* const keys = static_cast<const uint4*>(look.keys);
  const auto* const values = static_cast<const uint4*>(look.values);
  uint32_t key[4], value[4];
  load_fragment(key, keys, head);
  load_fragment(value, values, head * look.panels);
  for (int64_t panel = 0; panel < look.panels; ++panel) {
    uint32_t next_key[4], next_value[4];
    const int64_t next = min(panel + 1, look.panels - 1);
    load_fragment(next_key, keys, next * kHeads + head);
    load_fragment(next_value, values, head * look.panels + next);
    float scores[kLookTiles][2][4] = {};
    bool behind = false;
#pragma unroll
    for (int i = 0; i < kLookTiles; ++i) {
      mma_m16n8k16<T>(scores[i][0], left[i], key[0], key[2]);
      mma_m16n8k16<T>(scores[i][1], left[i], key[1], key[3]);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        float& score = scores[i][j / 4][j % 4];
        const bool inside = panel * 16 + 8 * (j / 4) + 2 * pair() + j % 2 < look.length;
        score = inside ? score * kLog2E : -INFINITY;
        behind |= score > top[i][j % 4 / 2] + kSlack;
      }
    }
    if (__any_sync(kAllLanes, behind)) {
#pragma unroll
      for (int i = 0; i < kLookTiles; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float high = top[i][half];
#pragma unroll
          for (int j = 0; j < 4; ++j) high = fmaxf(high, scores[i][j / 2][2 * half + j % 2]);
          high = top_of_row(high);
          // Rows that need it, and no others: what one prompt gets must not depend on its neighbours in the warp.
          const bool rises = high > top[i][half] + kSlack;
          const float factor = rises ? power_of_two(top[i][half] - high) : 1.0f;
          top[i][half] = rises ? high : top[i][half], total[i][half] *= factor;
#pragma unroll
          for (int j = 0; j < 4; ++j) out[i][j / 2][2 * half + j % 2] *= factor;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kLookTiles; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        float& score = scores[i][j / 4][j % 4];
        score = power_of_two(score - top[i][j % 4 / 2]);
        total[i][j % 4 / 2] += score;
      }
      uint32_t weights[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) weights[j] = pack<T>(scores[i][j / 2][j % 2 * 2], scores[i][j / 2][j % 2 * 2 + 1]);
      mma_m16n8k16<T>(out[i][0], weights, value[0], value[2]);
      mma_m16n8k16<T>(out[i][1], weights, value[1], value[3]);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) key[j] = next_key[j], value[j] = next_value[j];
  }
  T* const to = static_cast<T*>(look.out) + head * look.rows * kDim;
#pragma unroll
  for (int i = 0; i < kLookTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float share = 1.0f / sum_of_row(total[i][half]);
      const int64_t row = first + 16 * i + 8 * half + group();
      if (row >= look.rows) continue;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        *reinterpret_cast<uint32_t*>(to + row * kDim + 8 * j + 2 * pair()) =
            pack<T>(out[i][j][2 * half] * share, out[i][j][2 * half + 1] * share);
      }
    }
  }
#endif
}

}  // namespace fastsam::decoder::cuda
