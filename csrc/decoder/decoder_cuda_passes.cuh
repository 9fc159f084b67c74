// Both passes over the image. Four warps have one prompt and one part of the image, which they go through by tiles of
// 128 image tokens, in two phases. First each warp makes the coefficients of 32 tokens, for all heads; they go to
// shared memory. Then each warp has two heads of the look, for all 128 tokens: it reads the coefficients twice, as the
// left factor of its scores and, transposed, as that of the sums, which stay in its registers until the part ends.
#pragma once

#include "decoder/decoder_cuda_parts.cuh"

namespace fastsam::decoder::cuda {

// Of one prompt; a block has several prompts where shared memory has room for them: what one of them reads of the
// image, the others then find in the first-level cache, as barriers keep them together.
constexpr int kPassThreads = 128, kPassWarps = kPassThreads / kWarp, kTilePanels = 8;
constexpr int kPanelsOfWarp = kTilePanels / kPassWarps;
constexpr int kFragment = 4 * kWarp;  // 32-bit words

__device__ __forceinline__ int warp_of_prompt() { return warp() % kPassWarps; }

template <bool kSecond, bool kNarrow>
struct PassShape {
  static constexpr int kSteps = kSecond ? 8 : 4;  // 16 coefficients each
  static constexpr int kProjections = kSecond ? 6 : 4;
  static constexpr int kTiles = kNarrow ? 4 : 8, kTilesOfWarp = kTiles / kPassWarps;  // 8 columns of the look each
  static constexpr int kColumns = 8 * kTiles;
  static constexpr int kMixedRows = kSecond ? 2 * kRows + 2 : kRows;
  // Of shared memory, in 16-byte vectors, in this order.
  static constexpr int kVectors = kHeads * kWarp / 2, kMatrix = 16 * kWarp;
  static constexpr int kLookMix = kTiles * kSteps / 2 * kWarp;
  static constexpr int kCoefficients = kTilePanels * kSteps * kWarp, kScratch = kPassWarps * kTilesOfWarp * kWarp;
  static constexpr int kFloats = 2 * 16 * kTilePanels + (kSecond ? 3 * kRows + 2 * kColumns : 0);
  static constexpr int kAll =
      (kSecond ? 4 : 3) * kVectors + (kSecond ? 4 : 1) * kMatrix + kLookMix + kCoefficients + kScratch + kFloats / 4;
  static constexpr size_t kBytes = 16 * size_t{kAll};
};

// A block's shared memory.
template <bool kSecond, bool kNarrow>
struct PassMemory {
  using Shape = PassShape<kSecond, kNarrow>;
  uint2 *keys, *cross, *look, *own;
  uint4 *gram, *look_mix, *keys_mix, *own_gram, *cross_mix;
  uint32_t *coefficients, *scratch;
  float *scale, *one, *keys_bias, *own_bias, *cross_bias, *look_rest;

  __device__ __forceinline__ explicit PassMemory(uint4* at) {
    const auto take = [&at](int vectors) {
      uint4* const piece = at;
      at += vectors;
      return piece;
    };
    keys = reinterpret_cast<uint2*>(take(Shape::kVectors));
    cross = reinterpret_cast<uint2*>(take(Shape::kVectors));
    look = reinterpret_cast<uint2*>(take(Shape::kVectors));
    own = reinterpret_cast<uint2*>(take(kSecond ? Shape::kVectors : 0));
    gram = take(Shape::kMatrix);
    look_mix = take(Shape::kLookMix);
    keys_mix = take(kSecond ? Shape::kMatrix : 0);
    own_gram = take(kSecond ? Shape::kMatrix : 0);
    cross_mix = take(kSecond ? Shape::kMatrix : 0);
    coefficients = reinterpret_cast<uint32_t*>(take(Shape::kCoefficients));
    scratch = reinterpret_cast<uint32_t*>(take(Shape::kScratch));
    scale = reinterpret_cast<float*>(at);
    one = scale + 16 * kTilePanels;
    keys_bias = one + 16 * kTilePanels;
    own_bias = keys_bias + kRows;
    cross_bias = own_bias + kRows;
    look_rest = cross_bias + kRows;
  }

