// Instantiates the kernels for one element type. Each type has a file of its own because they are slow to compile.
#include "decoder/decoder_cuda_launch.cuh"

namespace fastsam::decoder::cuda {

template void run_first_token_to_image<bfloat16>(const FirstTokenToImage&, void*);
template void run_pass<bfloat16>(const Pass&, int64_t, void*);
template void run_upscale<bfloat16>(const Upscaling&, void*);

}  // namespace fastsam::decoder::cuda
