// The kernel of both passes over the image. Eight warps process one prompt and one part of the image, in tiles of 128
// image tokens and two phases per tile. In the first phase, each warp computes the coefficients of 16 image tokens for
// all heads, and stores them to shared memory. In the second, each warp owns one or two heads of the token-to-image
// attention, for all 128 tokens or half of them. It reads the coefficients twice: as the left factor of its scores and,
// transposed, as the left factor of its sums, which stay in registers until the part ends.
#pragma once

#include "decoder/decoder_cuda_coefficients.cuh"

namespace fastsam::decoder::cuda {

// A warp's tile of columns (queries) of the token-to-image attention, the tile's first head, and the warp's index among
// those that share the tile.
template <typename Shape>
struct WarpTile {
  int tile = warp_in_prompt() % Shape::kTiles, head = tile * Shape::kHeadsPerTile,
      index = warp_in_prompt() / Shape::kTiles;
};

// A warp's sums over the image for a tile of 8 queries, in accumulator layout: a lane has columns 2t, 2t +
// 1. `max_score` is the reference exponent, `weight_sum` the lane's part of the sum of weights.
template <typename T, bool kSecond, bool kFewQueries>
struct AttentionSums {
  using Shape = PassShape<T, kSecond, kFewQueries>;
  static constexpr int kHeadsPerTile = Shape::kHeadsPerTile;
  float max_score[2] = {kInitialMax, kInitialMax}, weight_sum[2] = {};
  float last_sums[2][2] = {};  // sums of the last two coefficients
  float coefficient_sums[Shape::kSteps][4] = {}, value_sums[kHeadsPerTile][4] = {};

  // Multiply the sums of column j of the lane's two by a factor.
  __device__ __forceinline__ void scale(int j, float factor) {
    weight_sum[j] *= factor, last_sums[0][j] *= factor, last_sums[1][j] *= factor;
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step)
      coefficient_sums[step][j] *= factor, coefficient_sums[step][j + 2] *= factor;
#pragma unroll
    for (int k = 0; k < kHeadsPerTile; ++k) value_sums[k][j] *= factor, value_sums[k][j + 2] *= factor;
  }

  // Turn the scores of 16 more image tokens, as exponents of 2, into weights. If any exceeds the reference exponent by
  // more than kRescaleThreshold, first raise it and rescale the sums. All columns of a warp belong to one prompt.
  __device__ __forceinline__ void update_softmax(float (&scores)[4]) {
    bool needs_rescale = false;
#pragma unroll
    for (int j = 0; j < 4; ++j) needs_rescale |= scores[j] > max_score[j % 2] + kRescaleThreshold;
    if (__any_sync(kAllLanes, needs_rescale)) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float new_max = column_max(fmaxf(max_score[j], fmaxf(scores[j], scores[j + 2])));
        scale(j, exp2_approx(max_score[j] - new_max));
        max_score[j] = new_max;
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      scores[j] = exp2_approx(scores[j] - max_score[j % 2]);
      weight_sum[j % 2] += scores[j];
    }
  }

  // Call `function` with each of the lane's values but `max_score`, in a fixed order.
  template <typename Function>
  __device__ __forceinline__ void for_each_value(Function function) {
#pragma unroll
    for (int j = 0; j < 2; ++j) function(weight_sum[j]), function(last_sums[0][j]), function(last_sums[1][j]);
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) {
#pragma unroll
      for (int j = 0; j < 4; ++j) function(coefficient_sums[step][j]);
    }
