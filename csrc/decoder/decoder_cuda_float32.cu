// Instantiates the kernels for one element type. Each type has a file of its own because they are slow to compile.
#include "decoder/decoder_cuda_launch.cuh"

namespace fastsam::decoder::cuda {

template void run_first_token_to_image<float>(const FirstTokenToImage&, void*);
template void run_pass<float>(const Pass&, int64_t, void*);
template void run_upscale<float>(const Upscaling&, void*);

}  // namespace fastsam::decoder::cuda
