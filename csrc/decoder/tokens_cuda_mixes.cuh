// Kernels between a prompt's tokens and the passes over the image: bilinear_kernel computes a pass's operands from
// tokens, merge_attention_kernel turns a pass's sums into values, and factors_kernel computes the upscaling's factors.
// In the first two, a warp has one head of one prompt. Its tokens fill 8 of the 16 rows of a left factor, and the
// result of a product becomes the left factor of the next without leaving its registers.
#pragma once

#include "decoder/tokens_cuda_steps.cuh"

namespace fastsam::decoder::cuda {

// Computes x mix values^T for one prompt, where rows of x and `values` are zero outside their head's channels, and
// stores it and x itself in the layouts of decoder_cuda.h.
struct BilinearForm {
  const void* x;           // (prompts, heads, count, kDim)
  const void* mix;         // (kInner, kInner), or null to store only x
  const void* values;      // (prompts, heads, tokens, kDim)
  void* matrix;            // output, matrices `depth` * 32 deep, of which 64 are written, from `first_depth` * 32 on
  void* vectors;           // output, vectors of x * factor, or null
  const void* dot_vector;  // (kInner), or null: the products of x with its head's part go to `bias`
  const float* constant;   // one number, of which 1 / heads is added to these products, or null
  float*
      bias;  // output (prompts, kRows); if is_queries (prompts, heads * tokens per head, 2), (0, product) for each row
  float factor;
  int count, depth, first_depth;
  bool is_queries;  // whether x are `count` queries of token-to-image attention, which may be few
};

constexpr int kMaxBilinearForms = 6;

struct BilinearForms {
  BilinearForm items[kMaxBilinearForms];
  int count;
  int64_t prompts;
  int tokens;
  bool few_queries;
};

// Load a lane's part of a row of 16 channels: channels 2t, 2t + 1, and 2t + 8, 2t + 9.
template <typename T>
__device__ __forceinline__ uint2 load_vector(const void* rows, int64_t row, bool inside) {
  if (!inside) return make_uint2(0, 0);
  const auto* const at = reinterpret_cast<const uint32_t*>(static_cast<const T*>(rows) + row * kDim) + pair();
  return make_uint2(__ldg(at), __ldg(at + 4));
}

// Load two elements of a column, in adjacent rows, as a pair; missing ones are zero.
__device__ __forceinline__ uint32_t load_column(const void* matrix, int64_t at, int64_t pitch, bool first,
                                                bool second) {
  const auto* const from = static_cast<const uint16_t*>(matrix) + at;
  return (first ? static_cast<uint32_t>(__ldg(from)) : 0) | (second ? static_cast<uint32_t>(__ldg(from + pitch)) : 0)
                                                                << 16;
}

// The rows of an (kInner, kInner) matrix that belong to kCount heads, in shared memory. All warps of a block share
// them: they have different prompts but the same heads.
template <int kCount>
struct HeadRows {
  static constexpr int kChunks = kInner / 8, kPitch = kChunks + 1;  // 16-byte chunks; the pitch avoids bank conflicts
  uint4 chunks[kCount * kDim][kPitch];

