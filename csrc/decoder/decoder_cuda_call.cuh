// The interface between decoder_cuda.cu, which dispatches on the element type at run time, and the files that
// instantiate the kernels for one type (float, half or bfloat16).
#pragma once

#include "decoder/decoder_cuda.h"

namespace fastsam::decoder::cuda {

template <typename T>
void first_look_of(const FirstLook& look, void* stream);
template <typename T>
void pass_of(const Pass& pass, int64_t shared, void* stream);
template <typename T>
void upscale_of(const Upscaling& upscaling, void* stream);

}  // namespace fastsam::decoder::cuda
