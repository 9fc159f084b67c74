// The first phase of a pass: each warp computes the coefficients of 16 image tokens (see decoder.h for the formulas)
// and stores them to shared memory, where the second phase, the token-to-image attention (decoder_cuda_passes.cuh),
// reads them.
#pragma once

#include "decoder/decoder_cuda_fragments.cuh"

namespace fastsam::decoder::cuda {

// Threads and warps per prompt. A block processes several prompts if shared memory has room for them: barriers keep
// them in step, so what one of them reads of the image the others find in the first-level cache. A tile has as many
// panels of 16 image tokens as there are warps. Reads of the image come from the second-level cache with a latency of
// some 300 clocks, so they are issued one step ahead.
constexpr int kPassThreads = 256, kPassWarps = kPassThreads / kWarp, kTilePanels = kPassWarps;
constexpr int kFragment = 4 * kWarp;  // pairs of a fragment

__device__ __forceinline__ int warp_in_prompt() { return warp() % kPassWarps; }

template <typename T, bool kSecond, bool kFewQueries>
struct PassShape {
  static constexpr int kSteps = kSecond ? 8 : 4;  // of 16 coefficients each
  static constexpr int kProjections = kSecond ? 6 : 4;
  // A tile of 8 columns (queries) belongs to one head, or with few queries to two heads. Each warp has one tile of
  // columns; if there are fewer tiles than warps, two warps share one and divide the panels.
  static constexpr int kTiles = kFewQueries ? 4 : 8, kHeadsPerTile = kHeads / kTiles,
                       kWarpsPerTile = kPassWarps / kTiles;
  static constexpr int kColumns = 8 * kTiles;
  static constexpr int kNumCoefficients = kSecond ? 2 * kRows + 2 : kRows;
  // Shared memory per prompt, in 16-byte vectors.
  static constexpr int kFragmentVectors = kWarp * kSizeFactor<T>;  // a fragment of 16 x 16 elements
  static constexpr int kVectors = kHeads * kFragmentVectors / 2, kMatrix = 16 * kFragmentVectors;
  static constexpr int kQueriesMix = kTiles * kSteps / 2 * kFragmentVectors;
  static constexpr int kCoefficients = kTilePanels * kSteps * kFragmentVectors,
                       kScratch = kPassWarps * kFragmentVectors;
  static constexpr int kFloats = 2 * 16 * kTilePanels + (kSecond ? 3 * kRows + 2 * kColumns : 0);
  static constexpr int kTotalVectors =
      (kSecond ? 4 : 3) * kVectors + (kSecond ? 4 : 1) * kMatrix + kQueriesMix + kCoefficients + kScratch + kFloats / 4;
  static constexpr size_t kBytes = 16 * size_t{kTotalVectors};
  // Unrolling of loops over heads; in float32 there are not enough registers for two.
  static constexpr int kUnrolledHeads = kSizeFactor<T> > 1 ? 1 : 2;
  // Blocks per multiprocessor, for which the compiler must limit registers.
  static constexpr int min_blocks(int prompts_per_block) {
    return prompts_per_block > 1 || (kSecond && kSizeFactor<T> > 1) ? 1 : 2;
  }
};

// One prompt's part of the block's shared memory.
template <typename T, bool kSecond, bool kFewQueries>
struct PassMemory {
  using Shape = PassShape<T, kSecond, kFewQueries>;
  using Vectors = Right<T>*;
  using Pairs = Pair<T>*;
  Vectors keys, cross, queries, first_cross;
  uint4 *gram, *queries_mix, *keys_mix, *first_gram, *cross_mix;
  Pairs coefficients, scratch;
  float *scale, *inverse_std, *keys_bias, *first_bias, *cross_bias, *queries_mix_last;

  __device__ __forceinline__ explicit PassMemory(uint4* at) {
    const auto allocate = [&at](int vectors) {
      uint4* const piece = at;
      at += vectors;
      return piece;
    };
    keys = reinterpret_cast<Vectors>(allocate(Shape::kVectors));
    cross = reinterpret_cast<Vectors>(allocate(Shape::kVectors));
    queries = reinterpret_cast<Vectors>(allocate(Shape::kVectors));
    first_cross = reinterpret_cast<Vectors>(allocate(kSecond ? Shape::kVectors : 0));
    gram = allocate(Shape::kMatrix);
    queries_mix = allocate(Shape::kQueriesMix);
    keys_mix = allocate(kSecond ? Shape::kMatrix : 0);
    first_gram = allocate(kSecond ? Shape::kMatrix : 0);
    cross_mix = allocate(kSecond ? Shape::kMatrix : 0);
    coefficients = reinterpret_cast<Pairs>(allocate(Shape::kCoefficients));
    scratch = reinterpret_cast<Pairs>(allocate(Shape::kScratch));
    scale = reinterpret_cast<float*>(at);
    inverse_std = scale + 16 * kTilePanels;
    keys_bias = inverse_std + 16 * kTilePanels;
    first_bias = keys_bias + kRows;
    cross_bias = first_bias + kRows;
    queries_mix_last = cross_bias + kRows;
  }