  __device__ __forceinline__ void copy(const void* matrix, int first_head) {
    for (int i = static_cast<int>(threadIdx.x); i < kCount * kDim * kChunks; i += kStepThreads) {
      chunks[i / kChunks][i % kChunks] = __ldg(static_cast<const uint4*>(matrix) + first_head * kDim * kChunks + i);
    }
  }
};

// A block has one head of one pairing for kStepWarps prompts, one per warp.
template <typename T>
__global__ void __launch_bounds__(kStepThreads) bilinear_kernel(const __grid_constant__ BilinearForms batch) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  __shared__ HeadRows<1> mix;
  const unsigned blocks_per_prompt = static_cast<unsigned>(batch.count) * kHeads,
                 number = blockIdx.x % blocks_per_prompt;
  const int head = static_cast<int>(number % kHeads);
  const BilinearForm& form = batch.items[number / kHeads];
  const int64_t prompt = int64_t{blockIdx.x / blocks_per_prompt} * kStepWarps + warp();
  if (form.mix != nullptr) mix.copy(form.mix, head);
  __syncthreads();
  if (prompt >= batch.prompts) return;
  const bool few_queries = form.is_queries && batch.few_queries;
  // With few queries, two heads share 8 columns.
  const int tokens_per_head = few_queries ? kTokens / 2 : kTokens, shift = few_queries ? head % 2 * tokens_per_head : 0,
            token = group() - shift;
  const bool column = token >= 0 && token < tokens_per_head, inside = column && token < form.count;
  const uint2 x = load_vector<T>(form.x, (prompt * kHeads + head) * form.count + (inside ? token : 0), inside);
  const float2 low = unpack<T>(x.x), high = unpack<T>(x.y);
  if (form.vectors != nullptr) {
    static_cast<uint2*>(form.vectors)[(prompt * kHeads + head) * kWarp + lane()] = make_uint2(
        pack<T>(low.x * form.factor, low.y * form.factor), pack<T>(high.x * form.factor, high.y * form.factor));
  }
  if (form.dot_vector != nullptr) {
    const auto* const dot_vector = static_cast<const T*>(form.dot_vector) + head * kDim + 2 * pair();
    const float products = low.x * to_float(dot_vector[0]) + low.y * to_float(dot_vector[1]) +
                           high.x * to_float(dot_vector[8]) + high.y * to_float(dot_vector[9]);
    const float sum = row_sum(products);
    if (pair() == 0 && column) {
      if (form.is_queries) {
        float* const to = form.bias + ((prompt * kHeads + head) * tokens_per_head + token) * 2;
        to[0] = 0.0f, to[1] = sum;
      } else {
        const float constant = form.constant != nullptr && inside ? *form.constant * (1.0f / kHeads) : 0.0f;
        form.bias[(prompt * kHeads + head) * kTokens + token] = sum + constant;
      }
    }
  }
  if (form.mix == nullptr) return;
  const uint32_t left[4] = {x.x, 0, x.y, 0};
  uint32_t out[kHeads];
#pragma unroll
  for (int other_head = 0; other_head < kHeads; ++other_head) {
    float y[2][4] = {};
    uint32_t columns[4];
    ldmatrix_x4_trans(columns, &mix.chunks[lane() % 16][2 * other_head + lane() / 16]);
#pragma unroll
    for (int n = 0; n < 2; ++n) mma_m16n8k16<T>(y[n], left, columns[2 * n], columns[2 * n + 1]);
    const uint32_t between[4] = {pack<T>(y[0][0], y[0][1]), 0, pack<T>(y[1][0], y[1][1]), 0};
    const bool has_token = group() < batch.tokens;
    const uint2 values = load_vector<T>(
        form.values, (prompt * kHeads + other_head) * batch.tokens + (has_token ? group() : 0), has_token);
    float d[4] = {};
    mma_m16n8k16<T>(d, between, values.x, values.y);
    out[other_head] = pack<T>(d[0], d[1]);
  }
  if (!column) return;
  const int columns = few_queries ? head / 2 : head,
            blocks = form.is_queries && batch.few_queries ? kHeads / 2 : kHeads;
  auto* const to =
      static_cast<uint4*>(form.matrix) + ((prompt * blocks + columns) * form.depth + form.first_depth) * kWarp + lane();
  to[0] = make_uint4(out[0], out[1], out[2], out[3]);
  to[kWarp] = make_uint4(out[4], out[5], out[6], out[7]);
#endif
}

// Merges an attention's sums over the parts of the image, and computes its output: the sum of image values, plus the
// summed coefficients times the prompt's values (`token_values`) through `mix`, plus the constant coefficient's part
// and the bias.
struct AttentionMerge {
  const float *max_scores, *weight_sums, *value_sums, *coefficient_sums;  // as in Pass
  const void* token_values[2];  // (prompts, heads, tokens, kDim), the values of either block's tokens
  const void* mix[2];           // (kInner, kInner), one for each of `token_values`
  const void* constant;         // (kInner), for the constant coefficient; or null
  const void* bias;             // (kInner)
  void* out;                    // (prompts, count, kInner)
  int64_t prompts, parts;
  int tokens, count;
  bool few_queries;
};

