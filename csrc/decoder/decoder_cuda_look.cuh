// The first block's attention of all prompts' tokens to the image. A block has 64 rows of one head. Each of its 8 warps
// computes 32 of these rows over one quarter of the image tokens, with keys and values loaded directly from global
// memory; the two groups of 32 rows read the same data at about the same time. The block then merges the quarters.
#pragma once

#include "decoder/decoder_cuda_parts.cuh"

namespace fastsam::decoder::cuda {

constexpr int kLookThreads = 256, kLookTiles = 2, kLookQuarters = 4, kLookWarps = kLookThreads / kWarp;
constexpr int kLookWarpRows = kLookTiles * 16, kLookRows = kLookWarps / kLookQuarters * kLookWarpRows;

template <typename T>
__global__ void __launch_bounds__(kLookThreads, kWide<T> > 1 ? 2 : 3) first_look_kernel(const FirstLook look) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  constexpr int kPitch = kDim + 8;  // avoids bank conflicts
  __shared__ float tops[kLookWarps][kLookWarpRows], totals[kLookWarps][kLookWarpRows];
  alignas(16) __shared__ float outs[kLookWarps][kLookWarpRows][kPitch];
  const int64_t blocks = (look.rows + kLookRows - 1) / kLookRows, quarter = parts_of(look.panels, kLookQuarters);
  const int64_t head = blockIdx.x / blocks, first_of_block = blockIdx.x % blocks * kLookRows;
  const int64_t first = first_of_block + warp() / kLookQuarters * kLookWarpRows;
  const int64_t begin = warp() % kLookQuarters * quarter;
  const int64_t end = first < look.rows ? min(begin + quarter, look.panels) : 0;
  const T* const q = static_cast<const T*>(look.q) + head * look.rows * kDim;
  Pair<T> left[kLookTiles][4];
  float top[kLookTiles][2], total[kLookTiles][2] = {}, out[kLookTiles][2][4] = {};
#pragma unroll
  for (int i = 0; i < kLookTiles; ++i) {
    top[i][0] = top[i][1] = kNoTop;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t row = min(first + 16 * i + group() + 8 * (j % 2), look.rows - 1);
      left[i][j] = *reinterpret_cast<const Pair<T>*>(q + row * kDim + 2 * pair() + 8 * (j / 2));
    }
  }
  const auto* const keys = static_cast<const uint4*>(look.keys);
  const auto* const values = static_cast<const uint4*>(look.values);
  Pair<T> key[4], value[4];
  if (begin < end) {
    load_fragment(key, keys, begin * kHeads + head);
    load_fragment(value, values, head * look.panels + begin);
  }
  for (int64_t panel = begin; panel < end; ++panel) {
    Pair<T> next_key[4], next_value[4];
    const int64_t next = min(panel + 1, end - 1);
    load_fragment(next_key, keys, next * kHeads + head);
    load_fragment(next_value, values, head * look.panels + next);
    float scores[kLookTiles][2][4] = {};
    bool behind = false;
#pragma unroll
    for (int i = 0; i < kLookTiles; ++i) {
      multiply<T>(scores[i][0], left[i], right_of(key[0], key[2]));
      multiply<T>(scores[i][1], left[i], right_of(key[1], key[3]));
#pragma unroll
      for (int j = 0; j < 8; ++j) scores[i][j / 4][j % 4] *= kLog2E;
    }
    if (panel * 16 + 16 > look.length) {
#pragma unroll
      for (int i = 0; i < kLookTiles; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const bool inside = panel * 16 + 8 * (j / 4) + 2 * pair() + j % 2 < look.length;
          if (!inside) scores[i][j / 4][j % 4] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kLookTiles; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) behind |= scores[i][j / 4][j % 4] > top[i][j % 4 / 2] + kSlack;
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
          // Rescale only rows that need it: a prompt's result must not depend on other prompts' rows in the warp.
          const bool rises = high > top[i][half] + kSlack;
          const float factor = rises ? exp2_approx(top[i][half] - high) : 1.0f;
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
        score = exp2_approx(score - top[i][j % 4 / 2]);
        total[i][j % 4 / 2] += score;
      }
      Pair<T> weights[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) weights[j] = pack<T>(scores[i][j / 2][j % 2 * 2], scores[i][j / 2][j % 2 * 2 + 1]);
      multiply<T>(out[i][0], weights, right_of(value[0], value[2]));
      multiply<T>(out[i][1], weights, right_of(value[1], value[3]));
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) key[j] = next_key[j], value[j] = next_value[j];
  }
#pragma unroll
  for (int i = 0; i < kLookTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = 16 * i + 8 * half + group();
      const float sum = sum_of_row(total[i][half]);
      if (pair() == 0) tops[warp()][row] = top[i][half], totals[warp()][row] = sum;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        *reinterpret_cast<float2*>(&outs[warp()][row][8 * j + 2 * pair()]) =
            make_float2(out[i][j][2 * half], out[i][j][2 * half + 1]);
      }
    }
  }
  __syncthreads();  // all quarters are in shared memory
  // Merge: each thread has four channels of a row.
  static_assert(kLookThreads == kLookRows * kDim / 4);
  const int number = static_cast<int>(threadIdx.x) / 4, channel = static_cast<int>(threadIdx.x) % 4 * 4;
  const int of_quarter = number / kLookWarpRows * kLookQuarters, row = number % kLookWarpRows;
  if (first_of_block + number >= look.rows) return;
  float highest = kNoTop, sum = 0.0f, x[4] = {};
#pragma unroll
  for (int i = 0; i < kLookQuarters; ++i) highest = fmaxf(highest, tops[of_quarter + i][row]);
#pragma unroll
  for (int i = 0; i < kLookQuarters; ++i) {
    const float factor = exp2_approx(tops[of_quarter + i][row] - highest);
    const float4 four = *reinterpret_cast<const float4*>(&outs[of_quarter + i][row][channel]);
    sum = fmaf(totals[of_quarter + i][row], factor, sum);
    x[0] = fmaf(four.x, factor, x[0]), x[1] = fmaf(four.y, factor, x[1]);
    x[2] = fmaf(four.z, factor, x[2]), x[3] = fmaf(four.w, factor, x[3]);
  }
  const float share = 1.0f / sum;
  T* const to = static_cast<T*>(look.out) + (head * look.rows + first_of_block + number) * kDim + channel;
  *reinterpret_cast<Right<T>*>(to) = right_of(pack<T>(x[0] * share, x[1] * share), pack<T>(x[2] * share, x[3] * share));
#endif
}

}  // namespace fastsam::decoder::cuda
