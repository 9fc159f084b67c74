// Between decoder_cuda.cu, which knows the element type at run time, and the files that hold one type's kernels.
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