  __device__ __forceinline__ void fill(const Pass& pass, int64_t prompt) const {
    const int thread = static_cast<int>(threadIdx.x) % kPassThreads;
    const auto part = [prompt](const void* of, int vectors) {
      return static_cast<const uint4*>(of) + prompt * vectors;
    };
    copy_vectors(keys, part(pass.keys, Shape::kVectors), Shape::kVectors, thread, kPassThreads);
    copy_vectors(cross, part(pass.cross, Shape::kVectors), Shape::kVectors, thread, kPassThreads);
    copy_vectors(look, part(pass.look, Shape::kVectors), Shape::kVectors, thread, kPassThreads);
    copy_vectors(gram, part(pass.gram, Shape::kMatrix), Shape::kMatrix, thread, kPassThreads);
    copy_vectors(look_mix, part(pass.look_mix, Shape::kLookMix), Shape::kLookMix, thread, kPassThreads);
    if (kSecond) {
      copy_vectors(own, part(pass.own, Shape::kVectors), Shape::kVectors, thread, kPassThreads);
      copy_vectors(keys_mix, part(pass.keys_mix, Shape::kMatrix), Shape::kMatrix, thread, kPassThreads);
      copy_vectors(own_gram, part(pass.own_gram, Shape::kMatrix), Shape::kMatrix, thread, kPassThreads);
      copy_vectors(cross_mix, part(pass.cross_mix, Shape::kMatrix), Shape::kMatrix, thread, kPassThreads);
      copy_floats(keys_bias, pass.keys_bias + prompt * kRows, kRows, thread, kPassThreads);
      copy_floats(own_bias, pass.own_bias + prompt * kRows, kRows, thread, kPassThreads);
      copy_floats(cross_bias, pass.cross_bias + prompt * kRows, kRows, thread, kPassThreads);
      copy_floats(look_rest, pass.look_rest + prompt * 2 * Shape::kColumns, 2 * Shape::kColumns, thread, kPassThreads);
    }
    cp_async_commit();
    cp_async_wait<0>();
  }

  __device__ __forceinline__ uint32_t* step(int panel, int number) const {
    return coefficients + (panel * Shape::kSteps + number) * kFragment;
  }
  // The lane's own words of one head, `kWarp` apart, of the coefficients from step `first` on. Heads are a loop, as
  // unrolled they would take more registers than there are: what is one head's is found here.
  __device__ __forceinline__ uint32_t* of_head(int panel, int first, int head) const {
    return step(panel, first + head / 2) + head % 2 * 2 * kWarp + lane();
  }
};

// The sum over 8 columns of a head's coefficients times d.
template <typename T>
__device__ __forceinline__ void add_products(float (&to)[2], const uint32_t* of_head, const float (&d)[4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float2 two = unpack<T>(of_head[half * kWarp]);
    to[half] = fmaf(two.x, d[2 * half], fmaf(two.y, d[2 * half + 1], to[half]));
  }
}

template <typename T>
__device__ __forceinline__ void pack_head(uint32_t* of_head, const float (&d)[4]) {
  of_head[0] = pack<T>(d[0], d[1]), of_head[kWarp] = pack<T>(d[2], d[3]);
}

// The warp's coefficients of 4 steps, as its lanes have written them.
template <typename Memory>
__device__ __forceinline__ void load_own(const Memory& memory, int panel, int first,
                                         uint32_t (&to)[kPanelsOfWarp][4][4]) {
#pragma unroll
  for (int i = 0; i < kPanelsOfWarp; ++i) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
#pragma unroll
      for (int j = 0; j < 4; ++j) to[i][step][j] = memory.step(panel + i, first + step)[j * kWarp + lane()];
    }
  }
}

