// The first phase of a pass: each warp computes the coefficients of 16 image tokens (see decoder.h for the formulas)
// and stores them to shared memory, where the second phase, the look (decoder_cuda_passes.cuh), reads them.
#pragma once

#include "decoder/decoder_cuda_parts.cuh"

namespace fastsam::decoder::cuda {

// Threads and warps per prompt. A block processes several prompts if shared memory has room for them: barriers keep
// them in step, so what one of them reads of the image the others find in the first-level cache. A tile has as many
// panels of 16 image tokens as there are warps. Reads of the image come from the second-level cache with a latency of
// some 300 clocks, so they are issued one step ahead.
constexpr int kPassThreads = 256, kPassWarps = kPassThreads / kWarp, kTilePanels = kPassWarps;
constexpr int kFragment = 4 * kWarp;  // pairs of a fragment

__device__ __forceinline__ int warp_of_prompt() { return warp() % kPassWarps; }

template <typename T, bool kSecond, bool kNarrow>
struct PassShape {
  static constexpr int kSteps = kSecond ? 8 : 4;  // of 16 coefficients each
  static constexpr int kProjections = kSecond ? 6 : 4;
  // A tile of 8 columns of the look belongs to one head, or in a narrow look to two heads. Each warp has one tile of
  // columns; if there are fewer tiles than warps, two warps share one and divide the panels.
  static constexpr int kTiles = kNarrow ? 4 : 8, kHeadsOfTile = kHeads / kTiles, kSharers = kPassWarps / kTiles;
  static constexpr int kColumns = 8 * kTiles;
  static constexpr int kMixedRows = kSecond ? 2 * kRows + 2 : kRows;
  // Shared memory per prompt, in 16-byte vectors.
  static constexpr int kEach = kWarp * kWide<T>;  // a fragment of 16 x 16 elements
  static constexpr int kVectors = kHeads * kEach / 2, kMatrix = 16 * kEach;
  static constexpr int kLookMix = kTiles * kSteps / 2 * kEach;
  static constexpr int kCoefficients = kTilePanels * kSteps * kEach, kScratch = kPassWarps * kEach;
  static constexpr int kFloats = 2 * 16 * kTilePanels + (kSecond ? 3 * kRows + 2 * kColumns : 0);
  static constexpr int kAll =
      (kSecond ? 4 : 3) * kVectors + (kSecond ? 4 : 1) * kMatrix + kLookMix + kCoefficients + kScratch + kFloats / 4;
  static constexpr size_t kBytes = 16 * size_t{kAll};
  // Unrolling of loops over heads; in float32 there are not enough registers for two.
  static constexpr int kHeadsAtOnce = kWide<T> > 1 ? 1 : 2;
  // Blocks per multiprocessor, for which the compiler must limit registers.
  static constexpr int blocks(int together) { return together > 1 || (kSecond && kWide<T> > 1) ? 1 : 2; }
};

// One prompt's part of the block's shared memory.
template <typename T, bool kSecond, bool kNarrow>
struct PassMemory {
  using Shape = PassShape<T, kSecond, kNarrow>;
  using Vectors = Right<T>*;
  using Pairs = Pair<T>*;
  Vectors keys, cross, look, own;
  uint4 *gram, *look_mix, *keys_mix, *own_gram, *cross_mix;
  Pairs coefficients, scratch;
  float *scale, *one, *keys_bias, *own_bias, *cross_bias, *look_rest;

  __device__ __forceinline__ explicit PassMemory(uint4* at) {
    const auto take = [&at](int vectors) {
      uint4* const piece = at;
      at += vectors;
      return piece;
    };
    keys = reinterpret_cast<Vectors>(take(Shape::kVectors));
    cross = reinterpret_cast<Vectors>(take(Shape::kVectors));
    look = reinterpret_cast<Vectors>(take(Shape::kVectors));
    own = reinterpret_cast<Vectors>(take(kSecond ? Shape::kVectors : 0));
    gram = take(Shape::kMatrix);
    look_mix = take(Shape::kLookMix);
    keys_mix = take(kSecond ? Shape::kMatrix : 0);
    own_gram = take(kSecond ? Shape::kMatrix : 0);
    cross_mix = take(kSecond ? Shape::kMatrix : 0);
    coefficients = reinterpret_cast<Pairs>(take(Shape::kCoefficients));
    scratch = reinterpret_cast<Pairs>(take(Shape::kScratch));
    scale = reinterpret_cast<float*>(at);
    one = scale + 16 * kTilePanels;
    keys_bias = one + 16 * kTilePanels;
    own_bias = keys_bias + kRows;
    cross_bias = own_bias + kRows;
    look_rest = cross_bias + kRows;
  }