#pragma unroll
    for (int k = 0; k < kHeadsPerTile; ++k) {
#pragma unroll
      for (int j = 0; j < 4; ++j) function(value_sums[k][j]);
    }
  }
  static constexpr int kValues = 8 + 4 * Shape::kSteps + 4 * kHeadsPerTile;

  // Add the sums of the second of two warps that share a tile to the first's, through `memory` in shared memory,
  // kValues floats per lane. All warps of the block must call this together.
  __device__ __forceinline__ void merge(const WarpTile<Shape>& warp_tile, void* memory) {
    float* at = static_cast<float*>(memory) + warp_tile.tile * kValues * kWarp + lane();
    __syncthreads();  // all warps have finished reading the coefficients, whose memory is reused
    if (warp_tile.index == 1) {
#pragma unroll
      for (int j = 0; j < 2; ++j) *at = max_score[j], at += kWarp;
      for_each_value([&at](float& value) { *at = value, at += kWarp; });
    }
    __syncthreads();
    if (warp_tile.index == 1) return;
    float factor[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float other_max = *at, new_max = fmaxf(max_score[j], other_max);
      at += kWarp;
      scale(j, exp2_approx(max_score[j] - new_max));
      factor[j] = exp2_approx(other_max - new_max), max_score[j] = new_max;
    }
    int value_index = 0;
    for_each_value([&at, &factor, &value_index](float& value) {
      // The column of a value: the first six values are three of column 0, then three of column 1; the rest alternate.
      value = fmaf(*at, factor[value_index < 6 ? value_index / 3 : value_index % 2], value);
      at += kWarp, ++value_index;
    });
  }

  // Store the sums of this part of the image to global memory.
  __device__ __forceinline__ void write(const Pass& pass, const WarpTile<Shape>& warp_tile, int64_t part) const {
    const int column = warp_tile.tile * 8 + 2 * pair();
    float* const to = pass.coefficient_sums + part * Shape::kNumCoefficients * Shape::kColumns + column;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float total_weight = column_sum(weight_sum[j]);
      float last[2];
#pragma unroll
      for (int k = 0; k < 2; ++k) last[k] = kSecond ? column_sum(last_sums[k][j]) : 0.0f;
      if (group() != 0) continue;
      pass.max_scores[part * Shape::kColumns + column + j] = max_score[j];
      pass.weight_sums[part * Shape::kColumns + column + j] = total_weight;
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        if (kSecond) to[(2 * kRows + k) * Shape::kColumns + j] = last[k];
      }
    }
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<float2*>(to + (16 * step + 8 * half + group()) * Shape::kColumns) =
            make_float2(coefficient_sums[step][2 * half], coefficient_sums[step][2 * half + 1]);
      }
    }
#pragma unroll
    for (int k = 0; k < kHeadsPerTile; ++k) {
      float* const value_out = pass.value_sums + (part * kHeads + warp_tile.head + k) * kDim * 8 + 2 * pair();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<float2*>(value_out + (8 * half + group()) * 8) =
            make_float2(value_sums[k][2 * half], value_sums[k][2 * half + 1]);
      }
    }
  }
};

// The second phase: a warp's token-to-image attention over its panels of a tile, one after another.
template <typename T, bool kSecond, bool kFewQueries>
struct TokenToImage {
  using Shape = PassShape<T, kSecond, kFewQueries>;
  static constexpr int kHeadsPerTile = Shape::kHeadsPerTile;
  const PassMemory<T, kSecond, kFewQueries>& memory;
  const WarpTile<Shape>& warp_tile;
  const uint4 *image, *values;  // `image` of the panel whose load is issued next, `values` of the current panel
  int64_t head_stride;          // stride from one head's values to the next
  T* state;                     // the lane's part of the rows of the current panel that this warp stores
  int64_t panel_stride;
  int tokens;
  Pair<T> scaled[kHeadsPerTile][4], unscaled[kHeadsPerTile][4];

  __device__ __forceinline__ TokenToImage(const Pass& pass, const PassMemory<T, kSecond, kFewQueries>& memory_,
                                          T* prompt_state, const WarpTile<Shape>& warp_tile_, int64_t at)
      : memory(memory_), warp_tile(warp_tile_), tokens(static_cast<int>(pass.tokens)) {
    constexpr int kFirst = (Shape::kProjections - 2) * kHeads;
    image = static_cast<const uint4*>(pass.image) +
            (at * Shape::kProjections * kHeads + kFirst + warp_tile.head) * Shape::kFragmentVectors;
    head_stride = pass.panels * Shape::kFragmentVectors;
    values = static_cast<const uint4*>(pass.values) + warp_tile.head * head_stride + at * Shape::kFragmentVectors;
    panel_stride = (2 * kHeads * pass.tokens + 2) * 16;
    state = prompt_state + at * panel_stride + (2 * warp_tile.tile * tokens + group()) * 16 + 2 * pair();
    load_image();
  }

  // Start loading the image's part of the scores of the next panel.
  __device__ __forceinline__ void load_image() {
#pragma unroll
    for (int k = 0; k < kHeadsPerTile; ++k) {
      load_fragment(scaled[k], image, k);
      load_fragment(unscaled[k], image, kHeads + k);
    }
  }