template <typename T>
__device__ __forceinline__ void scale_fragment(uint32_t (&x)[4], const float (&by)[2]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 two = unpack<T>(x[i]);
    x[i] = pack<T>(two.x * by[i % 2], two.y * by[i % 2]);
  }
}

// d = image x vectors, times a factor for each row.
template <typename T>
__device__ __forceinline__ void project(float (&d)[4], const uint4* image, int64_t number, uint2 vectors) {
  uint32_t left[4];
  load_fragment(left, image, number);
  multiply<T>(d, left, vectors);
}
__device__ __forceinline__ void scale_rows(float (&d)[4], const float (&by)[2]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) d[j] *= by[j / 2];
}
__device__ __forceinline__ void add_columns(float (&d)[4], const float* bias) {
#pragma unroll
  for (int j = 0; j < 4; ++j) d[j] += bias[2 * pair() + j % 2];
}

__device__ __forceinline__ float inverse(float variance, float eps) { return rsqrtf(fmaxf(variance, 0.0f) + eps); }

// The coefficients of a warp's panels, which are `at` and on in the image and `panel` and on in the tile.
template <typename T>
__device__ __forceinline__ void first_coefficients(const Pass& pass, const PassMemory<false, false>& memory,
                                                   const int64_t (&at)[kPanelsOfWarp], int panel) {
  const auto* const image = static_cast<const uint4*>(pass.image);
  uint32_t weights[kPanelsOfWarp][4][4];
  float variance[kPanelsOfWarp][2] = {};
#pragma unroll 2
  for (int head = 0; head < kHeads; ++head) {
    const uint2 keys = memory.keys[head * kWarp + lane()];
#pragma unroll
    for (int i = 0; i < kPanelsOfWarp; ++i) {
      float scores[4] = {};
      project<T>(scores, image, at[i] * 4 * kHeads + head, keys);
      softmax_of_tokens(scores, static_cast<int>(pass.tokens));
      pack_head<T>(memory.of_head(panel + i, 0, head), scores);
    }
  }
  load_own(memory, panel, 0, weights);
#pragma unroll 2
  for (int head = 0; head < kHeads; ++head) {
    const uint2 cross = memory.cross[head * kWarp + lane()];
#pragma unroll
    for (int i = 0; i < kPanelsOfWarp; ++i) {
      float products[4] = {};
      project<T>(products, image, (at[i] * 4 + 1) * kHeads + head, cross);
      multiply_rows<T>(products, weights[i], memory.gram + head * 2 * kWarp);
      add_products<T>(variance[i], memory.of_head(panel + i, 0, head), products);
    }
  }
#pragma unroll
  for (int i = 0; i < kPanelsOfWarp; ++i) {
    float scale[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = group() + 8 * half;
      scale[half] = inverse(sum_of_row(variance[i][half]) + pass.norms[at[i] * 16 + row], pass.eps);
      if (pair() == 0) memory.scale[(panel + i) * 16 + row] = scale[half];
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      scale_fragment<T>(weights[i][step], scale);
      store_fragment(memory.step(panel + i, step), weights[i][step]);
    }
  }
}