  // Copy the prompt's operands to shared memory, and wait for this thread's copies. A __syncthreads() must follow.
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
      for (int i = thread; i < kRows; i += kPassThreads) {  // minus infinity: missing tokens get no weight
        keys_bias[i] = i % kTokens < pass.tokens ? pass.keys_bias[prompt * kRows + i] : -INFINITY;
      }
      copy_floats(own_bias, pass.own_bias + prompt * kRows, kRows, thread, kPassThreads);
      copy_floats(cross_bias, pass.cross_bias + prompt * kRows, kRows, thread, kPassThreads);
      copy_floats(look_rest, pass.look_rest + prompt * 2 * Shape::kColumns, 2 * Shape::kColumns, thread, kPassThreads);
    }
    cp_async_commit();
    cp_async_wait<0>();
  }

  // The fragment of step `number` of a panel of the tile.
  __device__ __forceinline__ Pairs step(int panel, int number) const {
    return coefficients + (panel * Shape::kSteps + number) * kFragment;
  }
  // The lane's own pairs (rows g and g + 8, `kWarp` apart) of one head, among the coefficients from step `first` on.
  // Loops over heads are not unrolled, for want of registers, so a head's coefficients are indexed here in memory.
  __device__ __forceinline__ Pairs of_head(int panel, int first, int head) const {
    return step(panel, first + head / 2) + head % 2 * 2 * kWarp + place<T>();
  }
};

// Add the lane's part of the sum over a head's 8 columns of coefficients * d.
template <typename T>
__device__ __forceinline__ void add_products(float (&to)[2], const Pair<T>* of_head, const float (&d)[4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float2 two = unpack<T>(of_head[half * kWarp]);
    to[half] = fmaf(two.x, d[2 * half], fmaf(two.y, d[2 * half + 1], to[half]));
  }
}

template <typename T>
__device__ __forceinline__ void pack_head(Pair<T>* of_head, const float (&d)[4]) {
  of_head[0] = pack<T>(d[0], d[1]), of_head[kWarp] = pack<T>(d[2], d[3]);
}

// Load the warp's coefficients of 4 steps. Each lane reads only what it has written itself, so no barrier is needed.
template <typename T, typename Memory>
__device__ __forceinline__ void load_own(const Memory& memory, int panel, int first, Pair<T> (&to)[4][4]) {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int j = 0; j < 4; ++j) to[step][j] = memory.step(panel, first + step)[j * kWarp + place<T>()];
  }
}

template <typename T>
__device__ __forceinline__ void scale_fragment(Pair<T> (&x)[4], const float (&by)[2]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 two = unpack<T>(x[i]);
    x[i] = pack<T>(two.x * by[i % 2], two.y * by[i % 2]);
  }
}

// Loads the fragments of kCount consecutive projections of the image, head by head, one head ahead of their use.
template <typename T, int kCount>
struct Ahead {
  const uint4* image;  // the first projection's fragment of head 0
  Pair<T> next[kCount][4];

  __device__ __forceinline__ explicit Ahead(const uint4* from) : image(from) { ask(0); }
  __device__ __forceinline__ void ask(int head) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) load_fragment(next[i], image, i * kHeads + head);
  }
  // Return the fragments of `head` in `now`, and start loading those of the next head.
  __device__ __forceinline__ void take(Pair<T> (&now)[kCount][4], int head) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) now[i][j] = next[i][j];
    }
    ask(min(head + 1, kHeads - 1));
  }
};

__device__ __forceinline__ void scale_rows(float (&d)[4], const float (&by)[2]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) d[j] *= by[j / 2];
}
__device__ __forceinline__ void add_columns(float (&d)[4], const float* bias) {
#pragma unroll
  for (int j = 0; j < 4; ++j) d[j] += bias[2 * pair() + j % 2];
}

