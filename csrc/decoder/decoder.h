// The two-way mask decoder's work on image tokens, many prompts on one image. float32 but where it is said.
//
// A prompt's own image tokens are never made. Attention to its few tokens adds to each image token a combination of few
// values, and LayerNorm only centres and scales, so that a token stays what the image gives (the same for all prompts),
// scaled, plus a combination of the prompt's values, whose coefficients are kept in the prompt's `state`. Every product
// with an image token is then a sum of products of the image's projections, made once per image and `head_dim` wide for
// each head, and of products of the coefficients with small matrices made from the prompt's tokens; the variance that
// LayerNorm needs is a quadratic form in the coefficients. models/decoder_features.py has the algebra.
//
// Image tokens lie in panels of 16 (see decoder_table.h): (panels, channels, 16), the last one padded with zeros.
// `rows` = heads * tokens, heads outermost. Results are the same to the bit for every number of threads, and a prompt's
// results do not depend on the prompts beside it.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "decoder/decoder_table.h"

namespace fastsam::decoder {

// Both passes. Image tokens attend to the prompt's tokens; the prompt's next look at the result follows at once.
// x[h] below is the part of head h; matrices are row-major.
struct Pass {
  int64_t prompts, heads, tokens, head_dim;
  int64_t length;       // image tokens
  const float* image;   // (panels, projections * heads * head_dim, 16), in the order of their use below
  const float* values;  // (heads, panels * 16, head_dim rounded up to 16), zeros beyond
  const float* norms;   // (panels, 16); of the second pass (panels, 2, 16)
  float eps;
  const float* keys;      // (prompts, rows, head_dim)
  const float* cross;     // (prompts, rows, head_dim)
  const float* gram;      // (prompts, rows, rows), symmetric
  const float* look;      // (prompts, rows of the look, head_dim)
  const float* look_mix;  // (prompts, rows of the look, coefficients)
  float* state;           // (prompts, panels, 2 * rows + 2, 16)
  float* seen;            // (prompts, rows of the look, head_dim)
  float* mixed;           // (prompts, coefficients, rows of the look)
};

// Per image token, with p the softmax over the tokens of each head of keys . image[0]:
//   scale = 1 / sqrt(eps + norms + sum of p * (cross . image[1] + gram p)), coefficients c = p * scale
//   look: softmax over the image of (look . image[2]) * scale + look . image[3] + look_mix c
// seen = the sum over the image of its weights * scale * values, mixed of its weights * c. In `state`, rows [0, rows)
// become c, row 2 * rows becomes the scale.
void first_pass(const Pass& pass, int64_t threads);

// Goes on from there: with scale and c of the first pass, and p the softmax over the tokens of each head of
// (keys . image[0]) * scale + keys_mix c + keys . image[1] + keys_bias:
//   variance = scale^2 * norms[0] + scale * norms[1] + constant + the sum of c * (scale * (own . image[2]) +
//     own_gram c + own_bias) + the sum of p * (scale * (cross . image[3]) + cross_mix c + cross_bias + gram p)
//   coefficients (c, p, scale, 1) / sqrt(eps + variance), which replace the rows of `state`
//   look: softmax over the image of (look . image[4]) * coefficient 2 * rows + look . image[5] + look_mix coefficients
// seen = the sum over the image of its weights * coefficient 2 * rows * values, mixed of its weights * coefficients.
struct SecondPass : Pass {
  int64_t look_tokens;
  float constant;
  const float* keys_mix;    // (prompts, rows, rows)
  const float* keys_bias;   // (prompts, rows)
  const float* own;         // (prompts, rows, head_dim)
  const float* own_gram;    // (prompts, rows, rows), symmetric
  const float* own_bias;    // (prompts, rows)
  const float* cross_mix;   // (prompts, rows, rows)
  const float* cross_bias;  // (prompts, rows)
};
void second_pass(const SecondPass& pass, int64_t threads);

// Attention of q (heads, rows, head_dim) to the keys and values of all image tokens.
// keys: panels of heads * head_dim; values: (heads, panels * 16, head_dim rounded up to 16), zeros beyond.
void first_look(const float* q, const float* keys, const float* values, int64_t heads, int64_t rows, int64_t head_dim,
                int64_t length, float* out, int64_t threads);

// Throws std::invalid_argument for a prompt in asked (asked_count), or an index (count) into it, that there is not.
void check_asked(const int64_t* asked, int64_t asked_count, int64_t prompts, const int64_t* index, int64_t count);

// Low-resolution logits of `count` masks, those of prompt asked[index[i]] weighed by weights[i] (narrow), to out[i]
// (4 * height, 4 * width). The first step is base * coefficient rows - 2 + factors * coefficients + bias, in rows (2,
// 2, middle); then LayerNorm, GELU, the step that enlarges more, rows (2, 2, narrow), and GELU. Where the matrices of
// both steps are bits of bfloat16, what they are multiplied with is rounded to that; sums and all else are float32.
// Throws as check_asked.
struct Upscaling {
  DType dtype;  // of the matrices: float32 or bfloat16
  int64_t prompts, asked_count, rows, middle, narrow, height, width, count;
  const float* state;    // (prompts, panels, rows, 16)
  const int64_t* asked;  // (asked_count)
  const void* factors;   // (asked_count, 4 * middle, rows)
  const int64_t* index;  // (count)
  const float* weights;  // (count, narrow)
  const float* base;     // (panels, 4 * middle, 16)
  const float* bias;     // (4 * middle)
  DecoderNorm norm;
  const void* enlarge_more;  // (4 * narrow, middle)
  const float* enlarge_more_bias;
  float* out;
};
void upscale(const Upscaling& upscaling, int64_t threads);

}  // namespace fastsam::decoder