  // Process panel `panel` of the tile: scores, weights, sums. The image has `length` tokens from the panel's first on;
  // `has_next` says whether this warp has another panel after it.
  __device__ __forceinline__ void process(int panel, int length, bool has_next,
                                          AttentionSums<T, kSecond, kFewQueries>& sums) {
    const Pair<T>* const coefficients = memory.fragment(panel, 0);
    float scale[2], inverse_std[2] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      scale[half] = memory.scale[panel * 16 + group() + 8 * half];
      if (kSecond) inverse_std[half] = memory.inverse_std[panel * 16 + group() + 8 * half];
    }
    float scores[4] = {};
    Right<T> queries[kHeadsPerTile];
#pragma unroll
    for (int k = 0; k < kHeadsPerTile; ++k) {
      queries[k] = memory.queries[(warp_tile.head + k) * kWarp + lane()];
      multiply<T>(scores, scaled[k], queries[k]);
    }
    scale_rows(scores, scale);
#pragma unroll
    for (int k = 0; k < kHeadsPerTile; ++k) multiply<T>(scores, unscaled[k], queries[k]);
    if (has_next) image += Shape::kProjections * kHeads * Shape::kFragmentVectors;
    load_image();
    Pair<T> image_values[kHeadsPerTile][4];
#pragma unroll
    for (int k = 0; k < kHeadsPerTile; ++k) load_fragment(image_values[k], values + k * head_stride, 0);
    values += Shape::kFragmentVectors;
#pragma unroll
    for (int step = 0; step < Shape::kSteps; step += 2) {
      Pair<T> left[2][4];
      load_shared<T>(left[0], coefficients + step * kFragment);
      load_shared<T>(left[1], coefficients + (step + 1) * kFragment);
      multiply<T>(scores, left[0], left[1],
                  memory.queries_mix + (warp_tile.tile * (Shape::kSteps / 2) + step / 2) * Shape::kFragmentVectors);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& score = scores[2 * half + j];
        if (kSecond) {
          const float* const by = memory.queries_mix_last + (warp_tile.tile * 8 + 2 * pair() + j) * 2;
          score = fmaf(scale[half], by[0], fmaf(inverse_std[half], by[1], score));
        }
        score = group() + 8 * half < length ? score * kLog2E : -INFINITY;
      }
    }
    sums.update_softmax(scores);
    // Transpose the weights through shared memory to right factors whose depth is 16 image tokens: weights alone for
    // `coefficient_sums`, weights times scale for `value_sums`.
    Pair<T> packed[4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float x = scores[2 * half], y = scores[2 * half + 1];
      packed[half] = pack<T>(x, y), packed[2 + half] = pack<T>(x * scale[half], y * scale[half]);
      if (kSecond) {
        sums.last_sums[0][0] = fmaf(x, scale[half], sums.last_sums[0][0]),
        sums.last_sums[0][1] = fmaf(y, scale[half], sums.last_sums[0][1]);
        sums.last_sums[1][0] = fmaf(x, inverse_std[half], sums.last_sums[1][0]),
        sums.last_sums[1][1] = fmaf(y, inverse_std[half], sums.last_sums[1][1]);
      }
    }
    Pair<T>* const scratch = memory.scratch + warp_in_prompt() * kFragment;
    store_fragment<T>(scratch, packed);
    __syncwarp();
    Pair<T> weights[4];
    load_tiles_transposed<T>(weights, scratch);
    __syncwarp();  // the next panel overwrites the scratch memory
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) {
      Pair<T> left[4];
      load_transposed<T>(left, coefficients + step * kFragment);
      multiply<T>(sums.coefficient_sums[step], left, make_right(weights[0], weights[1]));
    }
#pragma unroll
    for (int k = 0; k < kHeadsPerTile; ++k)
      multiply<T>(sums.value_sums[k], image_values[k], make_right(weights[2], weights[3]));
    store_coefficients(coefficients);
  }

  // Store the panel's coefficients to the state. The warps that process the panel divide the steps among themselves.
  __device__ __forceinline__ void store_coefficients(const Pair<T>* coefficients) {
    T* to = state;
#pragma unroll
    for (int first = 0; first < Shape::kSteps; first += Shape::kTiles) {
      const int step = first + warp_tile.tile;
      if (Shape::kSteps % Shape::kTiles != 0 && step >= Shape::kSteps) break;
      Pair<T> transposed[4];
      load_transposed<T>(transposed, coefficients + step * kFragment);
      if (group() < tokens) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // rows of the step's two heads for image tokens 0 to 7, then 8 to 15
          *reinterpret_cast<Pair<T>*>(to + (i % 2 * tokens * 16 + i / 2 * 8)) = transposed[i];
        }
      }
      to += 2 * Shape::kTiles * tokens * 16;
    }
    state += panel_stride;
  }
};