template <typename T, bool kNarrow>
__device__ __forceinline__ void second_coefficients(const Pass& pass, const PassMemory<true, kNarrow>& memory,
                                                    const T* state, const int64_t (&at)[kPanelsOfWarp], int panel) {
  const auto* const image = static_cast<const uint4*>(pass.image);
  const int tokens = static_cast<int>(pass.tokens), rows = kHeads * tokens;
  const int64_t of_panel = int64_t{2 * rows + 2} * 16;
  // What the first pass has left: a coefficient's 16 tokens are two rows of 16 bytes of what ldmatrix turns round.
#pragma unroll
  for (int i = 0; i < kPanelsOfWarp; ++i) {
    const T* const from = state + at[i] * of_panel;
#pragma unroll 1
    for (int j = 0; j < 2 * kRows / kWarp; ++j) {
      const int number = j * kWarp + lane(), row = number / 2, head = row / kTokens, token = row % kTokens;
      uint32_t* const to = memory.step(panel + i, head / 2) + (head % 2 * 2 + number % 2) * kWarp + token * 4;
      const bool inside = token < tokens;
      cp_async_16(to, inside ? from + (head * tokens + token) * 16 + number % 2 * 8 : from, inside);
    }
  }
  cp_async_commit();
  cp_async_wait<0>();
  __syncwarp();
  uint32_t before[kPanelsOfWarp][4][4], weights[kPanelsOfWarp][4][4];
  float scale[kPanelsOfWarp][2], variance[kPanelsOfWarp][2] = {};
#pragma unroll
  for (int i = 0; i < kPanelsOfWarp; ++i) {
#pragma unroll
    for (int step = 0; step < 4; ++step) ldmatrix_x4_trans(before[i][step], memory.step(panel + i, step) + 4 * lane());
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      scale[i][half] = to_float(state[at[i] * of_panel + 2 * rows * 16 + group() + 8 * half]);
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kPanelsOfWarp; ++i) {
#pragma unroll
    for (int step = 0; step < 4; ++step) store_fragment(memory.step(panel + i, step), before[i][step]);
  }
#pragma unroll 2
  for (int head = 0; head < kHeads; ++head) {
    const uint2 keys = memory.keys[head * kWarp + lane()];
#pragma unroll
    for (int i = 0; i < kPanelsOfWarp; ++i) {
      float scores[4] = {};
      project<T>(scores, image, at[i] * 6 * kHeads + head, keys);
      scale_rows(scores, scale[i]);
      project<T>(scores, image, (at[i] * 6 + 1) * kHeads + head, keys);
      multiply_rows<T>(scores, before[i], memory.keys_mix + head * 2 * kWarp);
      add_columns(scores, memory.keys_bias + head * kTokens);
      softmax_of_tokens(scores, tokens);
      pack_head<T>(memory.of_head(panel + i, 4, head), scores);
    }
  }
  load_own(memory, panel, 4, weights);
#pragma unroll 2
  for (int head = 0; head < kHeads; ++head) {
    const uint2 own = memory.own[head * kWarp + lane()], cross = memory.cross[head * kWarp + lane()];
#pragma unroll
    for (int i = 0; i < kPanelsOfWarp; ++i) {
      float products[4] = {};
      project<T>(products, image, (at[i] * 6 + 2) * kHeads + head, own);
      scale_rows(products, scale[i]);
      multiply_rows<T>(products, before[i], memory.own_gram + head * 2 * kWarp);
      add_columns(products, memory.own_bias + head * kTokens);
      add_products<T>(variance[i], memory.of_head(panel + i, 0, head), products);
#pragma unroll
      for (int j = 0; j < 4; ++j) products[j] = 0.0f;
      project<T>(products, image, (at[i] * 6 + 3) * kHeads + head, cross);
      scale_rows(products, scale[i]);
      multiply_rows<T>(products, before[i], memory.cross_mix + head * 2 * kWarp);
      multiply_rows<T>(products, weights[i], memory.gram + head * 2 * kWarp);
      add_columns(products, memory.cross_bias + head * kTokens);
      add_products<T>(variance[i], memory.of_head(panel + i, 4, head), products);
    }
  }
#pragma unroll
  for (int i = 0; i < kPanelsOfWarp; ++i) {
    float one[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = group() + 8 * half;
      const float* const norms = pass.norms + at[i] * 32 + row;
      const float own = fmaf(fmaf(scale[i][half], norms[0], norms[16]), scale[i][half], pass.constant);
      one[half] = inverse(sum_of_row(variance[i][half]) + own, pass.eps);
      if (pair() == 0) {
        memory.one[(panel + i) * 16 + row] = one[half];
        memory.scale[(panel + i) * 16 + row] = scale[i][half] * one[half];
      }
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      scale_fragment<T>(before[i][step], one);
      store_fragment(memory.step(panel + i, step), before[i][step]);
      scale_fragment<T>(weights[i][step], one);
      store_fragment(memory.step(panel + i, 4 + step), weights[i][step]);
    }
  }
}

