// The kernel of both passes over the image. Eight warps process one prompt and one part of the image, in tiles of 128
// image tokens and two phases per tile. In the first phase, each warp computes the coefficients of 16 image tokens for
// all heads, and stores them to shared memory. In the second, each warp owns one or two heads of the look, for all 128
// tokens or half of them. It reads the coefficients twice: as the left factor of its scores and, transposed, as the
// left factor of its sums, which stay in registers until the part ends.
#pragma once

#include "decoder/decoder_cuda_coefficients.cuh"

namespace fastsam::decoder::cuda {

// A warp's share of the look: its tile of columns, the tile's first head, and the warp's number among those that share
// the tile.
template <typename Shape>
struct Share {
  int tile = warp_of_prompt() % Shape::kTiles, head = tile * Shape::kHeadsOfTile,
      number = warp_of_prompt() / Shape::kTiles;
};

// A warp's sums over the image for a tile of 8 columns of the look, in accumulator layout: a lane has columns 2t, 2t +
// 1. `top` is the reference exponent, `total` the lane's part of the sum of weights.
template <typename T, bool kSecond, bool kNarrow>
struct Gathered {
  using Shape = PassShape<T, kSecond, kNarrow>;
  static constexpr int kHeadsOfTile = Shape::kHeadsOfTile;
  float top[2] = {kNoTop, kNoTop}, total[2] = {};
  float rest[2][2] = {};  // sums of the last two coefficients
  float mixed[Shape::kSteps][4] = {}, seen[kHeadsOfTile][4] = {};

  // Multiply the sums of column j of the lane's two by a factor.
  __device__ __forceinline__ void scale(int j, float factor) {
    total[j] *= factor, rest[0][j] *= factor, rest[1][j] *= factor;
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) mixed[step][j] *= factor, mixed[step][j + 2] *= factor;
#pragma unroll
    for (int k = 0; k < kHeadsOfTile; ++k) seen[k][j] *= factor, seen[k][j + 2] *= factor;
  }

  // Turn the scores of 16 more image tokens, as exponents of 2, into weights. If any exceeds the reference exponent by
  // more than kSlack, first raise it and rescale the sums. All columns of a warp belong to one prompt.
  __device__ __forceinline__ void weigh(float (&scores)[4]) {
    bool behind = false;
#pragma unroll
    for (int j = 0; j < 4; ++j) behind |= scores[j] > top[j % 2] + kSlack;
    if (__any_sync(kAllLanes, behind)) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float high = top_of_column(fmaxf(top[j], fmaxf(scores[j], scores[j + 2])));
        scale(j, exp2_approx(top[j] - high));
        top[j] = high;
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      scores[j] = exp2_approx(scores[j] - top[j % 2]);
      total[j % 2] += scores[j];
    }
  }

  // Call `each` with each of the lane's values but `top`, in a fixed order.
  template <typename Visit>
  __device__ __forceinline__ void visit(Visit each) {
#pragma unroll
    for (int j = 0; j < 2; ++j) each(total[j]), each(rest[0][j]), each(rest[1][j]);
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) {
#pragma unroll
      for (int j = 0; j < 4; ++j) each(mixed[step][j]);
    }