// A block has two adjacent heads of kStepWarps / 2 prompts: each warp has one head of one prompt.
template <typename T, bool kSecond>
__global__ void __launch_bounds__(kStepThreads) merge_attention_kernel(const __grid_constant__ AttentionMerge job) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  constexpr int kBlocks = kSecond ? 2 : 1, kNumCoefficients = kSecond ? 2 * kRows + 2 : kRows;
  constexpr int kPairs = kHeads / 2;  // pairs of adjacent heads
  __shared__ HeadRows<2> mix[kBlocks];
  const int first_head = static_cast<int>(blockIdx.x % kPairs) * 2, head = first_head + warp() % 2;
  const int64_t prompt = int64_t{blockIdx.x / kPairs} * (kStepWarps / 2) + warp() / 2;
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) mix[block].copy(job.mix[block], first_head);
  __syncthreads();
  if (prompt >= job.prompts) return;
  const int tokens_per_head = job.few_queries ? kTokens / 2 : kTokens, columns = kHeads * tokens_per_head;
  const bool inside = group() < job.count;
  const int token = inside ? group() : 0, column = head * tokens_per_head + token;
  const int value_column = token + (job.few_queries ? head % 2 * tokens_per_head : 0);
  float max_score = -INFINITY, weight_sum = 0.0f;
  for (int64_t part = prompt * job.parts; part < (prompt + 1) * job.parts; ++part) {
    max_score = fmaxf(max_score, job.max_scores[part * columns + column]);
  }
  for (int64_t part = prompt * job.parts; part < (prompt + 1) * job.parts; ++part) {
    weight_sum +=
        exp2_approx(job.max_scores[part * columns + column] - max_score) * job.weight_sums[part * columns + column];
  }
  float coefficients[kBlocks][kHeads][2] = {}, d[2][2] = {}, constant_sum = 0.0f;
  for (int64_t part = prompt * job.parts; part < (prompt + 1) * job.parts; ++part) {
    const float factor = exp2_approx(job.max_scores[part * columns + column] - max_score) / weight_sum;
    const float* const from = job.coefficient_sums + part * kNumCoefficients * columns + column;
    const float* const value_sums = job.value_sums + (part * kHeads + head) * kDim * 8 + value_column;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int other_head = 0; other_head < kHeads; ++other_head) {
          const int row = block * kRows + other_head * kTokens + 2 * pair() + j;
          coefficients[block][other_head][j] = fmaf(from[row * columns], factor, coefficients[block][other_head][j]);
        }
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) d[n][j] = fmaf(value_sums[(8 * n + 2 * pair() + j) * 8], factor, d[n][j]);
    }
    if (kSecond) constant_sum = fmaf(from[(2 * kRows + 1) * columns], factor, constant_sum);
  }
  float out[2][4] = {};
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
    for (int other_head = 0; other_head < kHeads; ++other_head) {
      // A head has 8 tokens, so only the lower half of the depth is used.
      const uint32_t left[4] = {
          inside ? pack<T>(coefficients[block][other_head][0], coefficients[block][other_head][1]) : 0, 0, 0, 0};
      const bool first = 2 * pair() < job.tokens, second = 2 * pair() + 1 < job.tokens;
      uint32_t between[4] = {};
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int64_t at = ((prompt * kHeads + other_head) * job.tokens + 2 * pair()) * kDim + 8 * n + group();
        float values[4] = {};
        mma_m16n8k16<T>(values, left, load_column(job.token_values[block], at, kDim, first, second), 0);
        between[2 * n] = pack<T>(values[0], values[1]);
      }
      uint32_t columns[4];
      const int row = warp() % 2 * kDim + lane() / 16 * 8 + lane() % 8;
      ldmatrix_x4(columns, &mix[block].chunks[row][2 * other_head + lane() / 8 % 2]);
#pragma unroll
      for (int n = 0; n < 2; ++n) mma_m16n8k16<T>(out[n], between, columns[2 * n], columns[2 * n + 1]);
    }
  }
  if (!inside) return;
  T* const to = static_cast<T*>(job.out) + (prompt * job.count + group()) * kInner + head * kDim + 2 * pair();
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    float result[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int channel = head * kDim + 8 * n + 2 * pair() + j;
      result[j] = d[n][j] + out[n][j] + to_float(static_cast<const T*>(job.bias)[channel]);
      if (kSecond) result[j] = fmaf(constant_sum, to_float(static_cast<const T*>(job.constant)[channel]), result[j]);
    }
    *reinterpret_cast<uint32_t*>(to + 8 * n) = pack<T>(result[0], result[1]);
  }
#endif
}

