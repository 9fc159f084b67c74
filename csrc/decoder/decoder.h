// The part of the two-way mask decoder that works on image tokens, for many prompts on one image, on the CPU. All
// numbers are float32 unless stated otherwise.
//
// The image tokens of a prompt are never materialised. Attention of an image token to the prompt's few tokens adds a
// linear combination of their values, and LayerNorm only centres and scales. So a prompt's image token is always the
// image's own token (the same for all prompts) times a scale, plus a combination of the prompt's values. The prompt's
// `state` holds the coefficients. Every product with an image token is then a sum of two products: of a projection of
// the image, made once per image and only `head_dim` wide per head; and of the coefficients with small matrices made
// from the prompt's tokens. The variance that LayerNorm needs is a quadratic form in the coefficients.
// models/decoder_features.py has the algebra.
//
// `queries` are those of prompt tokens in their attention to image tokens ("token-to-image"), `value_sum` is the
// attention-weighted sum of image values, `coefficient_sum` that of coefficients. `keys` are those of prompt tokens in
// the attention of image tokens to them ("image-to-token"). Image tokens lie in panels of 16 (see decoder_table.h):
// (panels, channels, 16), the last panel padded with zeros. `rows` = heads * tokens and `query rows` = heads * query
// tokens, heads outermost. Results are equal to the bit for every number of threads, and a prompt's results do not
// depend on other prompts of the call.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "decoder/decoder_table.h"

namespace fastsam::decoder {

// Operands of a pass over the image: one sweep that fuses the image-to-token attention of one layer, with its
// LayerNorm, and the token-to-image attention of the next layer. Products such as keys . image[0] are taken head by
// head, and image[i] is the i-th projection. Matrices are row-major.
struct Pass {
  int64_t prompts, heads, tokens, head_dim;
  int64_t length;       // image tokens
  const float* image;   // (panels, projections * heads * head_dim, 16), projections in the order of their use below
  const float* values;  // (heads, panels * 16, head_dim rounded up to 16), zero-padded
  const float* norms;   // (panels, 16), the image's part of the variance; in the second pass (panels, 2, 16)
  float eps;
  const float* keys;         // (prompts, rows, head_dim), of the prompt's tokens, scaled by 1 / sqrt(head_dim)
  const float* cross;        // (prompts, rows, head_dim), the tokens' values times 2 / channels
  const float* gram;         // (prompts, rows, rows), symmetric: products of what the values add to an image token
  const float* queries;      // (prompts, query rows, head_dim), scaled by 1 / sqrt(head_dim)
  const float* queries_mix;  // (prompts, query rows, coefficients), queries times what a coefficient weights
  float* state;              // input and output (prompts, panels, 2 * rows + 2, 16)
  float* value_sum;          // output (prompts, query rows, head_dim)
  float* coefficient_sum;    // output (prompts, coefficients, query rows)
};

// The first block's image tokens. For each image token, with p = softmax of keys . image[0] over the tokens of each
// head:
//   scale = 1 / sqrt(eps + norms + sum(p * (cross . image[1] + gram p))), coefficients c = p * scale
//   attention weights w = softmax over the image of (queries . image[2]) * scale + queries . image[3] + queries_mix c
// Then value_sum = sum over the image of w * scale * values, and coefficient_sum = sum over the image of w * c. In
// `state`, rows [0, rows) become c, and row 2 * rows becomes the scale; the other rows are not written.
void first_pass(const Pass& pass, int64_t threads);

// The second block's image tokens, from the scale and c that the first pass left in `state`. For each image token, with
// p = softmax of (keys . image[0]) * scale + keys_mix c + keys . image[1] + keys_bias over the tokens of each head:
//   variance = scale^2 * norms[0] + scale * norms[1] + constant
//     + sum(c * (scale * (first_cross . image[2]) + first_gram c + first_bias))
//     + sum(p * (scale * (cross . image[3]) + cross_mix c + cross_bias + gram p))
//   coefficients = (c, p, scale, 1) / sqrt(eps + variance), which replace all rows of `state`; let s be row 2 * rows
//   attention weights
//   w = softmax over the image of (queries . image[4]) * s + queries . image[5] + queries_mix coefficients
// Then value_sum = sum over the image of w * s * values, and coefficient_sum = sum over the image of w * coefficients.
// `keys`, `cross` and `gram` are those of the second block's tokens; `first_cross` has the first block's values, times
// 2 / channels. The `mix` operands are products with the first block's values, the `bias` operands with constants.
struct SecondPass : Pass {
  int64_t query_tokens;  // at most `tokens`
  float constant;
  const float* keys_mix;     // (prompts, rows, rows)
  const float* keys_bias;    // (prompts, rows)
  const float* first_cross;  // (prompts, rows, head_dim)
  const float* first_gram;   // (prompts, rows, rows), symmetric
  const float* first_bias;   // (prompts, rows)
  const float* cross_mix;    // (prompts, rows, rows)
  const float* cross_bias;   // (prompts, rows)
};
void second_pass(const SecondPass& pass, int64_t threads);

// Plain attention of q (heads, rows, head_dim), already scaled, to all image tokens: the first block's token-to-image
// attention, in which all prompts share keys and values. keys (panels, heads * head_dim, 16); values (heads, panels *
// 16, head_dim rounded up to 16), zero-padded; out like q.
void first_token_to_image(const float* q, const float* keys, const float* values, int64_t heads, int64_t rows,
                          int64_t head_dim, int64_t length, float* out, int64_t threads);

// Throw std::invalid_argument if a prompt in selected (selected_count), or an index (count) into `selected`, is out of
// range.
void check_indices(const int64_t* selected, int64_t selected_count, int64_t prompts, const int64_t* index,
                   int64_t count);

// Compute the low-resolution logits of `count` masks: mask i of prompt selected[index[i]] with the hypernetwork's
// weights[i] (narrow) goes to out[i] (4 * height, 4 * width). Both upscaling steps are transposed 2 x 2 convolutions
// with stride 2. The first computes base * (row rows - 2 of state) + factors * state + bias, with channels (2, 2,
// middle), then LayerNorm and GELU. The second multiplies by conv2, with channels (2, 2, narrow), then GELU. If
// the matrices of both steps are bfloat16, the factors they are multiplied with are rounded to bfloat16; sums and
// everything else are float32. Throws like check_indices.
struct Upscaling {
  DType dtype;  // of the matrices: float32 or bfloat16
  int64_t prompts, selected_count, rows, middle, narrow, height, width, count;
  const float* state;       // (prompts, panels, rows, 16)
  const int64_t* selected;  // (selected_count), prompts of which masks are wanted
  const void* factors;      // (selected_count, 4 * middle, rows)
  const int64_t* index;     // (count), each mask's place in `selected`
  const float* weights;     // (count, narrow)
  const float* base;        // (panels, 4 * middle, 16)
  const float* bias;        // (4 * middle)
  DecoderNorm norm;
  const void* conv2;  // (4 * narrow, middle)
  const float* conv2_bias;
  float* out;
};
void upscale(const Upscaling& upscaling, int64_t threads);

}  // namespace fastsam::decoder
