// The two-way mask decoder's whole work on a few prompts: their tokens here, their looks at the image by decoder.h.
//
// A prompt has about seven tokens, so a layer's weights are read for little arithmetic: with one prompt it is the time
// to read 15 MB, and what PyTorch would spend on a thousand small steps is many times that. Results are the same to the
// bit for every number of threads.
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

// A block of the transformer, without its norm of image tokens. `width` = channels, `inner` = heads * head_dim.
struct TokenBlock {
  TokenLayer self_q, self_k, self_v, self_out;  // width to width
  TokenNorm norm1;
  TokenLayer look_q, look_out;  // tokens look at the image: width to inner, inner to width
  TokenNorm norm2;
  TokenLayer mlp1, mlp2;  // with ReLU between
  TokenNorm norm3;
  TokenLayer answer_k, answer_v;  // what image tokens look at: width to inner
};

// What models/decoder_features.py makes of the weights: (inner, inner), or (inner) where it says so.
struct TokenMixes {
  const float *gram1, *look1, *seen1, *seen1_bias;                              // bias (inner)
  const float *keys, *keys_bias, *own, *own_bias, *cross, *cross_bias, *gram2;  // biases (inner)
  const float *look2_first, *look2_second, *look2_rest;                         // rest (inner)
  const float *seen2_first, *seen2_second, *seen2_rest, *seen2_bias;            // rest and bias (inner)
};

struct Prompts {
  int64_t prompts, tokens, width, heads, head_dim, length;
  float eps;  // of every LayerNorm
  TokenBlock first, second;
  TokenLayer final_q, final_out;
  TokenNorm final_norm;
  TokenLayer iou1, iou2, iou3;  // predicted IoU, from the first token
  TokenMixes mixes;
  // Of the image, see decoder.h.
  const float *first_keys, *first_values;
  const float *image1, *values1, *norms1;
  const float *image2, *values2, *norms2;
  float constant;
  const float* given;  // (prompts, tokens, width)
  const int64_t* chosen;
  int64_t chosen_count;  // tokens whose result is wanted, the first of them the IoU's
  float* state;          // (prompts, panels, 2 * heads * tokens + 2, 16)
  float* final_tokens;   // (prompts, chosen_count, width)
  float* iou;            // (prompts, iou3.n)
  float* first_own;  // (prompts, heads, tokens, head_dim): values of both blocks' tokens in the image's look at them
  float* second_own;
};
void decode_prompts(const Prompts& job, int64_t threads);

// What `upscale` takes of each prompt and mask.
struct MaskFactors {
  int64_t prompts, tokens, heads, head_dim, width, wide, chosen_count;  // wide = 4 * middle
  const float *final_tokens, *first_own, *second_own;                   // as `decode_prompts` gives them
  const int64_t* asked;                                                 // (asked_count): prompts
  int64_t asked_count;
  const int64_t *index, *column;  // (count): place in asked, and of the mask's token among the chosen
  int64_t count;
  const TokenLayer* layers;     // three for each mask's token, in the order of the chosen ones after the first
  const float *first, *second;  // (wide, inner)
  const float* rest;            // (wide)
  float* factors;               // (asked_count, wide, 2 * heads * tokens + 2)
  float* weights;               // (count, narrow)
};
void mask_factors(const MaskFactors& job, int64_t threads);

}  // namespace fastsam::decoder