#pragma unroll
    for (int k = 0; k < kHeadsOfTile; ++k) {
#pragma unroll
      for (int j = 0; j < 4; ++j) each(seen[k][j]);
    }
  }
  static constexpr int kValues = 8 + 4 * Shape::kSteps + 4 * kHeadsOfTile;

  // Add the sums of the second of two warps that share a tile to the first's, through `memory` in shared memory,
  // kValues floats per lane. All warps of the block must call this together.
  __device__ __forceinline__ void merge(const Share<Shape>& share, void* memory) {
    float* at = static_cast<float*>(memory) + share.tile * kValues * kWarp + lane();
    __syncthreads();  // all warps have finished reading the coefficients, whose memory is reused
    if (share.number == 1) {
#pragma unroll
      for (int j = 0; j < 2; ++j) *at = top[j], at += kWarp;
      visit([&at](float& value) { *at = value, at += kWarp; });
    }
    __syncthreads();
    if (share.number == 1) return;
    float factor[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float other = *at, high = fmaxf(top[j], other);
      at += kWarp;
      scale(j, exp2_approx(top[j] - high));
      factor[j] = exp2_approx(other - high), top[j] = high;
    }
    int number = 0;
    visit([&at, &factor, &number](float& value) {
      // The column of a value: the first six values are three of column 0, then three of column 1; the rest alternate.
      value = fmaf(*at, factor[number < 6 ? number / 3 : number % 2], value);
      at += kWarp, ++number;
    });
  }

  // Store the sums of this part of the image to global memory.
  __device__ __forceinline__ void write(const Pass& pass, const Share<Shape>& share, int64_t part) const {
    const int column = share.tile * 8 + 2 * pair();
    float* const to = pass.mixed + part * Shape::kMixedRows * Shape::kColumns + column;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float all = sum_of_column(total[j]);
      float last[2];
#pragma unroll
      for (int k = 0; k < 2; ++k) last[k] = kSecond ? sum_of_column(rest[k][j]) : 0.0f;
      if (group() != 0) continue;
      pass.tops[part * Shape::kColumns + column + j] = top[j];
      pass.totals[part * Shape::kColumns + column + j] = all;
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
            make_float2(mixed[step][2 * half], mixed[step][2 * half + 1]);
      }
    }
#pragma unroll
    for (int k = 0; k < kHeadsOfTile; ++k) {
      float* const to_seen = pass.seen + (part * kHeads + share.head + k) * kDim * 8 + 2 * pair();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<float2*>(to_seen + (8 * half + group()) * 8) =
            make_float2(seen[k][2 * half], seen[k][2 * half + 1]);
      }
    }
  }
};

// The second phase: a warp's look at its panels of a tile, one after another.
template <typename T, bool kSecond, bool kNarrow>
struct Look {
  using Shape = PassShape<T, kSecond, kNarrow>;
  static constexpr int kHeadsOfTile = Shape::kHeadsOfTile;
  const PassMemory<T, kSecond, kNarrow>& memory;
  const Share<Shape>& share;
  const uint4 *image, *values;  // `image` of the panel whose load is issued next, `values` of the current panel
  int64_t of_head;              // stride from one head's values to the next
  T* state;                     // the lane's part of the rows of the current panel that this warp stores
  int64_t of_panel;
  int tokens;
  Pair<T> scaled[kHeadsOfTile][4], plain[kHeadsOfTile][4];

  __device__ __forceinline__ Look(const Pass& pass, const PassMemory<T, kSecond, kNarrow>& memory_, T* of_prompt,
                                  const Share<Shape>& share_, int64_t at)
      : memory(memory_), share(share_), tokens(static_cast<int>(pass.tokens)) {
    constexpr int kFirst = (Shape::kProjections - 2) * kHeads;
    image = static_cast<const uint4*>(pass.image) +
            (at * Shape::kProjections * kHeads + kFirst + share.head) * Shape::kEach;
    of_head = pass.panels * Shape::kEach;
    values = static_cast<const uint4*>(pass.values) + share.head * of_head + at * Shape::kEach;
    of_panel = (2 * kHeads * pass.tokens + 2) * 16;
    state = of_prompt + at * of_panel + (2 * share.tile * tokens + group()) * 16 + 2 * pair();
    ask();
  }

  // Start loading the image's part of the scores of the next panel.
  __device__ __forceinline__ void ask() {
#pragma unroll
    for (int k = 0; k < kHeadsOfTile; ++k) {
      load_fragment(scaled[k], image, k);
      load_fragment(plain[k], image, kHeads + k);
    }
  }

