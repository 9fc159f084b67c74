// What one instruction set offers to decoder. Plain data only: see common/kernels.h.
//
// Image tokens lie in panels of 16, channel by channel: token l, channel c is at [(l / 16 * channels + c) * 16 + l %
// 16]. One vector then holds one channel of several tokens: the softmax over a prompt's tokens needs no sum within a
// vector. A prompt has `rows` of scores per image token, one for each head and prompt token, heads outermost.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

struct DecoderNorm {
  const float* weight;
  const float* bias;
  float eps;
};

// One prompt's operands of a pass over the image; see decoder.h for what they mean. Those with a row per prompt token
// and `head_dim` columns are packed slivers head by head; matrices are packed slivers, `gram`s packed triangles.
struct DecoderPass {
  int64_t length, heads, tokens, head_dim;
  const float* image;   // panels of the image's projections, one after the other in each panel
  const float* values;  // (heads, panels * 16, head_dim rounded up to 16)
  const float* norms;
  float eps;
  const float* keys;
  const float* cross;
  const float* gram;
  const float* look;
  const float* look_mix;
  float* state;  // panels of 2 * heads * tokens + 2 rows
};

struct DecoderSecondPass : DecoderPass {
  int64_t look_tokens;
  float constant;
  const float* keys_mix;
  const float* keys_bias;
  const float* own;
  const float* own_gram;
  const float* own_bias;
  const float* cross_mix;
  const float* cross_bias;
};

// The softmax over the image tokens of one stretch of them, not yet divided by its sum.
struct DecoderSums {
  float* largest;  // (columns)
  float* total;    // (columns)
  float* seen;     // (columns, head_dim rounded up to 16)
  float* mixed;    // (rows of the state, columns)
};

// The weights of `output_upscaling` and what the image gives to its first step; matrices are packed by `pack`.
struct DecoderUpscaling {
  int64_t middle, narrow, rows;  // rows of the state
  const float* base;             // panels of 4 * middle
  const float* factors;          // (4 * middle, rows)
  const float* bias;             // (4 * middle)
  DecoderNorm norm;
  const float* enlarge_more;       // (4 * narrow, middle)
  const float* enlarge_more_bias;  // (4 * narrow)
};

struct DecoderKernels {
  // `rows` scores take this many columns where they lie beside one another.
  int64_t (*columns)(int64_t rows);
  // A left-hand side (rows, depth), element (r, k) at r * row_stride + k * depth_stride, into slivers: rows * depth
  // floats.
  void (*pack_slivers)(const float* a, int64_t rows, int64_t depth, int64_t row_stride, int64_t depth_stride,
                       float* out);
  // A symmetric matrix for x . a x: its upper half, twice what is off the diagonal, in at most rows * rows floats.
  void (*pack_triangle)(const float* a, int64_t rows, float* out);
  // Floats of scratch memory for each function.
  int64_t (*pass_scratch)(int64_t rows);
  int64_t (*first_look_scratch)(int64_t rows, int64_t head_dim);
  // Both passes of `count` prompts over panels [first_panel, last_panel): what the image gives to a few panels serves
  // all of them while it is in the cache.
  void (*first_pass)(const DecoderPass* passes, int64_t count, int64_t first_panel, int64_t last_panel,
                     const DecoderSums* sums, float* scratch);
  void (*second_pass)(const DecoderSecondPass* passes, int64_t count, int64_t first_panel, int64_t last_panel,
                      const DecoderSums* sums, float* scratch);
  // Merges `count` stretches, in order: seen (rows, head_dim), mixed (mixed_rows, rows). The first stretch's memory is
  // overwritten.
  void (*finish)(const DecoderSums* sums, int64_t count, int64_t rows, int64_t head_dim, int64_t mixed_rows,
                 float* seen, float* mixed);
  // Plain attention of (rows, head_dim) on keys in panels and values (panels * 16, head_dim rounded up to 16): one
  // head. key_stride: floats between panels of keys. out: (rows, head_dim).
  void (*first_look)(const float* q, int64_t rows, int64_t head_dim, const float* keys, int64_t key_stride,
                     const float* values, int64_t length, float* out, float* scratch);
  // Small products of a prompt's tokens: out (rows, columns) = a times b, on top of what is there if `add`.
  // b is (columns, depth), its rows b_stride apart.
  void (*token_dots)(const float* a, int64_t a_stride, int64_t rows, int64_t depth, const float* b, int64_t b_stride,
                     int64_t columns, bool add, float* out, int64_t out_stride);
  // b is (depth, columns); element (r, k) of a is at r * a_row + k * a_depth.
  void (*token_products)(const float* a, int64_t a_row, int64_t a_depth, int64_t rows, int64_t depth, const float* b,
                         int64_t b_stride, int64_t columns, bool add, float* out, int64_t out_stride);
  // Softmax over the columns of (rows, columns), in place.
  void (*token_softmax)(float* scores, int64_t rows, int64_t columns, int64_t stride);
};

// Upscaling whose matrices are float32, or the bits of bfloat16: what they are multiplied with is rounded to that then,
// and sums are float32.
struct UpscaleKernels {
  // A matrix (rows, depth) into slivers: at most rows * depth floats.
  void (*pack)(const void* a, int64_t rows, int64_t depth, float* out);
  // Floats of scratch memory; `rows` of the state.
  int64_t (*scratch)(int64_t rows, int64_t middle, int64_t narrow, int64_t masks);
  // Logits of `masks` masks of one prompt: weights[i] (narrow) to out[i] (4 * height, 4 * width), for these panels of
  // its state.
  void (*run)(const DecoderUpscaling& upscaling, const float* state, int64_t first_panel, int64_t last_panel,
              int64_t height, int64_t width, const float* const* weights, float* const* out, int64_t masks,
              float* scratch);
};

}  // namespace fastsam
