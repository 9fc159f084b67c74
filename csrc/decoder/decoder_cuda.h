// The part of the two-way mask decoder that works on image tokens, on the GPU: the operations of decoder.h in float16,
// bfloat16 and float32, on device pointers, launched asynchronously on a stream.
//
// Tensor cores multiply 16-bit elements and accumulate in float32. Intermediate results of image tokens stay in
// registers and shared memory. In a product, a warp's rows are 16 image tokens and its columns the 8 prompt tokens of
// one of 8 heads. So one head is one step of depth 16, the softmax over a head's tokens is over four lanes, and
// coefficients become the left factor of the next product without leaving their registers. There are kernels for 8
// heads of 16 channels, up to 8 tokens, `middle` = 64 and `few_queries` = 32: the sizes of every SAM. They need compute
// capability 8.0; the caller checks it.
//
// Lower bounds on time, for 1,024 prompts of 7 tokens on 4,096 image tokens, with three masks each, all upscaled. A
// prompt needs 0.39 GMAC: 0.05 in the first pass, 0.10 in the second, 0.24 in the upscaling. Padding 7 tokens to 8 and
// 114 coefficients to 128 makes it 0.47, or 0.96 PFLOP in all: 1.6 ms at the 600 TFLOP/s that mma.sync reaches on an
// H100 or H200. In practice, other resources than the tensor cores limit the speed:
//   memory      1.0 GB of coefficients are written one and a half times and read as often, logits (float32) are 0.8 GB:
//               3.7 GB, 0.9 ms at 4 TB/s
//   L2          each prompt reads the image's projections again, 20 and 28 KB per 16 tokens, 12.6 GB in all: 2.5 ms at
//               5 TB/s, or 1.0 ms if the three or two prompts of a block find them in the first-level cache
//   shared      the prompt's matrices are read again for each 16 or 32 tokens, at 128 bytes per clock: 1.5 ms
//   GELU        768 per image token and prompt, 8 to 16 instructions each: 1.0 to 1.8 ms on all four schedulers
// These overlap to the extent that warps wait for different resources. The last applies only to masks that pass the IoU
// threshold.
//
// A float32 is multiplied as two TF32 numbers, in three products (`split_tf32` in common/mma.h). Each 16-bit product
// becomes six of half the depth, and each of those six needs five more instructions to split its factors. Everything
// stored takes twice the memory.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/host_device.h"