  // Process panel `panel` of the tile: scores, weights, sums. The image has `length` tokens from the panel's first on;
  // `another` says whether this warp has another panel after it.
  __device__ __forceinline__ void at(int panel, int length, bool another, Gathered<T, kSecond, kNarrow>& sums) {
    const Pair<T>* const coefficients = memory.step(panel, 0);
    float scale[2], one[2] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      scale[half] = memory.scale[panel * 16 + group() + 8 * half];
      if (kSecond) one[half] = memory.one[panel * 16 + group() + 8 * half];
    }
    float scores[4] = {};
    Right<T> look[kHeadsOfTile];
#pragma unroll
    for (int k = 0; k < kHeadsOfTile; ++k) {
      look[k] = memory.look[(share.head + k) * kWarp + lane()];
      multiply<T>(scores, scaled[k], look[k]);
    }
    scale_rows(scores, scale);
#pragma unroll
    for (int k = 0; k < kHeadsOfTile; ++k) multiply<T>(scores, plain[k], look[k]);
    if (another) image += Shape::kProjections * kHeads * Shape::kEach;
    ask();
    Pair<T> seen[kHeadsOfTile][4];
#pragma unroll
    for (int k = 0; k < kHeadsOfTile; ++k) load_fragment(seen[k], values + k * of_head, 0);
    values += Shape::kEach;
#pragma unroll
    for (int step = 0; step < Shape::kSteps; step += 2) {
      Pair<T> left[2][4];
      load_stored<T>(left[0], coefficients + step * kFragment);
      load_stored<T>(left[1], coefficients + (step + 1) * kFragment);
      multiply<T>(scores, left[0], left[1],
                  memory.look_mix + (share.tile * (Shape::kSteps / 2) + step / 2) * Shape::kEach);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& score = scores[2 * half + j];
        if (kSecond) {
          const float* const by = memory.look_rest + (share.tile * 8 + 2 * pair() + j) * 2;
          score = fmaf(scale[half], by[0], fmaf(one[half], by[1], score));
        }
        score = group() + 8 * half < length ? score * kLog2E : -INFINITY;
      }
    }
    sums.weigh(scores);
    // Transpose the weights through shared memory to right factors whose depth is 16 image tokens: weights alone for
    // `mixed`, weights times scale for `seen`.
    Pair<T> both[4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float x = scores[2 * half], y = scores[2 * half + 1];
      both[half] = pack<T>(x, y), both[2 + half] = pack<T>(x * scale[half], y * scale[half]);
      if (kSecond) {
        sums.rest[0][0] = fmaf(x, scale[half], sums.rest[0][0]),
        sums.rest[0][1] = fmaf(y, scale[half], sums.rest[0][1]);
        sums.rest[1][0] = fmaf(x, one[half], sums.rest[1][0]), sums.rest[1][1] = fmaf(y, one[half], sums.rest[1][1]);
      }
    }
    Pair<T>* const scratch = memory.scratch + warp_of_prompt() * kFragment;
    store_fragment<T>(scratch, both);
    __syncwarp();
    Pair<T> weights[4];
    load_turned<T>(weights, scratch);
    __syncwarp();  // the next panel overwrites the scratch memory
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) {
      Pair<T> left[4];
      load_transposed<T>(left, coefficients + step * kFragment);
      multiply<T>(sums.mixed[step], left, right_of(weights[0], weights[1]));
    }
#pragma unroll
    for (int k = 0; k < kHeadsOfTile; ++k) multiply<T>(sums.seen[k], seen[k], right_of(weights[2], weights[3]));
    keep(coefficients);
  }

  // Store the panel's coefficients to the state. The warps that look at the panel divide the steps among themselves.
  __device__ __forceinline__ void keep(const Pair<T>* coefficients) {
    T* to = state;
#pragma unroll
    for (int first = 0; first < Shape::kSteps; first += Shape::kTiles) {
      const int step = first + share.tile;
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
    state += of_panel;
  }
};