// One block: kPromptsPerBlock prompts, 256 threads each, and one part of kPartPanels panels. blockIdx.x is (part, group
// of prompts), the latter varying fastest, so that blocks that run at the same time read the same part of the image.
template <typename T, bool kSecond, bool kFewQueries, int kPromptsPerBlock>
__global__ void __launch_bounds__(kPassThreads* kPromptsPerBlock,
                                  PassShape<T, kSecond, kFewQueries>::min_blocks(kPromptsPerBlock))
    pass_kernel(const Pass pass) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  using Shape = PassShape<T, kSecond, kFewQueries>;
  DYNAMIC_SHARED(uint4, shared);
  const int prompt_in_block = warp() / kPassWarps;
  const PassMemory<T, kSecond, kFewQueries> memory(shared + prompt_in_block * Shape::kTotalVectors);
  const int64_t blocks = (pass.prompts + kPromptsPerBlock - 1) / kPromptsPerBlock,
                parts = count_parts(pass.panels, kPartPanels);
  const int64_t part = blockIdx.x / blocks, prompt = blockIdx.x % blocks * kPromptsPerBlock + prompt_in_block;
  const bool has_prompt =
      prompt < pass.prompts;  // false for surplus warps of the last block, which must reach barriers
  const int64_t begin = part * kPartPanels, end = min(begin + kPartPanels, pass.panels);
  const int64_t panel_stride = (2 * kHeads * pass.tokens + 2) * 16;
  T* const state = static_cast<T*>(pass.state) + prompt * pass.panels * panel_stride;
  if (has_prompt) memory.load_operands(pass, prompt);
  const WarpTile<Shape> warp_tile;
  AttentionSums<T, kSecond, kFewQueries> sums;
  for (int64_t tile = begin; tile < end; tile += kTilePanels) {
    __syncthreads();  // the operands are in shared memory, and the last tile's coefficients are no longer read
    const int64_t warp_panel = tile + warp_in_prompt();
    if (has_prompt && warp_panel < end) {
      if constexpr (kSecond) {
        second_coefficients<T, kFewQueries>(pass, memory, state, warp_panel, warp_in_prompt());
      } else {
        first_coefficients<T>(pass, memory, warp_panel, warp_in_prompt());
      }
    }
    const int panels = static_cast<int>(min(int64_t{kTilePanels}, end - tile));
    constexpr int kWarpPanels = kTilePanels / Shape::kWarpsPerTile;
    const int first = warp_tile.index * kWarpPanels, last = min(first + kWarpPanels, panels);
    TokenToImage<T, kSecond, kFewQueries> attention(pass, memory, state, warp_tile,
                                                    min(tile + first, end - 1));  // issues loads early
    __syncthreads();  // the coefficients of all warps are in shared memory
    if (!has_prompt) continue;
    const int token = static_cast<int>(threadIdx.x) % kPassThreads;
    if (kSecond && token < 16 * kTilePanels && tile + kTilePanels + token / 16 < end) {
      // Prefetch the state that the first pass left of the next tile: per panel at most 16 lines of 128 bytes, or twice
      // as many in float32.
      const auto* const previous_state =
          reinterpret_cast<const char*>(state + (tile + kTilePanels + token / 16) * panel_stride);
#pragma unroll
      for (int i = 0; i < kSizeFactor<T>; ++i) {
        const int line = (token % 16 + 16 * i) * 128;
        if (line < kHeads * pass.tokens * 16 * static_cast<int>(sizeof(T))) prefetch_l2(previous_state + line);
      }
    }
    const int length = static_cast<int>(min(pass.length - tile * 16, int64_t{16 * kTilePanels}));
    for (int panel = first; panel < last; ++panel)
      attention.process(panel, length - 16 * panel, panel + 1 < last, sums);
    if (token < 16 * panels) {
      T* const to = state + (tile + token / 16) * panel_stride + 2 * kHeads * pass.tokens * 16 + token % 16;
      to[0] = from_float<T>(memory.scale[token]);
      if (kSecond) to[16] = from_float<T>(memory.inverse_std[token]);
    }
  }
  if constexpr (Shape::kWarpsPerTile > 1) sums.merge(warp_tile, memory.coefficients);
  if (has_prompt && warp_tile.index == 0) sums.write(pass, warp_tile, prompt * parts + part);
#endif
}

}  // namespace fastsam::decoder::cuda