// What a warp's two heads gather of the image.
template <bool kSecond, bool kNarrow>
struct Gathered {
  using Shape = PassShape<kSecond, kNarrow>;
  float top[Shape::kTilesOfWarp][2], total[Shape::kTilesOfWarp][2] = {};
  float rest[2][Shape::kTilesOfWarp][2] = {};  // of the last two coefficients
  float mixed[Shape::kTilesOfWarp][Shape::kSteps][4] = {}, seen[2][4] = {};

  __device__ __forceinline__ Gathered() {
#pragma unroll
    for (int n = 0; n < Shape::kTilesOfWarp; ++n) top[n][0] = top[n][1] = kNoTop;
  }

  // `scores`, in powers of two, of 16 more image tokens to weights; sums are scaled down where they need it.
  __device__ __forceinline__ void weigh(float (&scores)[Shape::kTilesOfWarp][4]) {
    bool behind = false;
#pragma unroll
    for (int n = 0; n < Shape::kTilesOfWarp; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) behind |= scores[n][j] > top[n][j % 2] + kSlack;
    }
    if (__any_sync(kAllLanes, behind)) {
#pragma unroll
      for (int n = 0; n < Shape::kTilesOfWarp; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const float high = top_of_column(fmaxf(top[n][j], fmaxf(scores[n][j], scores[n][j + 2])));
          const float factor = power_of_two(top[n][j] - high);
          top[n][j] = high, total[n][j] *= factor, rest[0][n][j] *= factor, rest[1][n][j] *= factor;
#pragma unroll
          for (int step = 0; step < Shape::kSteps; ++step) mixed[n][step][j] *= factor, mixed[n][step][j + 2] *= factor;
#pragma unroll
          for (int k = 0; k < 2; ++k) {
            if (kNarrow || k == n) seen[k][j] *= factor, seen[k][j + 2] *= factor;
          }
        }
      }
    }
#pragma unroll
    for (int n = 0; n < Shape::kTilesOfWarp; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        scores[n][j] = power_of_two(scores[n][j] - top[n][j % 2]);
        total[n][j % 2] += scores[n][j];
      }
    }
  }

  __device__ __forceinline__ void write(const Pass& pass, int64_t part) const {
    const int first = warp_of_prompt() * Shape::kTilesOfWarp;
#pragma unroll
    for (int n = 0; n < Shape::kTilesOfWarp; ++n) {
      const int column = (first + n) * 8 + 2 * pair();
      float* const to = pass.mixed + part * Shape::kMixedRows * Shape::kColumns + column;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float all = sum_of_column(total[n][j]);
        float last[2];
#pragma unroll
        for (int k = 0; k < 2; ++k) last[k] = kSecond ? sum_of_column(rest[k][n][j]) : 0.0f;
        if (group() != 0) continue;
        pass.tops[part * Shape::kColumns + column + j] = top[n][j];
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
              make_float2(mixed[n][step][2 * half], mixed[n][step][2 * half + 1]);
        }
      }
    }
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      float* const to = pass.seen + (part * kHeads + 2 * warp_of_prompt() + k) * kDim * 8 + 2 * pair();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<float2*>(to + (8 * half + group()) * 8) =
            make_float2(seen[k][2 * half], seen[k][2 * half + 1]);
      }
    }
  }
};

