// The mask decoder's kernels of one instruction set, as tables of functions. Plain data only: see common/kernels.h.
//
// Image tokens lie in panels of 16, channel by channel: token l, channel c is at
// [(l / 16 * channels + c) * 16 + l % 16]. A vector thus holds one channel of several tokens, so the softmax over a
// prompt's tokens needs no reduction within a vector. A prompt has `rows` scores per image token, one for each head and
// prompt token, heads outermost. "Slivers" are a packed left-hand side, see pack_slivers; decoder.h explains the names.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

struct DecoderNorm {
  const float* weight;
  const float* bias;
  float eps;
};

// One prompt's operands of a pass over the image; see decoder.h for their meaning. Operands with a row per prompt token
// and `head_dim` columns are packed as slivers head by head; other matrices are packed as slivers, except the symmetric
// `gram` and `first_gram`, which are packed triangles.
struct DecoderPass {
  int64_t length, heads, tokens, head_dim;
  const float* image;   // the image's projections, consecutive within each panel
  const float* values;  // (heads, panels * 16, head_dim rounded up to 16)
  const float* norms;
  float eps;
  const float* keys;
  const float* cross;
  const float* gram;
  const float* queries;
  const float* queries_mix;
  float* state;  // panels of 2 * heads * tokens + 2 rows
};

struct DecoderSecondPass : DecoderPass {
  int64_t query_tokens;
  float constant;
  const float* keys_mix;
  const float* keys_bias;
  const float* first_cross;
  const float* first_gram;
  const float* first_bias;
  const float* cross_mix;
  const float* cross_bias;
};

// The partial results of a token-to-image attention over one span of image tokens, before division by the sum of
// weights.
struct DecoderSums {
  float* max_score;        // (columns), the largest score
  float* weight_sum;       // (columns), the sum of weights
  float* value_sum;        // (columns, head_dim rounded up to 16)
  float* coefficient_sum;  // (rows of the state, columns)
};

// The weights of `output_upscaling`, and the image's part of its first step. Matrices are packed by
// UpscaleKernels::pack.
struct DecoderUpscaling {
  int64_t middle, narrow, rows;  // rows of the state
  const float* base;             // panels of 4 * middle
  const float* factors;          // (4 * middle, rows)
  const float* bias;             // (4 * middle)
  DecoderNorm norm;
  const float* conv2;       // (4 * narrow, middle)
  const float* conv2_bias;  // (4 * narrow)
};

struct DecoderKernels {
  // Return the number of columns that `rows` adjacent scores occupy, padding included.
  int64_t (*columns)(int64_t rows);
  // Pack a left-hand side (rows, depth), element (r, k) at r * row_stride + k * depth_stride, into slivers: rows *
  // depth floats, tiles of rows one after another, each (depth, rows of the tile).
  void (*pack_slivers)(const float* a, int64_t rows, int64_t depth, int64_t row_stride, int64_t depth_stride,
                       float* out);
  // Pack a symmetric matrix a for products x . (a x): its upper triangle with the off-diagonal elements doubled, in
  // slivers of at most rows * rows floats.
  void (*pack_triangle)(const float* a, int64_t rows, float* out);
  // Return the number of floats of scratch memory that the passes and first_token_to_image need.
  int64_t (*pass_scratch_size)(int64_t rows);
  int64_t (*first_token_to_image_scratch_size)(int64_t rows, int64_t head_dim);
  // Run a pass of `count` prompts over panels [first_panel, last_panel), with one `sums` per prompt. The prompts take
  // turns every few panels, so that the image's part of these is in the cache for all but the first prompt.
  void (*first_pass)(const DecoderPass* passes, int64_t count, int64_t first_panel, int64_t last_panel,
                     const DecoderSums* sums, float* scratch);
  void (*second_pass)(const DecoderSecondPass* passes, int64_t count, int64_t first_panel, int64_t last_panel,
                      const DecoderSums* sums, float* scratch);
  // Merge the sums of `count` spans, in order, and divide by the sum of weights: value_sum (rows, head_dim),
  // coefficient_sum (num_coefficients, rows). Overwrites the first span's memory.
  void (*finish)(const DecoderSums* sums, int64_t count, int64_t rows, int64_t head_dim, int64_t num_coefficients,
                 float* value_sum, float* coefficient_sum);
  // Plain attention of one head: q (rows, head_dim), keys in panels that are key_stride floats apart, values
  // (panels * 16, head_dim rounded up to 16), out (rows, head_dim).
  void (*first_token_to_image)(const float* q, int64_t rows, int64_t head_dim, const float* keys, int64_t key_stride,
                               const float* values, int64_t length, float* out, float* scratch);
  // Small product of a prompt's tokens: out (rows, columns) = a b^T, or += if `add`. b is (columns, depth), its rows
  // b_stride apart.
  void (*token_dots)(const float* a, int64_t a_stride, int64_t rows, int64_t depth, const float* b, int64_t b_stride,
                     int64_t columns, bool add, float* out, int64_t out_stride);
  // The same for out = a b or out += a b with b (depth, columns). Element (r, k) of a is at r * a_row + k * a_depth.
  void (*token_products)(const float* a, int64_t a_row, int64_t a_depth, int64_t rows, int64_t depth, const float* b,
                         int64_t b_stride, int64_t columns, bool add, float* out, int64_t out_stride);
  // Softmax over the columns of (rows, columns), in place.
  void (*token_softmax)(float* scores, int64_t rows, int64_t columns, int64_t stride);
};

// The upscaling kernels, for matrices in float32 or in bfloat16 (as bits). With bfloat16 the other factors are rounded
// to it too; sums are float32.
struct UpscaleKernels {
  // Pack a matrix (rows, depth) into slivers of at most rows * depth floats.
  void (*pack)(const void* a, int64_t rows, int64_t depth, float* out);
  // Return the number of floats of scratch memory that `run` needs. `rows` are those of the state.
  int64_t (*scratch)(int64_t rows, int64_t middle, int64_t narrow, int64_t masks);
  // Compute the logits of `masks` masks of one prompt, mask i with weights[i] (narrow) to out[i] (4 * height,
  // 4 * width), for the image tokens of panels [first_panel, last_panel).
  void (*run)(const DecoderUpscaling& upscaling, const float* state, int64_t first_panel, int64_t last_panel,
              int64_t height, int64_t width, const float* const* weights, float* const* out, int64_t masks,
              float* scratch);
};

}  // namespace fastsam