// One block: kTogether prompts, 256 threads each, and one part of kPartPanels panels. blockIdx.x is (part, group of
// prompts), the latter varying fastest, so that blocks that run at the same time read the same part of the image.
template <typename T, bool kSecond, bool kNarrow, int kTogether>
__global__ void __launch_bounds__(kPassThreads* kTogether, PassShape<T, kSecond, kNarrow>::blocks(kTogether))
    pass_kernel(const Pass pass) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  using Shape = PassShape<T, kSecond, kNarrow>;
  DYNAMIC_SHARED(uint4, shared);
  const int mine = warp() / kPassWarps;
  const PassMemory<T, kSecond, kNarrow> memory(shared + mine * Shape::kAll);
  const int64_t blocks = (pass.prompts + kTogether - 1) / kTogether, parts = parts_of(pass.panels, kPartPanels);
  const int64_t part = blockIdx.x / blocks, prompt = blockIdx.x % blocks * kTogether + mine;
  const bool present = prompt < pass.prompts;  // false for surplus warps of the last block, which must reach barriers
  const int64_t begin = part * kPartPanels, end = min(begin + kPartPanels, pass.panels);
  const int64_t of_panel = (2 * kHeads * pass.tokens + 2) * 16;
  T* const state = static_cast<T*>(pass.state) + prompt * pass.panels * of_panel;
  if (present) memory.fill(pass, prompt);
  const Share<Shape> share;
  Gathered<T, kSecond, kNarrow> sums;
  for (int64_t tile = begin; tile < end; tile += kTilePanels) {
    __syncthreads();  // the operands are in shared memory, and the last tile's coefficients are no longer read
    const int64_t mine_of_tile = tile + warp_of_prompt();
    if (present && mine_of_tile < end) {
      if constexpr (kSecond) {
        second_coefficients<T, kNarrow>(pass, memory, state, mine_of_tile, warp_of_prompt());
      } else {
        first_coefficients<T>(pass, memory, mine_of_tile, warp_of_prompt());
      }
    }
    const int panels = static_cast<int>(min(int64_t{kTilePanels}, end - tile));
    constexpr int kEach = kTilePanels / Shape::kSharers;
    const int first = share.number * kEach, last = min(first + kEach, panels);
    Look<T, kSecond, kNarrow> look(pass, memory, state, share, min(tile + first, end - 1));  // issues loads early
    __syncthreads();  // the coefficients of all warps are in shared memory
    if (!present) continue;
    const int token = static_cast<int>(threadIdx.x) % kPassThreads;
    if (kSecond && token < 16 * kTilePanels && tile + kTilePanels + token / 16 < end) {
      // Prefetch the state that the first pass left of the next tile: per panel at most 16 lines of 128 bytes, or twice
      // as many in float32.
      const auto* const left_behind =
          reinterpret_cast<const char*>(state + (tile + kTilePanels + token / 16) * of_panel);
#pragma unroll
      for (int i = 0; i < kWide<T>; ++i) {
        const int line = (token % 16 + 16 * i) * 128;
        if (line < kHeads * pass.tokens * 16 * static_cast<int>(sizeof(T))) fetch_ahead(left_behind + line);
      }
    }
    const int length = static_cast<int>(min(pass.length - tile * 16, int64_t{16 * kTilePanels}));
    for (int panel = first; panel < last; ++panel) look.at(panel, length - 16 * panel, panel + 1 < last, sums);
    if (token < 16 * panels) {
      T* const to = state + (tile + token / 16) * of_panel + 2 * kHeads * pass.tokens * 16 + token % 16;
      to[0] = from_float<T>(memory.scale[token]);
      if (kSecond) to[16] = from_float<T>(memory.one[token]);
    }
  }
  if constexpr (Shape::kSharers > 1) sums.merge(share, memory.coefficients);
  if (present && share.number == 0) sums.write(pass, share, prompt * parts + part);
#endif
}

}  // namespace fastsam::decoder::cuda