  // Copy the prompt's operands to shared memory, and wait for this thread's copies. A __syncthreads() must follow.
  __device__ __forceinline__ void load_operands(const Pass& pass, int64_t prompt) const {
    const int thread = static_cast<int>(threadIdx.x) % kPassThreads;
    const auto part = [prompt](const void* of, int vectors) {
      return static_cast<const uint4*>(of) + prompt * vectors;
    };
    copy_vectors(keys, part(pass.keys, Shape::kVectors), Shape::kVectors, thread, kPassThreads);
    copy_vectors(cross, part(pass.cross, Shape::kVectors), Shape::kVectors, thread, kPassThreads);
    copy_vectors(queries, part(pass.queries, Shape::kVectors), Shape::kVectors, thread, kPassThreads);
    copy_vectors(gram, part(pass.gram, Shape::kMatrix), Shape::kMatrix, thread, kPassThreads);
    copy_vectors(queries_mix, part(pass.queries_mix, Shape::kQueriesMix), Shape::kQueriesMix, thread, kPassThreads);
    if (kSecond) {
      copy_vectors(first_cross, part(pass.first_cross, Shape::kVectors), Shape::kVectors, thread, kPassThreads);
      copy_vectors(keys_mix, part(pass.keys_mix, Shape::kMatrix), Shape::kMatrix, thread, kPassThreads);
      copy_vectors(first_gram, part(pass.first_gram, Shape::kMatrix), Shape::kMatrix, thread, kPassThreads);
      copy_vectors(cross_mix, part(pass.cross_mix, Shape::kMatrix), Shape::kMatrix, thread, kPassThreads);
      for (int i = thread; i < kRows; i += kPassThreads) {  // minus infinity: missing tokens get no weight
        keys_bias[i] = i % kTokens < pass.tokens ? pass.keys_bias[prompt * kRows + i] : -INFINITY;
      }
      copy_floats(first_bias, pass.first_bias + prompt * kRows, kRows, thread, kPassThreads);
      copy_floats(cross_bias, pass.cross_bias + prompt * kRows, kRows, thread, kPassThreads);
      copy_floats(queries_mix_last, pass.queries_mix_last + prompt * 2 * Shape::kColumns, 2 * Shape::kColumns, thread,
                  kPassThreads);
    }
    cp_async_commit();
    cp_async_wait<0>();
  }

  // The fragment of this step of a panel of the tile.
  __device__ __forceinline__ Pairs fragment(int panel, int step) const {
    return coefficients + (panel * Shape::kSteps + step) * kFragment;
  }
  // The lane's own pairs (rows g and g + 8, `kWarp` apart) of one head, among the coefficients from step `first` on.
  // Loops over heads are not unrolled, for want of registers, so a head's coefficients are indexed here in memory.
  __device__ __forceinline__ Pairs head_pairs(int panel, int first, int head) const {
    return fragment(panel, first + head / 2) + head % 2 * 2 * kWarp + pair_index<T>();
  }
};

// Add the lane's part of the sum over a head's 8 columns of coefficients * d.
template <typename T>
__device__ __forceinline__ void add_products(float (&to)[2], const Pair<T>* pairs, const float (&d)[4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float2 two = unpack<T>(pairs[half * kWarp]);
    to[half] = fmaf(two.x, d[2 * half], fmaf(two.y, d[2 * half + 1], to[half]));
  }
}

template <typename T>
__device__ __forceinline__ void pack_head(Pair<T>* pairs, const float (&d)[4]) {
  pairs[0] = pack<T>(d[0], d[1]), pairs[kWarp] = pack<T>(d[2], d[3]);
}

// Load the warp's coefficients of 4 steps. Each lane reads only what it has written itself, so no barrier is needed.
template <typename T, typename Memory>
__device__ __forceinline__ void load_coefficients(const Memory& memory, int panel, int first, Pair<T> (&to)[4][4]) {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int j = 0; j < 4; ++j) to[step][j] = memory.fragment(panel, first + step)[j * kWarp + pair_index<T>()];
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
struct ProjectionPrefetcher {
  const uint4* image;  // the first projection's fragment of head 0
  Pair<T> next[kCount][4];