// Compute the factors of the upscaling's first step: products of the rows of `first` and `second` with a prompt's
// values. A warp has 16 rows for one prompt in `selected`. Adjacent warps have different prompts and the same rows, so
// they share reads of the weights. kPacked: store matrices (decoder_cuda.h) for `upscale`.
template <typename T, bool kPacked>
__global__ void __launch_bounds__(kStepThreads) factors_kernel(const __grid_constant__ MaskFactors job) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  constexpr int kPitch = 16 * 10 + 8;  // avoids bank conflicts between 8 adjacent rows
  __shared__ uint32_t tiles[kPacked ? kStepWarps : 1][kPacked ? 16 * kPitch / 2 : 1];
  const int tokens = static_cast<int>(job.tokens), rows = kHeads * tokens, columns = 2 * rows + 2;
  const int64_t number = global_warp();
  if (number >= job.selected_count * (job.conv1_channels / 16)) return;
  const int64_t selected = number % job.selected_count;
  const int first_row = static_cast<int>(number / job.selected_count) * 16;
  const int64_t prompt = max(int64_t{0}, min(__ldg(job.selected + selected), job.prompts - 1));
  const int pitch = kPacked ? kPitch : columns, depth = kPacked ? 16 * upscale_steps(columns) : columns;
  const uint32_t* const tile = tiles[kPacked ? warp() : 0];
  T* const to = kPacked ? reinterpret_cast<T*>(tiles[warp()])
                        : static_cast<T*>(job.factors) + (selected * job.conv1_channels + first_row) * columns;
#pragma unroll
  for (int block = 0; block < 2; ++block) {
    const auto* const mix = static_cast<const uint2*>(block == 0 ? job.first_mix : job.second_mix) +
                            int64_t{first_row + group()} * (kInner / 4) + pair();
    const auto* const token_values =
        static_cast<const uint2*>(block == 0 ? job.first_token_values : job.second_token_values) +
        (prompt * rows + group()) * (kDim / 4) + pair();
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      // Each lane loads four adjacent channels. The order of the depth is arbitrary as long as both factors agree.
      const uint2 upper = __ldg(mix + head * (kDim / 4)), lower = __ldg(mix + 8 * (kInner / 4) + head * (kDim / 4));
      const uint32_t left[4] = {upper.x, lower.x, upper.y, lower.y};
      const uint2 right = group() < tokens ? __ldg(token_values + head * tokens * (kDim / 4)) : make_uint2(0, 0);
      float d[4] = {};
      mma_m16n8k16<T>(d, left, right.x, right.y);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int token = 2 * pair() + j % 2, row = group() + j / 2 * 8;
        if (token < tokens) to[row * pitch + block * rows + head * tokens + token] = from_float<T>(d[j]);
      }
    }
  }
  const int row = lane() % 16;
  const T constant = static_cast<const T*>(job.constant_mix)[first_row + row], zero = from_float<T>(0.0f);
  for (int column = 2 * rows + lane() / 16; column < depth; column += 2) {
    to[row * pitch + column] = column == 2 * rows + 1 ? constant : zero;
  }
  if (!kPacked) return;
  __syncwarp();
  auto* out = static_cast<uint4*>(job.factors) + (selected * job.conv1_channels + first_row) * (depth / 8) + lane();
  for (int half = 0; half < 2; ++half) {
    const uint32_t* const from = tile + (8 * half + group()) * (kPitch / 2) + pair();
    for (int at = 0; at < depth / 2; at += 16, out += kWarp) {
      *out = make_uint4(from[at], from[at + 4], from[at + 8], from[at + 12]);
    }
  }
#endif
}

// Copy to each mask the weights that its token and prompt produced. `from` is (masks, selected_count, narrow). A thread
// has one element.
__global__ void __launch_bounds__(kStepThreads)
    select_weights_kernel(const __grid_constant__ MaskFactors job, const uint16_t* from, int narrow) {
  const int64_t number = int64_t{blockIdx.x} * kStepThreads + threadIdx.x;
  if (number >= job.count * narrow) return;
  const int64_t mask = number / narrow;
  const int64_t column = max(int64_t{0}, min(job.column[mask], int64_t{job.chosen_count} - 2));
  const int64_t selected = max(int64_t{0}, min(job.index[mask], job.selected_count - 1));
  static_cast<uint16_t*>(job.weights)[number] =
      from[(column * job.selected_count + selected) * narrow + number % narrow];
}

}  // namespace fastsam::decoder::cuda
