// Kernels for prompt tokens other than layers: gathering input tokens, self-attention and LayerNorm; and the kernel
// that rearranges the image's parts to fragments. In each, a warp works alone on one item.
#pragma once

#include "decoder/decoder_cuda_fragments.cuh"
#include "decoder/tokens_cuda.h"

namespace fastsam::decoder::cuda {

constexpr int kStepThreads = 128, kStepWarps = kStepThreads / kWarp;

__device__ __forceinline__ int64_t global_warp() { return int64_t{blockIdx.x} * kStepWarps + warp(); }

// Transpose contiguous blocks of 16 x 16 elements to fragments; `fragments` in ops/_decoder/layouts.py does the same. A
// warp has one block.
struct Fragments {
  static constexpr int kParts = kImageParts;
  const void* from[kParts];
  void* to[kParts];
  int64_t first[kParts + 1];  // index of each part's first block, then the total number of blocks
};

__global__ void __launch_bounds__(kStepThreads) fragments_kernel(const __grid_constant__ Fragments parts) {
  const int64_t number = global_warp();
  if (number >= parts.first[Fragments::kParts]) return;
  int part = 0;
  while (number >= parts.first[part + 1]) ++part;
  const int64_t block = number - parts.first[part];
  const auto* const from = static_cast<const uint16_t*>(parts.from[part]) + block * 256;
  uint32_t four[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint16_t* const at = from + (i / 2 * 8 + 2 * pair()) * 16 + i % 2 * 8 + group();
    four[i] = __ldg(at) | static_cast<uint32_t>(__ldg(at + 16)) << 16;
  }
  static_cast<uint4*>(parts.to[part])[block * kWarp + lane()] = make_uint4(four[0], four[1], four[2], four[3]);
}

// Gather the tokens of all prompts, each of which begins with the same `outputs` tokens. A warp has one token.
struct TokenGather {
  const void *output, *sparse;
  void* out;
  int64_t rows;
  unsigned tokens, outputs;
};

__global__ void __launch_bounds__(kStepThreads) gather_tokens_kernel(const TokenGather job) {
  static_assert(kWidth == 8 * kWarp);
  const int64_t row = global_warp();
  if (row >= job.rows) return;
  const unsigned number = static_cast<unsigned>(row), token = number % job.tokens;
  const auto* const from =
      token < job.outputs
          ? static_cast<const uint4*>(job.output) + token * kWarp
          : static_cast<const uint4*>(job.sparse) +
                (int64_t{number / job.tokens} * (job.tokens - job.outputs) + token - job.outputs) * kWarp;
  static_cast<uint4*>(job.out)[row * kWarp + lane()] = __ldg(from + lane());
}

struct SelfAttention {
  const void *q, *k, *v;  // (prompts, tokens, kWidth)
  void* out;
  int64_t prompts;
  int tokens;
};

// Self-attention of a prompt's tokens. A warp has one head of one prompt: a lane has one of its 32 channels when
// loading and storing, and token g's scores with tokens 2t, 2t + 1 in the softmax.
template <typename T>
__global__ void __launch_bounds__(kStepThreads) self_attention_kernel(const SelfAttention job) {
  constexpr int kHeadDim = kWidth / kHeads, kPitch = kHeadDim + 1;
  static_assert(kHeadDim == kWarp && kTokens == 8);
  __shared__ float vectors[kStepWarps][3][kTokens][kPitch];
  __shared__ float weights[kStepWarps][kTokens][kTokens];
  const int64_t number = global_warp();
  if (number >= job.prompts * kHeads) return;
  auto& warp_vectors = vectors[warp()];
  auto& warp_weights = weights[warp()];
  const int64_t first = number / kHeads * job.tokens * kWidth + number % kHeads * kHeadDim;
  for (int token = 0; token < kTokens; ++token) {
    const int64_t at = first + int64_t{token} * kWidth + lane();
    const bool inside = token < job.tokens;
    warp_vectors[0][token][lane()] = inside ? to_float(static_cast<const T*>(job.q)[at]) : 0.0f;
    warp_vectors[1][token][lane()] = inside ? to_float(static_cast<const T*>(job.k)[at]) : 0.0f;
    warp_vectors[2][token][lane()] = inside ? to_float(static_cast<const T*>(job.v)[at]) : 0.0f;
  }
  __syncwarp();
  float scores[2] = {};
  for (int d = 0; d < kHeadDim; ++d) {
    const float q = warp_vectors[0][group()][d];
    scores[0] = fmaf(q, warp_vectors[1][2 * pair()][d], scores[0]);
    scores[1] = fmaf(q, warp_vectors[1][2 * pair() + 1][d], scores[1]);
  }
  constexpr float kScale = 0.17677669529663687f * kLog2E;  // 1 / sqrt(32)
#pragma unroll
  for (int j = 0; j < 2; ++j) scores[j] = 2 * pair() + j < job.tokens ? scores[j] * kScale : -INFINITY;
  const float max_score = row_max(fmaxf(scores[0], scores[1]));
  scores[0] = exp2_approx(scores[0] - max_score), scores[1] = exp2_approx(scores[1] - max_score);
  const float inverse_sum = 1.0f / row_sum(scores[0] + scores[1]);
  warp_weights[group()][2 * pair()] = scores[0] * inverse_sum,
                            warp_weights[group()][2 * pair() + 1] = scores[1] * inverse_sum;
  __syncwarp();
  for (int token = 0; token < job.tokens; ++token) {
    float sum = 0.0f;
#pragma unroll
    for (int other = 0; other < kTokens; ++other)
      sum = fmaf(warp_weights[token][other], warp_vectors[2][other][lane()], sum);
    static_cast<T*>(job.out)[first + int64_t{token} * kWidth + lane()] = from_float<T>(sum);
  }
}

// LayerNorm of rows, and optionally the sum of its result with the input tokens.
struct LayerNormArgs {
  const void* x;  // (rows, kWidth)
  const void *weight, *bias;
  const void* input_tokens;  // (rows, kWidth), or null
  void *out, *with_pe;       // with_pe: out + input_tokens
  int64_t rows;
  float eps;
};

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int other = 16; other > 0; other /= 2) x += __shfl_xor_sync(kAllLanes, x, other);
  return x;
}

