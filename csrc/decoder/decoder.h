// The two-way mask decoder's work on image tokens, many prompts on one image. float32 throughout.
//
// Image tokens lie in panels of 16 (see decoder_table.h): (panels, channels, 16), the last one padded with zeros. What
// belongs to a prompt's tokens lies heads first: (heads, prompts, tokens, width). Results are the same to the bit for
// every number of threads, and a prompt's results do not depend on the prompts beside it.
#pragma once

#include <cstdint>

#include "decoder/decoder_table.h"

namespace fastsam::decoder {

// Image tokens attend to each prompt's tokens, then residual and LayerNorm; the prompt's tokens attend to the result.
// Scale factors and projections are already in the operands. Biases of `look` drop out of its softmax.
struct Pass {
  int64_t prompts, heads, tokens, channels;
  int64_t length;         // image tokens
  const float* source;    // panels of the first prompt
  int64_t source_stride;  // floats to those of the next: 0 where they share the image's; `source` may be `out`
  const float* position;  // panels
  // The scores are keys . (source + position) + key_bias with keys (heads, prompts, tokens, channels); or, with panels
  // of heads * head_dim `queries`, keys . queries per head with keys (heads, prompts, tokens, head_dim).
  const float* queries;
  int64_t head_dim;
  const float* keys;
  const float* key_bias;  // (heads, prompts, tokens); unused with `queries`
  const float* values;    // (heads, prompts, tokens, channels)
  DecoderNorm norm;
  const float* look;  // (heads, prompts, tokens, channels): scores = look . (out + position)
  float* out;         // (prompts, panels, channels, 16)
  float* gathered;    // (heads, prompts, tokens, channels): softmax over the image of the scores, times out
};
void image_pass(const Pass& pass, int64_t threads);

// Attention of q (heads, rows, head_dim) to the keys and values of all image tokens.
// keys: panels of heads * head_dim; values: (heads, panels * 16, head_dim rounded up to 16), zeros beyond.
void first_look(const float* q, const float* keys, const float* values, int64_t heads, int64_t rows, int64_t head_dim,
                int64_t length, float* out, int64_t threads);

// Low-resolution logits of `count` masks: image tokens of prompt index[i], weighed by weights[i] (narrow), to
// out[i] (4 * height, 4 * width). Step matrices are row-major: enlarge (4 * middle, channels), enlarge_more
// (4 * narrow, middle), rows by sub-cell (2, 2) first. Throws std::invalid_argument for an index outside [0, prompts).
struct Upscaling {
  int64_t prompts, channels, middle, narrow, height, width, count;
  const float* tokens;   // (prompts, panels, channels, 16)
  const int64_t* index;  // (count)
  const float* weights;  // (count, narrow)
  const float* enlarge;
  const float* enlarge_bias;
  DecoderNorm norm;
  const float* enlarge_more;
  const float* enlarge_more_bias;
  float* out;
};
void upscale(const Upscaling& upscaling, int64_t threads);

}  // namespace fastsam::decoder