__device__ __forceinline__ float inverse(float variance, float eps) { return rsqrtf(fmaxf(variance, 0.0f) + eps); }

// Compute the first pass's coefficients of a warp's panel, which is panel `at` of the image and `panel` of the tile.
template <typename T>
__device__ __forceinline__ void first_coefficients(const Pass& pass, const PassMemory<T, false, false>& memory,
                                                   int64_t at, int panel) {
  using Shape = PassShape<T, false, false>;
  constexpr int kAtOnce = Shape::kHeadsAtOnce;
  const auto* const image = static_cast<const uint4*>(pass.image) + at * 4 * kHeads * kWarp * kWide<T>;
  float norms[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) norms[half] = pass.norms[at * 16 + group() + 8 * half];
  // Initial scores: minus infinity for tokens that don't exist.
  const float nothing[2] = {2 * pair() < pass.tokens ? 0.0f : -INFINITY,
                            2 * pair() + 1 < pass.tokens ? 0.0f : -INFINITY};
  Ahead<T, 1> keys(image), cross(image + kHeads * kWarp * kWide<T>);
  // The softmax p of each head, to shared memory.
#pragma unroll kAtOnce
  for (int head = 0; head < kHeads; ++head) {
    Pair<T> left[1][4];
    keys.take(left, head);
    float scores[4] = {nothing[0], nothing[1], nothing[0], nothing[1]};
    multiply<T>(scores, left[0], memory.keys[head * kWarp + lane()]);
    softmax_of_tokens(scores);
    pack_head<T>(memory.of_head(panel, 0, head), scores);
  }
  Pair<T> weights[4][4];
  load_own<T>(memory, panel, 0, weights);
  // The prompt's part of the variance: sum(p * (cross . image[1] + gram p)).
  float variance[2] = {};
#pragma unroll kAtOnce
  for (int head = 0; head < kHeads; ++head) {
    Pair<T> left[1][4];
    cross.take(left, head);
    float products[4] = {};
    multiply<T>(products, left[0], memory.cross[head * kWarp + lane()]);
    multiply_rows<T>(products, weights, memory.gram + head * 2 * Shape::kEach);
    add_products<T>(variance, memory.of_head(panel, 0, head), products);
  }
  float scale[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    scale[half] = inverse(sum_of_row(variance[half]) + norms[half], pass.eps);
    if (pair() == 0) memory.scale[panel * 16 + group() + 8 * half] = scale[half];
  }
  // The coefficients c = p * scale. In float32 p is loaded again, to hold fewer registers before.
  if constexpr (kWide<T> > 1) load_own<T>(memory, panel, 0, weights);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    scale_fragment<T>(weights[step], scale);
    store_fragment<T>(memory.step(panel, step), weights[step]);
  }
}

// Start copying the rows of a panel's state that the first pass has left to where the coefficients belong in shared
// memory. A coefficient's 16 tokens become two rows of 16 bytes, which ldmatrix then transposes.
template <typename T, typename Memory>
__device__ __forceinline__ void copy_state(const Memory& memory, const T* from, int panel, int tokens) {
#pragma unroll
  for (int j = 0; j < 2 * kRows / kWarp; ++j) {
    const int number = j * kWarp + lane(), row = number / 2, head = row / kTokens, token = row % kTokens;
    uint32_t* const to = memory.step(panel, head / 2) + (head % 2 * 2 + number % 2) * kWarp + token * 4;
    const bool inside = token < tokens;
    cp_async_16(to, inside ? from + (head * tokens + token) * 16 + number % 2 * 8 : from, inside);
  }
  cp_async_commit();
}