  __device__ __forceinline__ explicit ProjectionPrefetcher(const uint4* from) : image(from) { load(0); }
  __device__ __forceinline__ void load(int head) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) load_fragment(next[i], image, i * kHeads + head);
  }
  // Return the fragments of `head` in `now`, and start loading those of the next head.
  __device__ __forceinline__ void advance(Pair<T> (&now)[kCount][4], int head) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) now[i][j] = next[i][j];
    }
    load(min(head + 1, kHeads - 1));
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

__device__ __forceinline__ float compute_inverse_std(float variance, float eps) {
  return rsqrtf(fmaxf(variance, 0.0f) + eps);
}

// Compute the first pass's coefficients of a warp's panel, which is panel `at` of the image and `panel` of the tile.
template <typename T>
__device__ __forceinline__ void first_coefficients(const Pass& pass, const PassMemory<T, false, false>& memory,
                                                   int64_t at, int panel) {
  using Shape = PassShape<T, false, false>;
  constexpr int kUnrolled = Shape::kUnrolledHeads;
  const auto* const image = static_cast<const uint4*>(pass.image) + at * 4 * kHeads * kWarp * kSizeFactor<T>;
  float norms[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) norms[half] = pass.norms[at * 16 + group() + 8 * half];
  // Initial scores: minus infinity for tokens that don't exist.
  const float initial[2] = {2 * pair() < pass.tokens ? 0.0f : -INFINITY,
                            2 * pair() + 1 < pass.tokens ? 0.0f : -INFINITY};
  ProjectionPrefetcher<T, 1> keys(image), cross(image + kHeads * kWarp * kSizeFactor<T>);
  // The softmax p of each head, to shared memory.
#pragma unroll kUnrolled
  for (int head = 0; head < kHeads; ++head) {
    Pair<T> left[1][4];
    keys.advance(left, head);
    float scores[4] = {initial[0], initial[1], initial[0], initial[1]};
    multiply<T>(scores, left[0], memory.keys[head * kWarp + lane()]);
    softmax_of_tokens(scores);
    pack_head<T>(memory.head_pairs(panel, 0, head), scores);
  }
  Pair<T> weights[4][4];
  load_coefficients<T>(memory, panel, 0, weights);
  // The prompt's part of the variance: sum(p * (cross . image[1] + gram p)).
  float variance[2] = {};
#pragma unroll kUnrolled
  for (int head = 0; head < kHeads; ++head) {
    Pair<T> left[1][4];
    cross.advance(left, head);
    float products[4] = {};
    multiply<T>(products, left[0], memory.cross[head * kWarp + lane()]);
    multiply_rows<T>(products, weights, memory.gram + head * 2 * Shape::kFragmentVectors);
    add_products<T>(variance, memory.head_pairs(panel, 0, head), products);
  }
  float scale[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    scale[half] = compute_inverse_std(row_sum(variance[half]) + norms[half], pass.eps);
    if (pair() == 0) memory.scale[panel * 16 + group() + 8 * half] = scale[half];
  }
  // The coefficients c = p * scale. In float32 p is loaded again, to hold fewer registers before.
  if constexpr (kSizeFactor<T> > 1) load_coefficients<T>(memory, panel, 0, weights);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    scale_fragment<T>(weights[step], scale);
    store_fragment<T>(memory.fragment(panel, step), weights[step]);
  }
}

// Start copying the rows of a panel's state that the first pass has left to where the coefficients belong in shared
// memory. A coefficient's 16 tokens become two rows of 16 bytes, which ldmatrix then transposes.
template <typename T, typename Memory>
__device__ __forceinline__ void copy_state(const Memory& memory, const T* from, int panel, int tokens) {
#pragma unroll
  for (int j = 0; j < 2 * kRows / kWarp; ++j) {
    const int number = j * kWarp + lane(), row = number / 2, head = row / kTokens, token = row % kTokens;
    uint32_t* const to = memory.fragment(panel, head / 2) + (head % 2 * 2 + number % 2) * kWarp + token * 4;
    const bool inside = token < tokens;
    cp_async_16(to, inside ? from + (head * tokens + token) * 16 + number % 2 * 8 : from, inside);
  }
  cp_async_commit();
}

