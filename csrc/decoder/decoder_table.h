// What one instruction set offers to decoder. Plain data only: see common/kernels.h.
//
// Image tokens lie in panels of 16, channel by channel: token l, channel c is at [(l / 16 * channels + c) * 16 + l %
// 16]. One vector then holds one channel of several tokens: LayerNorm and both softmaxes need no sum within a vector.
// A prompt's scores have `rows` of them per image token, one for each head and prompt token, heads outermost.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

struct DecoderNorm {
  const float* weight;
  const float* bias;
  float eps;
};

// One prompt's operands of a pass over its image tokens.
struct DecoderPass {
  int64_t length, channels, rows, heads;
  int64_t head_dim;       // of `queries`; unused without them
  const float* source;    // panels to read; may be `out`
  const float* position;  // panels
  const float* queries;   // panels of heads * head_dim channels: scores = keys x queries; or null
  const float* keys;      // packed slivers: per head (rows / heads, head_dim) with `queries`, else (rows, channels)
  const float* key_bias;  // (rows), or null
  const float* values;    // packed slivers (channels, rows)
  DecoderNorm norm;
  const float* look;  // packed strips (channels, rows)
  float* out;         // panels to write
};

// The softmax over the image tokens of one stretch of them, not yet divided by its sum.
// largest, total: (columns); gathered: strips (channels, columns), the sum of weight x image token.
struct DecoderSums {
  float* largest;
  float* total;
  float* gathered;
};

// The weights of `output_upscaling`, one matrix per step, packed slivers: rows (2, 2, width), over the step's input.
struct DecoderUpscaling {
  int64_t channels, middle, narrow;  // C, C / 4, C / 8 in SAM
  const float* enlarge;
  const float* enlarge_bias;  // (4 * middle)
  DecoderNorm norm;
  const float* enlarge_more;
  const float* enlarge_more_bias;  // (4 * narrow)
};

struct DecoderKernels {
  // `rows` scores take this many columns where they lie beside one another.
  int64_t (*columns)(int64_t rows);
  // A left-hand side (rows, depth), element (r, k) at r * row_stride + k * depth_stride, into slivers: rows * depth
  // floats.
  void (*pack_slivers)(const float* a, int64_t rows, int64_t depth, int64_t row_stride, int64_t depth_stride,
                       float* out);
  // A (rows, depth) matrix as the right-hand side (depth, rows): depth * columns(rows) floats.
  void (*pack_strips)(const float* a, int64_t rows, int64_t depth, float* out);
  // Floats of scratch memory for each function.
  int64_t (*pass_scratch)(int64_t channels, int64_t rows);
  int64_t (*upscale_scratch)(int64_t channels, int64_t middle, int64_t narrow, int64_t masks);
  int64_t (*first_look_scratch)(int64_t rows, int64_t head_dim);
  // Image tokens attend to the prompt's, residual, LayerNorm, and the prompt's tokens begin their look at the result.
  void (*pass)(const DecoderPass& pass, int64_t first_panel, int64_t last_panel, const DecoderSums& sums,
               float* scratch);
  // Merges `count` stretches, in order, into out: row r at out + (r / per_head) * head_stride + (r % per_head) *
  // channels. The first stretch's memory is overwritten.
  void (*finish)(const DecoderSums* sums, int64_t count, int64_t channels, int64_t rows, int64_t per_head,
                 int64_t head_stride, float* out);
  // Plain attention of (rows, head_dim) on keys in panels and values (panels * 16, head_dim rounded up to 16): one
  // head. key_stride: floats between panels of keys. out: (rows, head_dim).
  void (*first_look)(const float* q, int64_t rows, int64_t head_dim, const float* keys, int64_t key_stride,
                     const float* values, int64_t length, float* out, float* scratch);
  // Logits of `masks` masks of one prompt: weights[i] (narrow) to out[i] (4 * height, 4 * width), for these panels.
  void (*upscale)(const DecoderUpscaling& upscaling, const float* panels, int64_t first_panel, int64_t last_panel,
                  int64_t height, int64_t width, const float* const* weights, float* const* out, int64_t masks,
                  float* scratch);
};

}  // namespace fastsam