// Compute the second pass's coefficients of a warp's panel, likewise, from what the first pass left in `state`. Steps 0
// to 3 hold the first pass's coefficients, steps 4 to 7 the new weights.
template <typename T, bool kNarrow>
__device__ __forceinline__ void second_coefficients(const Pass& pass, const PassMemory<T, true, kNarrow>& memory,
                                                    const T* state, int64_t at, int panel) {
  using Shape = PassShape<T, true, kNarrow>;
  constexpr int kAtOnce = Shape::kHeadsAtOnce;
  const auto* const image = static_cast<const uint4*>(pass.image) + at * 6 * kHeads * kWarp * kWide<T>;
  const int tokens = static_cast<int>(pass.tokens), rows = kHeads * tokens;
  const T* const left_behind = state + at * (int64_t{2 * rows + 2} * 16);
  if constexpr (kWide<T> == 1) copy_state(memory, left_behind, panel, tokens);
  Ahead<T, 2> queries(image);
  float scale[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) scale[half] = to_float(left_behind[2 * rows * 16 + group() + 8 * half]);
  Pair<T> before[4][4], weights[4][4];
  if constexpr (kWide<T> == 1) {
    cp_async_wait<0>();
    __syncwarp();
#pragma unroll
    for (int step = 0; step < 4; ++step) load_turned<T>(before[step], memory.step(panel, step));
    __syncwarp();
  } else {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const T* const from = left_behind + 2 * step * tokens * 16;
      load_columns(before[step], from, tokens, from + tokens * 16, tokens);
    }
  }
#pragma unroll
  for (int step = 0; step < 4; ++step) store_fragment<T>(memory.step(panel, step), before[step]);
  // The softmax p of each head, to steps 4 to 7.
#pragma unroll kAtOnce
  for (int head = 0; head < kHeads; ++head) {
    Pair<T> left[2][4];
    queries.take(left, head);
    const Right<T> keys = memory.keys[head * kWarp + lane()];
    float scores[4] = {};
    multiply<T>(scores, left[0], keys);
    scale_rows(scores, scale);
    multiply<T>(scores, left[1], keys);
    multiply_rows<T>(scores, before, memory.keys_mix + head * 2 * Shape::kEach);
    add_columns(scores, memory.keys_bias + head * kTokens);
    softmax_of_tokens(scores);
    pack_head<T>(memory.of_head(panel, 4, head), scores);
  }
  Ahead<T, 2> both(image + 2 * kHeads * kWarp * kWide<T>);
  float norms[2][2], variance[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int j = 0; j < 2; ++j) norms[half][j] = pass.norms[at * 32 + 16 * j + group() + 8 * half];
  }
  load_own<T>(memory, panel, 4, weights);
  // The prompt's parts of the variance: the sums of c * (...) and of p * (...).
#pragma unroll kAtOnce
  for (int head = 0; head < kHeads; ++head) {
    Pair<T> left[2][4];
    both.take(left, head);
    float products[4] = {};
    multiply<T>(products, left[0], memory.own[head * kWarp + lane()]);
    scale_rows(products, scale);
    multiply_rows<T>(products, before, memory.own_gram + head * 2 * Shape::kEach);
    add_columns(products, memory.own_bias + head * kTokens);
    add_products<T>(variance, memory.of_head(panel, 0, head), products);
#pragma unroll
    for (int j = 0; j < 4; ++j) products[j] = 0.0f;
    multiply<T>(products, left[1], memory.cross[head * kWarp + lane()]);
    scale_rows(products, scale);
    multiply_rows<T>(products, before, memory.cross_mix + head * 2 * Shape::kEach);
    multiply_rows<T>(products, weights, memory.gram + head * 2 * Shape::kEach);
    add_columns(products, memory.cross_bias + head * kTokens);
    add_products<T>(variance, memory.of_head(panel, 4, head), products);
  }
  // Add the image's part; `one` is 1 / sqrt(eps + variance), the coefficient of the constant part.
  float one[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float own = fmaf(fmaf(scale[half], norms[half][0], norms[half][1]), scale[half], pass.constant);
    one[half] = inverse(sum_of_row(variance[half]) + own, pass.eps);
    if (pair() == 0) {
      const int row = panel * 16 + group() + 8 * half;
      memory.one[row] = one[half], memory.scale[row] = scale[half] * one[half];
    }
  }
  if constexpr (kWide<T> > 1) {
    load_own<T>(memory, panel, 0, before);
    load_own<T>(memory, panel, 4, weights);
  }
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    scale_fragment<T>(before[step], one);
    store_fragment<T>(memory.step(panel, step), before[step]);
    scale_fragment<T>(weights[step], one);
    store_fragment<T>(memory.step(panel, 4 + step), weights[step]);
  }
}

}  // namespace fastsam::decoder::cuda
