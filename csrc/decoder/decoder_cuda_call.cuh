// The interface between decoder_cuda.cu, which dispatches on the element type at run time, and the files that
// instantiate the kernels for one type (float, half or bfloat16).
#pragma once

#include "decoder/decoder_cuda.h"

namespace fastsam::decoder::cuda {

template <typename T>
void run_first_token_to_image(const FirstTokenToImage& attention, void* stream);
template <typename T>
void run_pass(const Pass& pass, int64_t shared_memory, void* stream);
template <typename T>
void run_upscale(const Upscaling& upscaling, void* stream);

}  // namespace fastsam::decoder::cuda
