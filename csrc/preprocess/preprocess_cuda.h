// Preprocessing on the GPU. Pointers are device pointers but for mean and std; calls return before the work is done.
#pragma once

#include <cstdint>

#include "preprocess/preprocess.h"

namespace fastsam::preprocess {

// Memory that the functions below work in, for pictures of (in_height, in_width). std::invalid_argument for sides of 0
// or above 2^23.
int64_t scratch_bytes(int64_t in_height, int64_t in_width, int64_t height, int64_t width);

// As `resize` and `normalise` (preprocess.h), with `scratch` of scratch_bytes(), at a multiple of 16.
void resize_cuda(const Picture& picture, int64_t height, int64_t width, void* scratch, uint8_t* out, void* stream);
void normalise_cuda(const Picture& picture, int64_t height, int64_t width, int64_t size, const float* mean,
                    const float* std, bool channels_last, void* scratch, float* out, void* stream);

}  // namespace fastsam::preprocess
