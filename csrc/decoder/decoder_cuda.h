// The two-way mask decoder's work on image tokens on a GPU: the operations of decoder.h in half precision and in
// float32, on device pointers, started on a stream. Calls return before the work is done.
//
// Tensor cores multiply in half precision and add in float32. What is made of an image token stays in registers and
// shared memory: a warp takes 16 of them (the rows of a product) and the prompt's tokens, 8 of each of 8 heads, are its
// columns, so that a head is one step of 16 channels deep, its softmax is over four lanes, and coefficients are the
// left factor of the next product without leaving their registers. There are kernels for 8 heads of 16 channels and up
// to 8 tokens, `middle` 64 and `narrow` 32: those of every SAM. They want compute capability 8.0.
//
// The floor, for 1,024 prompts of 7 tokens on 4,096 image tokens (three masks each, all of them enlarged). 0.39 GMAC
// per prompt, of which 0.05 in the first pass, 0.10 in the second, 0.24 in the upscaling; padding of 7 tokens to 8 and
// of 114 coefficients to 128 makes it 0.47, that is 0.96 PFLOP: 1.6 ms at the 600 TFLOP/s that mma.sync reaches on an
// H100 or H200. What limits in practice lies beside the tensor cores:
//   memory      1.0 GB of coefficients are written one and a half times and read as often, logits (float32) are 0.8 GB:
//               3.7 GB, 0.9 ms at 4 TB/s
//   L2          for each prompt the image's projections are read again, 20 and 28 KB for 16 tokens, 12.6 GB in all: 2.5
//               ms at 5 TB/s; 1.0 where the
//               blocks' three or two prompts find them in the first-level cache
//   shared      the prompt's matrices are read again for each 16 or 32 tokens, at 128 bytes a clock: 1.5 ms
//   GELU        768 for each image token and prompt, 8 to 16 instructions each: 1.0 to 1.8 ms on all four schedulers
// They overlap as far as warps do that wait for different things; only masks that pass the IoU threshold need the last.
//
// A float is multiplied as two TF32 numbers, in three products (`split` in common/mma.h): six products of half the
// depth for each of half precision, and five other instructions for each of those six, which split what they take.
// Everything that is stored takes twice the room.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/host_device.h"

namespace fastsam::decoder::cuda {

constexpr int kHeads = 8, kDim = 16, kTokens = 8, kMiddle = 64, kNarrow = 32;
constexpr int kRows = kHeads * kTokens;
// Shared memory that a block needs at most, in bytes: in half precision, and of floats.
constexpr int64_t kSharedBytes = 160 * 1024, kSharedBytesOfFloats = 192 * 1024;
// From so many prompts on, blocks have several of them.
constexpr int64_t kManyPrompts = 64;

// Panels of 16 image tokens that one block of a pass works through: the sums over the image are formed by part and
// merged by the caller, so that a prompt's results don't depend on the others of its call. And those of the upscaling,
// which sums up nothing, at most.
constexpr int64_t kPartPanels = 64;
constexpr int kUpscalePanels = 96;
FASTSAM_HD constexpr int64_t parts_of(int64_t panels, int64_t each) { return (panels + each - 1) / each; }

// Steps of 16 coefficients in the upscaling, padded to 128: the most that there can be is 2 * 64 + 2, with 8 tokens, so
// a ninth step then.
FASTSAM_HD constexpr int upscale_steps(int64_t rows) { return rows <= 128 ? 8 : 10; }

// All operands lie as the lanes of a warp hold them (g = lane / 4, t = lane % 4):
//   fragments   16 x 16 elements in 512 bytes, by lane four pairs: row g and row g + 8 of columns 2t, 2t + 1, then the
//               same of columns 2t + 8, 2t + 9; of floats first those of columns 2t, 2t + 1 of all lanes
//   vectors     8 columns x 16 of depth in 256 bytes, by lane column g, depth 2t, 2t + 1, then 2t + 8, 2t + 9
//   matrices    8 columns x 32 of depth in 512 bytes, two of those side by side by lane; of floats one after the other
// Rows of a prompt are `kRows`, 8 for each head; what its tokens don't fill is zero. Pointers are at multiples of 16.
struct FirstLook {
  const void* q;       // (heads, rows, 16), scaled
  const void* keys;    // fragments (panels, heads) of tokens x channels
  const void* values;  // fragments (heads, panels) of channels x tokens
  void* out;           // (heads, rows, 16)
  int64_t rows, panels, length;
};

// See decoder.h for what is computed. The first pass leaves what only the second has null.
struct Pass {
  const void* image;                                   // fragments (panels, 4 or 6, heads) of tokens x channels
  const void* values;                                  // fragments (heads, panels) of channels x tokens
  const float* norms;                                  // (panels, 16); of the second pass (panels, 2, 16)
  const void *keys, *own, *cross;                      // vectors (prompts, heads)
  const void *keys_mix, *own_gram, *cross_mix, *gram;  // matrices (prompts, 8, 2)
  const float *keys_bias, *own_bias, *cross_bias;      // (prompts, kRows)
  const void* look;        // vectors (prompts, heads); of a narrow look the second of two heads has the last 4 columns
  const void* look_mix;    // matrices (prompts, 8 or 4, 2 or 4), of the coefficients but the last two
  const float* look_rest;  // (prompts, 64 or 32, 2): of those
  void* state;             // (prompts, panels, 2 * heads * tokens + 2, 16)
  // Of each part of the image, with weights 2^(score * log2(e) - top):
  float *tops, *totals;  // (prompts, parts, columns), 64 columns, or 32 of a narrow look
  float* seen;           // (prompts, parts, heads, 16, 8)
  float* mixed;          // (prompts, parts, 64, columns); of the second pass 130, the scale's and the one's rows last
  float eps, constant;
  int64_t prompts, tokens, panels, length;
  bool second, narrow;  // narrow: a look of at most 4 tokens, of the second pass alone
};

struct Upscaling {
  const void* state;                     // (prompts, panels, rows, 16)
  const int64_t* asked;                  // (asked_count), in range
  const void* factors;                   // matrices (asked_count, 32, 4 or 5), of `upscale_steps`
  const int64_t* first;                  // (asked_count + 1): where the masks of each begin, in order
  const int64_t* places;                 // (count): where each of them goes in `out`
  const void* weights;                   // (count, 32), in that order
  const void* base;                      // fragments (panels, 16) of tokens x channels
  const float* bias;                     // (256)
  const float *norm_weight, *norm_bias;  // (64)
  float norm_eps;
  const void* enlarge_more;        // matrices (16, 2)
  const float* enlarge_more_bias;  // (128)
  float* out;                      // (count, 4 * height, 4 * width)
  int64_t asked_count, rows, height, width;
};

// float, half or bfloat16. shared_memory: bytes that each multiprocessor of the device has, by which the kernel is
// chosen. std::invalid_argument for another dtype or a size without a kernel, std::runtime_error where a kernel can't
// be started.
void first_look(const FirstLook& look, DType dtype, void* stream);
void pass(const Pass& pass, DType dtype, int64_t shared_memory, void* stream);
void upscale(const Upscaling& upscaling, DType dtype, void* stream);

}  // namespace fastsam::decoder::cuda
