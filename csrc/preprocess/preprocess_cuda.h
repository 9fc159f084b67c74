// Preprocessing on the GPU, with the same results as preprocess.h. Pointers are device pointers, except mean and std.
// Calls queue the work on the stream and return before it is done.
#pragma once

#include <cstdint>

#include "preprocess/preprocess.h"

namespace fastsam::preprocess {

// Bytes of scratch memory that the functions below need to resize an image of (in_height, in_width) to (height, width).
// Throws std::invalid_argument for sides below 1 or above 2^23.
int64_t scratch_bytes(int64_t in_height, int64_t in_width, int64_t height, int64_t width);

// Like `resize` and `normalise` in preprocess.h. scratch: scratch_bytes() bytes, starting at a multiple of 16 bytes.
void resize_cuda(const ImageView& image, int64_t height, int64_t width, void* scratch, uint8_t* out, void* stream);
void normalise_cuda(const ImageView& image, int64_t height, int64_t width, int64_t size, const float* mean,
                    const float* std, bool channels_last, void* scratch, float* out, void* stream);

}  // namespace fastsam::preprocess