namespace fastsam::decoder::cuda {

constexpr int kHeads = 8, kDim = 16, kTokens = 8, kMiddle = 64, kNarrow = 32;
constexpr int kRows = kHeads * kTokens;
// Upper bounds on a block's shared memory in bytes, for 16-bit elements and for float32.
constexpr int64_t kSharedBytes = 160 * 1024, kSharedBytesFloat32 = 192 * 1024;
// Number of prompts from which on a block of a pass processes several.
constexpr int64_t kManyPrompts = 64;

// kPartPanels: panels of 16 image tokens per block of a pass. Sums over the image are formed per part of this fixed
// size and merged by the caller, so that a prompt's results don't depend on other prompts of the call. kUpscalePanels:
// the maximum for the upscaling, whose size may vary because it forms no sums over the image.
constexpr int64_t kPartPanels = 64;
constexpr int kUpscalePanels = 96;
FASTSAM_HD constexpr int64_t count_parts(int64_t panels, int64_t part_panels) {
  return (panels + part_panels - 1) / part_panels;
}

// Number of steps of 16 coefficients in the upscaling. Coefficients are padded to 128; with 8 tokens there are
// 2 * 64 + 2 = 130, which need a ninth step, and kernels take steps in pairs.
FASTSAM_HD constexpr int upscale_steps(int64_t rows) { return rows <= 128 ? 8 : 10; }

// Operands are stored in the order in which the lanes of a warp hold them (g = lane / 4, t = lane % 4). Sizes are for
// 16-bit elements; float32 takes twice as much:
//   fragments   16 x 16 elements in 512 bytes, four pairs per lane: rows g and g + 8 of columns 2t, 2t + 1, then rows g
//               and g + 8 of columns 2t + 8, 2t + 9; in float32, columns 2t, 2t + 1 of all lanes come first
//   vectors     8 columns x depth 16 in 256 bytes, two pairs per lane: column g, depth 2t, 2t + 1, then 2t + 8, 2t + 9
//   matrices    8 columns x depth 32 in 512 bytes: two such vectors, interleaved by lane; in float32 consecutive
// A prompt has `kRows` rows, 8 for each head; rows beyond its tokens are zero. Pointers are aligned to 16 bytes.

// The first block's attention of tokens to the image: first_token_to_image of decoder.h.
struct FirstTokenToImage {
  const void* q;       // (heads, rows, 16), scaled
  const void* keys;    // fragments (panels, heads) of tokens x channels
  const void* values;  // fragments (heads, panels) of channels x tokens
  void* out;           // (heads, rows, 16)
  int64_t rows, panels, length;
};

// The operands of either pass; see decoder.h for what is computed. Operands that only the second pass has are null in
// the first.
struct Pass {
  const void* image;                                     // fragments (panels, 4 or 6, heads) of tokens x channels
  const void* values;                                    // fragments (heads, panels) of channels x tokens
  const float* norms;                                    // (panels, 16); in the second pass (panels, 2, 16)
  const void *keys, *first_cross, *cross;                // vectors (prompts, heads)
  const void *keys_mix, *first_gram, *cross_mix, *gram;  // matrices (prompts, 8, 2)
  const float *keys_bias, *first_bias, *cross_bias;      // (prompts, kRows)
  const void* queries;            // vectors (prompts, heads); with few queries the odd heads use columns 4 to 7
  const void* queries_mix;        // matrices (prompts, 8 or 4, 2 or 4), for all coefficients but the last two
  const float* queries_mix_last;  // (prompts, 64 or 32, 2), for the last two coefficients
  void* state;                    // (prompts, panels, 2 * heads * tokens + 2, 16)
  // Output: partial sums over each part of the image, with weights 2^(score * log2(e) - max_score).
  float *max_scores, *weight_sums;  // (prompts, parts, columns), 64 columns, or 32 with few queries
  float* value_sums;                // (prompts, parts, heads, 16, 8)
  float* coefficient_sums;          // (prompts, parts, 64, columns); in the second pass 130 rows, those of the last two
                                    // coefficients last
  float eps, constant;
  int64_t prompts, tokens, panels, length;
  bool second, few_queries;  // few_queries: queries of at most 4 tokens, only in the second pass
};

// The upscaling of decoder.h, with masks sorted by prompt.
struct Upscaling {
  const void* state;                     // (prompts, panels, rows, 16)
  const int64_t* selected;               // (selected_count), prompts; the caller has checked the range
  const void* factors;                   // matrices (selected_count, 32, 4 or 5), for `upscale_steps` / 2
  const int64_t* mask_offsets;           // (selected_count + 1), the first mask of each prompt, ascending
  const int64_t* out_indices;            // (count), the index in `out` of each mask
  const void* weights;                   // (count, 32), sorted like `out_indices`
  const void* base;                      // fragments (panels, 16) of tokens x channels
  const float* bias;                     // (256)
  const float *norm_weight, *norm_bias;  // (64)
  float norm_eps;
  const void* conv2;        // matrices (16, 2)
  const float* conv2_bias;  // (128)
  float* out;               // (count, 4 * height, 4 * width)
  int64_t selected_count, rows, height, width;
};

// Launch the kernels. `shared_memory` is the device's shared memory per multiprocessor in bytes, which decides how many
// prompts a block processes. Throws std::invalid_argument for a size without a kernel, std::runtime_error if a launch
// fails.
void first_token_to_image(const FirstTokenToImage& queries, DType dtype, void* stream);
void pass(const Pass& pass, DType dtype, int64_t shared_memory, void* stream);
void upscale(const Upscaling& upscaling, DType dtype, void* stream);

}  // namespace fastsam::decoder::cuda