// Coefficients of step `step`, transposed as the sums take them, to the panel's state.
template <typename T>
__device__ __forceinline__ void keep(T* state, int step, int tokens, const uint32_t (&transposed)[4]) {
  if (group() >= tokens) return;
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // rows of the first head, of the second; then their later tokens
    const int row = (2 * step + i % 2) * tokens + group();
    *reinterpret_cast<uint32_t*>(state + row * 16 + 2 * pair() + 8 * (i / 2)) = transposed[i];
  }
}

// A panel's look: `at` in the image, `panel` in the tile.
template <typename T, bool kSecond, bool kNarrow>
__device__ __forceinline__ void look_at(const Pass& pass, const PassMemory<kSecond, kNarrow>& memory, int64_t at,
                                        int panel, T* state, Gathered<kSecond, kNarrow>& sums) {
  using Shape = PassShape<kSecond, kNarrow>;
  const auto* const image = static_cast<const uint4*>(pass.image);
  const int head = 2 * warp_of_prompt(), first = warp_of_prompt() * Shape::kTilesOfWarp,
            tokens = static_cast<int>(pass.tokens);
  float scale[2], one[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    scale[half] = memory.scale[panel * 16 + group() + 8 * half];
    if (kSecond) one[half] = memory.one[panel * 16 + group() + 8 * half];
  }
  float scores[Shape::kTilesOfWarp][4] = {};
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    project<T>(scores[kNarrow ? 0 : k], image, (at * Shape::kProjections + Shape::kProjections - 2) * kHeads + head + k,
               memory.look[(head + k) * kWarp + lane()]);
  }
#pragma unroll
  for (int n = 0; n < Shape::kTilesOfWarp; ++n) scale_rows(scores[n], scale);
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    project<T>(scores[kNarrow ? 0 : k], image, (at * Shape::kProjections + Shape::kProjections - 1) * kHeads + head + k,
               memory.look[(head + k) * kWarp + lane()]);
  }
#pragma unroll
  for (int step = 0; step < Shape::kSteps; step += 2) {
    uint32_t left[2][4];
    load_stored(left[0], memory.step(panel, step));
    load_stored(left[1], memory.step(panel, step + 1));
#pragma unroll
    for (int n = 0; n < Shape::kTilesOfWarp; ++n) {
      multiply<T>(scores[n], left[0], left[1],
                  memory.look_mix[((first + n) * (Shape::kSteps / 2) + step / 2) * kWarp + lane()]);
    }
  }
#pragma unroll
  for (int n = 0; n < Shape::kTilesOfWarp; ++n) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (kSecond) {
        const float* const by = memory.look_rest + ((first + n) * 8 + 2 * pair() + j % 2) * 2;
        scores[n][j] = fmaf(scale[j / 2], by[0], fmaf(one[j / 2], by[1], scores[n][j]));
      }
      const bool inside = at * 16 + group() + 8 * (j / 2) < pass.length;
      scores[n][j] = inside ? scores[n][j] * kLog2E : -INFINITY;
    }
  }
  sums.weigh(scores);
  // The weights become right factors, 16 image tokens deep, by way of shared memory: as they are, and times the scale.
  uint32_t* const scratch = memory.scratch + warp_of_prompt() * Shape::kTilesOfWarp * kFragment;
#pragma unroll
  for (int n = 0; n < Shape::kTilesOfWarp; ++n) {
    uint32_t both[4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float x = scores[n][2 * half], y = scores[n][2 * half + 1];
      both[half] = pack<T>(x, y), both[2 + half] = pack<T>(x * scale[half], y * scale[half]);
      if (kSecond) {
        sums.rest[0][n][0] = fmaf(x, scale[half], sums.rest[0][n][0]);
        sums.rest[0][n][1] = fmaf(y, scale[half], sums.rest[0][n][1]);
        sums.rest[1][n][0] = fmaf(x, one[half], sums.rest[1][n][0]);
        sums.rest[1][n][1] = fmaf(y, one[half], sums.rest[1][n][1]);
      }
    }
    store_fragment(scratch + n * kFragment, both);
  }
  __syncwarp();
  uint32_t weights[Shape::kTilesOfWarp][4];
