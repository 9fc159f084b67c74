// The whole two-way mask decoder for some prompts on the GPU, in float16 or bfloat16: prompt tokens are processed here,
// their attention to the image by decoder_cuda.h. A call launches about 35 kernels on a stream, one after another, and
// does nothing else. So it is asynchronous and can be captured in a CUDA graph.
//
// A prompt has about seven tokens, whose layers take 20 MMAC and read 7 MB of weights. For one prompt, kernel launches
// and memory latency dominate; for 1,024 prompts (41 GFLOP) the tensor cores take some 0.2 ms. Intermediate results are
// rounded where PyTorch rounds them in the same dtype, or less often.
#pragma once

#include <cstdint>

#include "decoder/decoder_cuda.h"

namespace fastsam::decoder::cuda {

// Channels of a token, and of queries, keys and values in attention between tokens and the image.
constexpr int kWidth = 256, kInner = kHeads * kDim;

// A fully connected layer: weight (n, k), bias (n). k is a multiple of 8, n of 2. Weights are aligned to 16 bytes.
struct TokenLayer {
  const void* weight;
  const void* bias;
  int n, k;
};

struct TokenNorm {
  const void* weight;
  const void* bias;
};

// TokenBlock, TokenMixes and Prompts are as in tokens.h, apart from what is noted here. All tensors but float ones have
// the dtype of the call.
struct TokenBlock {
  TokenLayer self_q, self_k, self_v, self_out;
  TokenNorm norm1;
  TokenLayer token_to_image_q, token_to_image_out;
  TokenNorm norm2;
  TokenLayer mlp1, mlp2;
  TokenNorm norm3;
  TokenLayer image_to_token_k, image_to_token_v;
};

struct TokenMixes {
  const void *gram1, *queries1, *values1, *values1_bias;
  const void *keys, *keys_bias, *gram2_first, *gram2_first_bias, *cross, *cross_bias, *gram2_second;
  const void *queries2_first, *queries2_second, *queries2_constant;
  const void *values2_first, *values2_second, *values2_constant, *values2_bias;
};

struct Prompts {
  int64_t prompts, tokens, length;
  float eps;  // of every LayerNorm
  TokenBlock first, second;
  TokenLayer final_q, final_out;
  TokenNorm final_norm;
  TokenLayer iou1, iou2, iou3;
  TokenMixes mixes;
  // What was precomputed of the image, in panels of 16 tokens as in decoder.h.
  const void *first_keys, *first_values, *image1, *values1, *image2, *values2;
  const float *norms1, *norms2;
  const float* constant;     // the constant of the second pass's variance, on the device
  bool packed;               // whether the 16-bit parts of the image are fragments already, see `pack_image`
  const void* input_tokens;  // (prompts, tokens, kWidth), or null: then a prompt's tokens are `output`, then `sparse`
  const void* output;        // (outputs, kWidth), the same for all prompts
  const void* sparse;        // (prompts, tokens - outputs, kWidth)
  int64_t outputs;
  int chosen[kTokens];  // tokens whose result is wanted, the first that of the IoU
  int chosen_count;
  void* state;               // (prompts, panels, 2 * heads * tokens + 2, 16)
  void* final_tokens;        // (prompts, chosen_count, kWidth)
  void* iou;                 // (prompts, iou3.n)
  void* first_token_values;  // (prompts, heads, tokens, kDim)
  void* second_token_values;
  void* scratch;  // `prompts_scratch_bytes` bytes, aligned to 256
};

// Rearrange the precomputed parts of an image, except the norms, from panels to the fragments of decoder_cuda.h. Parts
// are in the order of `Prompts`: first_keys, first_values, image1, values1, image2, values2. Asynchronous.
constexpr int kImageParts = 6;
void pack_image(const void* const (&from)[kImageParts], void* const (&to)[kImageParts], int64_t length, void* stream);

// Return the bytes of scratch memory that a call needs. Only the sizes in `job` are used.
int64_t prompts_scratch_bytes(const Prompts& job);

// Throws like `pass` in decoder_cuda.h.
void decode_prompts(const Prompts& job, DType dtype, int64_t shared_memory, void* stream);

// The operands of mask_factors, which computes what `upscale` needs of each prompt (`factors`) and mask (`weights`), in
// five launches for up to four masks. Elements of `selected`, `index` and `column` that are out of range are clamped.
// Mask tokens are numbered from 0 in the order of the chosen tokens after the first.
struct MaskFactors {
  int64_t prompts, tokens, selected_count, count;
  int conv1_channels;  // 4 * middle, a multiple of 16
  int chosen_count;    // tokens of a prompt, of which the masks' come after the first
  const void *final_tokens, *first_token_values, *second_token_values;  // outputs of `decode_prompts`
  const int64_t* selected;                                              // (selected_count), prompts
  const int64_t *index, *column;       // (count): each mask's place in `selected`, its token's number
  TokenLayer layers[kTokens][3];       // of each mask token, all of the same sizes
  const void *first_mix, *second_mix;  // (conv1_channels, kInner)
  const void* constant_mix;            // (conv1_channels)
  void* factors;                       // output (selected_count, conv1_channels, 2 * heads * tokens + 2)
  bool packed;                         // whether to store `factors` as matrices, for `upscale`
  void* weights;                       // output (count, narrow)
  void* scratch;                       // `mask_factors_scratch_bytes` bytes, aligned to 256
};

int64_t mask_factors_scratch_bytes(const MaskFactors& job);
void mask_factors(const MaskFactors& job, DType dtype, void* stream);

}  // namespace fastsam::decoder::cuda
