// Both passes over the image. Eight warps have one prompt and one part of the image, which they go through by tiles of
// 128 image tokens, in two phases. First each warp makes the coefficients of 16 tokens, for all heads; they go to
// shared memory. Then each warp has one or two heads of the look, for all 128 tokens or for half of them: it reads the
// coefficients twice, as the left factor of its scores and, transposed, as that of the sums, which stay in its
// registers until the part ends.
#pragma once

#include "decoder/decoder_cuda_coefficients.cuh"

namespace fastsam::decoder::cuda {

// The warp's tile of columns, its first head, and which of those that share a tile it is.
template <typename Shape>
struct Share {
  int tile = warp_of_prompt() % Shape::kTiles, head = tile * Shape::kHeadsOfTile,
      number = warp_of_prompt() / Shape::kTiles;
};

// What a warp gathers of the image, for a tile of 8 columns.
template <typename T, bool kSecond, bool kNarrow>
struct Gathered {
  using Shape = PassShape<T, kSecond, kNarrow>;
  static constexpr int kHeadsOfTile = Shape::kHeadsOfTile;
  float top[2] = {kNoTop, kNoTop}, total[2] = {};
  float rest[2][2] = {};  // of the last two coefficients
  float mixed[Shape::kSteps][4] = {}, seen[kHeadsOfTile][4] = {};

  // Sums of columns j = 0, 1 of the lane's two, times a factor.
  __device__ __forceinline__ void scale(int j, float factor) {
    total[j] *= factor, rest[0][j] *= factor, rest[1][j] *= factor;
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) mixed[step][j] *= factor, mixed[step][j + 2] *= factor;
#pragma unroll
    for (int k = 0; k < kHeadsOfTile; ++k) seen[k][j] *= factor, seen[k][j + 2] *= factor;
  }

  // `scores`, in powers of two, of 16 more image tokens to weights; sums are scaled down where they need it.
  __device__ __forceinline__ void weigh(float (&scores)[4]) {
    bool behind = false;
#pragma unroll
    for (int j = 0; j < 4; ++j) behind |= scores[j] > top[j % 2] + kSlack;
    if (__any_sync(kAllLanes, behind)) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float high = top_of_column(fmaxf(top[j], fmaxf(scores[j], scores[j + 2])));
        scale(j, power_of_two(top[j] - high));
        top[j] = high;
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      scores[j] = power_of_two(scores[j] - top[j % 2]);
      total[j % 2] += scores[j];
    }
  }

  // All that the lane has, one after the other.
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

  // The sums of two warps that share a tile, to the first of them by way of shared memory: `kValues` words of a lane.
  // All warps of the block call this together.
  __device__ __forceinline__ void merge(const Share<Shape>& share, void* memory) {
    float* at = static_cast<float*>(memory) + share.tile * kValues * kWarp + lane();
    __syncthreads();  // the coefficients have been read
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
      scale(j, power_of_two(top[j] - high));
      factor[j] = power_of_two(other - high), top[j] = high;
    }
    int number = 0;
    visit([&at, &factor, &number](float& value) {
      // The first six come by column, the rest alternate.
      value = fmaf(*at, factor[number < 6 ? number / 3 : number % 2], value);
      at += kWarp, ++number;
    });
  }

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

// A warp's look at the panels that are its own of a tile, one after the other.
template <typename T, bool kSecond, bool kNarrow>
struct Look {
  using Shape = PassShape<T, kSecond, kNarrow>;
  static constexpr int kHeadsOfTile = Shape::kHeadsOfTile;
  const PassMemory<T, kSecond, kNarrow>& memory;
  const Share<Shape>& share;
  const uint4 *image, *values;  // of the next panel that is asked for, and of this one
  int64_t of_head;              // from one head's values to the next's
  T* state;                     // of this panel: the lane's part of the rows that the warp keeps
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

  // What a look takes from the image comes a panel later.
  __device__ __forceinline__ void ask() {
#pragma unroll
    for (int k = 0; k < kHeadsOfTile; ++k) {
      load_fragment(scaled[k], image, k);
      load_fragment(plain[k], image, kHeads + k);
    }
  }

  // At a panel, which is number `panel` of the tile and has `length` image tokens or more.
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
    // The weights become right factors, 16 image tokens deep, by way of shared memory: as they are, and times the
    // scale.
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
    __syncwarp();
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

  // The panel's coefficients to its state, shared out among the warps that look at it.
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
        for (int i = 0; i < 4; ++i) {  // the first head's row, the second's; then those of their later tokens
          *reinterpret_cast<Pair<T>*>(to + (i % 2 * tokens * 16 + i / 2 * 8)) = transposed[i];
        }
      }
      to += 2 * Shape::kTiles * tokens * 16;
    }
    state += of_panel;
  }
};

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
  const bool present = prompt < pass.prompts;  // the last block may have fewer prompts; its barriers are for all
  const int64_t begin = part * kPartPanels, end = min(begin + kPartPanels, pass.panels);
  const int64_t of_panel = (2 * kHeads * pass.tokens + 2) * 16;
  T* const state = static_cast<T*>(pass.state) + prompt * pass.panels * of_panel;
  if (present) memory.fill(pass, prompt);
  const Share<Shape> share;
  Gathered<T, kSecond, kNarrow> sums;
  for (int64_t tile = begin; tile < end; tile += kTilePanels) {
    __syncthreads();
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
    Look<T, kSecond, kNarrow> look(pass, memory, state, share, min(tile + first, end - 1));
    __syncthreads();
    if (!present) continue;
    const int token = static_cast<int>(threadIdx.x) % kPassThreads;
    if (kSecond && token < 16 * kTilePanels && tile + kTilePanels + token / 16 < end) {
      // What the first pass left of the next tile's panels, 16 lines of 128 bytes of each at most, or twice as many.
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
