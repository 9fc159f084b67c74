// The two-way mask decoder's whole work on some prompts on a GPU, in half precision: their tokens here, their looks at
// the image by decoder_cuda.h. About 35 kernels are started on a stream, one after the other; nothing else happens, so
// that a call can be captured in a graph, and returns before the work is done.
//
// A prompt has about seven tokens, whose layers are 20 MMAC and read 7 MB of weights: for one prompt that is the time
// to start kernels and to wait for memory, for 1,024 (41 GFLOP) some 0.2 ms of tensor cores. What a kernel rounds, and
// where, is what PyTorch does in the same dtype, or less.
#pragma once

#include <cstdint>

#include "decoder/decoder_cuda.h"

namespace fastsam::decoder::cuda {

// Channels of a token; of a look there are kHeads * kDim.
constexpr int kWidth = 256, kInner = kHeads * kDim;

// A fully connected layer: weight (n, k), bias (n). k is a multiple of 8, n of 2; weights are at multiples of 16 bytes.
struct TokenLayer {
  const void* weight;
  const void* bias;
  int n, k;
};

struct TokenNorm {
  const void* weight;
  const void* bias;
};

// As in tokens.h.
struct TokenBlock {
  TokenLayer self_q, self_k, self_v, self_out;
  TokenNorm norm1;
  TokenLayer look_q, look_out;
  TokenNorm norm2;
  TokenLayer mlp1, mlp2;
  TokenNorm norm3;
  TokenLayer answer_k, answer_v;
};

struct TokenMixes {
  const void *gram1, *look1, *seen1, *seen1_bias;
  const void *keys, *keys_bias, *own, *own_bias, *cross, *cross_bias, *gram2;
  const void *look2_first, *look2_second, *look2_rest;
  const void *seen2_first, *seen2_second, *seen2_rest, *seen2_bias;
};

struct Prompts {
  int64_t prompts, tokens, length;
  float eps;  // of every LayerNorm
  TokenBlock first, second;
  TokenLayer final_q, final_out;
  TokenNorm final_norm;
  TokenLayer iou1, iou2, iou3;
  TokenMixes mixes;
  // Of the image, as decoder.h has them, in panels of 16 tokens.
  const void *first_keys, *first_values, *image1, *values1, *image2, *values2;
  const float *norms1, *norms2;
  const float* constant;  // of the variance; one number
  bool laid_out;          // those of halves are fragments: see `lay_out`
  const void* given;      // (prompts, tokens, kWidth), or null: `output` before `sparse` then
  const void* output;     // (outputs, kWidth), the same for all prompts
  const void* sparse;     // (prompts, tokens - outputs, kWidth)
  int64_t outputs;
  int chosen[kTokens];
  int chosen_count;    // tokens whose result is wanted, the first of them the IoU's
  void* state;         // (prompts, panels, 2 * heads * tokens + 2, 16)
  void* final_tokens;  // (prompts, chosen_count, kWidth)
  void* iou;           // (prompts, iou3.n)
  void* first_own;     // (prompts, heads, tokens, kDim)
  void* second_own;
  void* scratch;  // `prompts_scratch` bytes, at a multiple of 256
};

// What an image gives, but for the norms, from panels to fragments: in the order of `Prompts`.
constexpr int kImageParts = 6;
void lay_out(const void* const (&from)[kImageParts], void* const (&to)[kImageParts], int64_t length, void* stream);

// Bytes of scratch memory for a call; its pointers are not looked at.
int64_t prompts_scratch(const Prompts& job);

// Errors as of `pass`.
void decode_prompts(const Prompts& job, DType dtype, int64_t shared_memory, void* stream);

// What `upscale` takes of each prompt and mask, in five launches for up to four masks. Numbers that are out of range
// mean the nearest that there are.
struct MaskFactors {
  int64_t prompts, tokens, asked_count, count;
  int wide;                                           // 4 * middle, a multiple of 16
  int chosen_count;                                   // tokens of a prompt, of which the masks' come after the first
  const void *final_tokens, *first_own, *second_own;  // as `decode_prompts` gives them
  const int64_t* asked;                               // (asked_count): prompts
  const int64_t *index, *column;                      // (count): place in asked, and of the mask's token
  TokenLayer layers[kTokens][3];                      // of each mask's token, all of the same sizes
  const void *first, *second;                         // (wide, kInner)
  const void* rest;                                   // (wide)
  void* factors;                                      // (asked_count, wide, 2 * heads * tokens + 2), or of those:
  bool laid_out;                                      // matrices, as `upscale` takes them
  void* weights;                                      // (count, narrow)
  void* scratch;                                      // `mask_factors_scratch` bytes, at a multiple of 256
};

int64_t mask_factors_scratch(const MaskFactors& job);
void mask_factors(const MaskFactors& job, DType dtype, void* stream);

}  // namespace fastsam::decoder::cuda