template <typename T>
__device__ __forceinline__ void unpack_eight(float (&to)[8], const void* from, int64_t vector) {
  const uint4 four = __ldg(static_cast<const uint4*>(from) + vector);
  const uint32_t words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 two = unpack<T>(words[i]);
    to[2 * i] = two.x, to[2 * i + 1] = two.y;
  }
}
template <typename T>
__device__ __forceinline__ void pack_eight(void* to, int64_t vector, float (&x)[8]) {
  static_cast<uint4*>(to)[vector] =
      make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]), pack<T>(x[4], x[5]), pack<T>(x[6], x[7]));
}

// A warp has one row, a lane 8 adjacent channels of it.
template <typename T>
__global__ void __launch_bounds__(kStepThreads) normalise_kernel(const LayerNormArgs job) {
  static_assert(kWidth == 8 * kWarp);
  const int64_t row = global_warp();
  if (row >= job.rows) return;
  const int64_t at = row * kWarp + lane();
  float x[8], weight[8], bias[8];
  unpack_eight<T>(x, job.x, at);
  unpack_eight<T>(weight, job.weight, lane());
  unpack_eight<T>(bias, job.bias, lane());
  float sum = 0.0f, square = 0.0f;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum += x[i];
  const float mean = warp_sum(sum) * (1.0f / kWidth);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] -= mean, square = fmaf(x[i], x[i], square);
  const float scale = rsqrtf(warp_sum(square) * (1.0f / kWidth) + job.eps);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = to_float(from_float<T>(fmaf(x[i] * scale, weight[i], bias[i])));
  pack_eight<T>(job.out, at, x);
  if (job.input_tokens == nullptr) return;
  float input_tokens[8];
  unpack_eight<T>(input_tokens, job.input_tokens, at);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] += input_tokens[i];
  pack_eight<T>(job.with_pe, at, x);
}

}  // namespace fastsam::decoder::cuda