// Compute the second pass's coefficients of a warp's panel, likewise, from what the first pass left in `state`. Steps 0
// to 3 hold the first pass's coefficients, steps 4 to 7 the new weights.
template <typename T, bool kFewQueries>
__device__ __forceinline__ void second_coefficients(const Pass& pass, const PassMemory<T, true, kFewQueries>& memory,
                                                    const T* state, int64_t at, int panel) {
  using Shape = PassShape<T, true, kFewQueries>;
  constexpr int kUnrolled = Shape::kUnrolledHeads;
  const auto* const image = static_cast<const uint4*>(pass.image) + at * 6 * kHeads * kWarp * kSizeFactor<T>;
  const int tokens = static_cast<int>(pass.tokens), rows = kHeads * tokens;
  const T* const previous_state = state + at * (int64_t{2 * rows + 2} * 16);
  if constexpr (kSizeFactor<T> == 1) copy_state(memory, previous_state, panel, tokens);
  ProjectionPrefetcher<T, 2> queries(image);
  float scale[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) scale[half] = to_float(previous_state[2 * rows * 16 + group() + 8 * half]);
  Pair<T> previous[4][4], weights[4][4];
  if constexpr (kSizeFactor<T> == 1) {
    cp_async_wait<0>();
    __syncwarp();
#pragma unroll
    for (int step = 0; step < 4; ++step) load_tiles_transposed<T>(previous[step], memory.fragment(panel, step));
    __syncwarp();
  } else {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const T* const from = previous_state + 2 * step * tokens * 16;
      load_columns(previous[step], from, tokens, from + tokens * 16, tokens);
    }
  }
#pragma unroll
  for (int step = 0; step < 4; ++step) store_fragment<T>(memory.fragment(panel, step), previous[step]);
  // The softmax p of each head, to steps 4 to 7.
#pragma unroll kUnrolled
  for (int head = 0; head < kHeads; ++head) {
    Pair<T> left[2][4];
    queries.advance(left, head);
    const Right<T> keys = memory.keys[head * kWarp + lane()];
    float scores[4] = {};
    multiply<T>(scores, left[0], keys);
    scale_rows(scores, scale);
    multiply<T>(scores, left[1], keys);
    multiply_rows<T>(scores, previous, memory.keys_mix + head * 2 * Shape::kFragmentVectors);
    add_columns(scores, memory.keys_bias + head * kTokens);
    softmax_of_tokens(scores);
    pack_head<T>(memory.head_pairs(panel, 4, head), scores);
  }
  ProjectionPrefetcher<T, 2> variance_terms(image + 2 * kHeads * kWarp * kSizeFactor<T>);
  float norms[2][2], variance[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int j = 0; j < 2; ++j) norms[half][j] = pass.norms[at * 32 + 16 * j + group() + 8 * half];
  }
  load_coefficients<T>(memory, panel, 4, weights);
  // The prompt's parts of the variance: the sums of c * (...) and of p * (...).
#pragma unroll kUnrolled
  for (int head = 0; head < kHeads; ++head) {
    Pair<T> left[2][4];
    variance_terms.advance(left, head);
    float products[4] = {};
    multiply<T>(products, left[0], memory.first_cross[head * kWarp + lane()]);
    scale_rows(products, scale);
    multiply_rows<T>(products, previous, memory.first_gram + head * 2 * Shape::kFragmentVectors);
    add_columns(products, memory.first_bias + head * kTokens);
    add_products<T>(variance, memory.head_pairs(panel, 0, head), products);
#pragma unroll
    for (int j = 0; j < 4; ++j) products[j] = 0.0f;
    multiply<T>(products, left[1], memory.cross[head * kWarp + lane()]);
    scale_rows(products, scale);
    multiply_rows<T>(products, previous, memory.cross_mix + head * 2 * Shape::kFragmentVectors);
    multiply_rows<T>(products, weights, memory.gram + head * 2 * Shape::kFragmentVectors);
    add_columns(products, memory.cross_bias + head * kTokens);
    add_products<T>(variance, memory.head_pairs(panel, 4, head), products);
  }
  // Add the image's part; `inverse_std` is 1 / sqrt(eps + variance), the coefficient of the constant part.
  float inverse_std[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float image_part = fmaf(fmaf(scale[half], norms[half][0], norms[half][1]), scale[half], pass.constant);
    inverse_std[half] = compute_inverse_std(row_sum(variance[half]) + image_part, pass.eps);
    if (pair() == 0) {
      const int row = panel * 16 + group() + 8 * half;
      memory.inverse_std[row] = inverse_std[half], memory.scale[row] = scale[half] * inverse_std[half];
    }
  }
  if constexpr (kSizeFactor<T> > 1) {
    load_coefficients<T>(memory, panel, 0, previous);
    load_coefficients<T>(memory, panel, 4, weights);
  }
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    scale_fragment<T>(previous[step], inverse_std);
    store_fragment<T>(memory.fragment(panel, step), previous[step]);
    scale_fragment<T>(weights[step], inverse_std);
    store_fragment<T>(memory.fragment(panel, 4 + step), weights[step]);
  }
}

}  // namespace fastsam::decoder::cuda
