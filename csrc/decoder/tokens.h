// The whole two-way mask decoder for a few prompts, on the CPU: prompt tokens are processed here, their attention to
// the image by decoder.h, which also explains the names.
//
// A prompt has about seven tokens, so little arithmetic is done per weight read. One prompt takes about the time to
// read 15 MB of weights; PyTorch's overhead for a thousand small operations would be many times that. Results are equal
// to the bit for every number of threads.
#pragma once

#include <cstdint>

#include "decoder/decoder.h"

namespace fastsam::decoder {

// A fully connected layer: weight (n, k), bias (n).
struct TokenLayer {
  const float* weight;
  const float* bias;
  int64_t n, k;
};

struct TokenNorm {
  const float* weight;
  const float* bias;
};

// A block of the transformer, without the LayerNorm of image tokens. `width` is the number of channels, `inner` is
// heads * head_dim of the cross-attention.
struct TokenBlock {
  TokenLayer self_q, self_k, self_v, self_out;  // width to width
  TokenNorm norm1;
  TokenLayer token_to_image_q, token_to_image_out;  // attention of tokens to the image: width to inner, inner to width
  TokenNorm norm2;
  TokenLayer mlp1, mlp2;  // with ReLU between
  TokenNorm norm3;
  // Keys and values for the attention of image tokens to tokens: width to inner.
  TokenLayer image_to_token_k, image_to_token_v;
};

// Matrices that models/decoder_features.py precomputes from the weights alone: (inner, inner), or (inner) if so marked.
struct TokenMixes {
  const float *gram1, *queries1, *values1, *values1_bias;                                              // bias (inner)
  const float *keys, *keys_bias, *gram2_first, *gram2_first_bias, *cross, *cross_bias, *gram2_second;  // biases (inner)
  const float *queries2_first, *queries2_second, *queries2_constant;              // constant (inner)
  const float *values2_first, *values2_second, *values2_constant, *values2_bias;  // constant and bias (inner)
};

// The weights, inputs and outputs of a call. Tokens of a prompt are (tokens, width); chosen_count is at most tokens.
struct Prompts {
  int64_t prompts, tokens, width, heads, head_dim, length;
  float eps;  // of every LayerNorm
  TokenBlock first, second;
  TokenLayer final_q, final_out;
  TokenNorm final_norm;
  TokenLayer iou1, iou2, iou3;  // predicted IoU, from the first token
  TokenMixes mixes;
  // What was precomputed of the image: keys and values of first_token_to_image, then image, values and norms of each
  // pass, and the second pass's constant; see decoder.h.
  const float *first_keys, *first_values;
  const float *image1, *values1, *norms1;
  const float *image2, *values2, *norms2;
  float constant;
  const float* input_tokens;  // (prompts, tokens, width), which also serve as their position embedding
  const int64_t* chosen;      // (chosen_count), indices of the tokens whose result is wanted, the first that of the IoU
  int64_t chosen_count;
  float* state;         // output (prompts, panels, 2 * heads * tokens + 2, 16)
  float* final_tokens;  // output (prompts, chosen_count, width)
  float* iou;           // output (prompts, iou3.n)
  // Output (prompts, heads, tokens, head_dim): the values of both blocks' tokens in the attention of image tokens to
  // them.
  float* first_token_values;
  float* second_token_values;
};
void decode_prompts(const Prompts& job, int64_t threads);

// The operands of mask_factors, which computes what `upscale` needs of each prompt (`factors`) and mask (`weights`).
struct MaskFactors {
  int64_t prompts, tokens, heads, head_dim, width, conv1_channels, chosen_count;  // conv1_channels = 4 * middle
  const float *final_tokens, *first_token_values, *second_token_values;           // outputs of `decode_prompts`
  const int64_t* selected;                                                        // (selected_count), prompts
  int64_t selected_count;
  const int64_t *index, *column;  // (count): each mask's place in `selected`, its token's place among the mask tokens
  int64_t count;
  const TokenLayer* layers;             // three per mask token, in the order of the chosen tokens after the first
  const float *first_mix, *second_mix;  // (conv1_channels, inner)
  const float* constant_mix;            // (conv1_channels)
  float* factors;                       // output (selected_count, conv1_channels, 2 * heads * tokens + 2)
  float* weights;                       // output (count, narrow)
};
// Throws std::invalid_argument if an element of `selected`, `index` or `column` is out of range.
void mask_factors(const MaskFactors& job, int64_t threads);

}  // namespace fastsam::decoder