#pragma unroll
  for (int n = 0; n < Shape::kTilesOfWarp; ++n) ldmatrix_x4_trans(weights[n], scratch + n * kFragment + 4 * lane());
  __syncwarp();
#pragma unroll
  for (int step = 0; step < Shape::kSteps; ++step) {
    uint32_t left[4];
    load_transposed(left, memory.step(panel, step));
#pragma unroll
    for (int n = 0; n < Shape::kTilesOfWarp; ++n) {
      mma_m16n8k16<T>(sums.mixed[n][step], left, weights[n][0], weights[n][1]);
    }
  }
#pragma unroll 1
  for (int step = warp_of_prompt(); step < Shape::kSteps;
       step += kPassWarps) {  // unrolled, its addresses would fill registers
    uint32_t left[4];
    load_transposed(left, memory.step(panel, step));
    keep(state, step, tokens, left);
  }
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    uint32_t left[4];
    load_fragment(left, static_cast<const uint4*>(pass.values), (head + k) * pass.panels + at);
    const auto& of_head = weights[kNarrow ? 0 : k];
    mma_m16n8k16<T>(sums.seen[k], left, of_head[2], of_head[3]);
  }
}

template <typename T, bool kSecond, bool kNarrow, int kTogether>
__global__ void __launch_bounds__(kPassThreads* kTogether, kTogether > 1 ? 1 : (kSecond ? 2 : 3))
    pass_kernel(const Pass pass) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  DYNAMIC_SHARED(uint4, shared);
  const int mine = warp() / kPassWarps;
  const PassMemory<kSecond, kNarrow> memory(shared + mine * PassShape<kSecond, kNarrow>::kAll);
  const int64_t blocks = (pass.prompts + kTogether - 1) / kTogether, parts = parts_of(pass.panels, kPartPanels);
  const int64_t part = blockIdx.x / blocks, prompt = blockIdx.x % blocks * kTogether + mine;
  const bool present = prompt < pass.prompts;  // the last block may have fewer prompts; its barriers are for all
  const int64_t begin = part * kPartPanels, end = min(begin + kPartPanels, pass.panels);
  const int64_t of_panel = (2 * kHeads * pass.tokens + 2) * 16;
  T* const state = static_cast<T*>(pass.state) + prompt * pass.panels * of_panel;
  if (present) memory.fill(pass, prompt);
  Gathered<kSecond, kNarrow> sums;
  for (int64_t tile = begin; tile < end; tile += kTilePanels) {
    __syncthreads();
    int64_t at[kPanelsOfWarp];
    const int first = warp_of_prompt() * kPanelsOfWarp;
#pragma unroll
    for (int i = 0; i < kPanelsOfWarp; ++i) at[i] = min(tile + first + i, end - 1);
    if (present && tile + first < end) {
      if constexpr (kSecond) {
        second_coefficients<T, kNarrow>(pass, memory, state, at, first);
      } else {
        first_coefficients<T>(pass, memory, at, first);
      }
    }
    __syncthreads();
    if (!present) continue;
    const int panels = static_cast<int>(min(int64_t{kTilePanels}, end - tile));
    for (int panel = 0; panel < panels; ++panel) {
      look_at<T, kSecond, kNarrow>(pass, memory, tile + panel, panel, state + (tile + panel) * of_panel, sums);
    }
    const int token = static_cast<int>(threadIdx.x) % kPassThreads;
    if (token < 16 * panels) {
      T* const to = state + (tile + token / 16) * of_panel + 2 * kHeads * pass.tokens * 16 + token % 16;
      to[0] = from_float<T>(memory.scale[token]);
      if (kSecond) to[16] = from_float<T>(memory.one[token]);
    }
  }
  if (present) sums.write(pass, prompt * parts + part);
#endif
}

}  // namespace fastsam::decoder::cuda
