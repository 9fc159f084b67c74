// Instantiates the kernels for one element type. Each type has a file of its own because they are slow to compile.
#include "decoder/decoder_cuda_launch.cuh"

namespace fastsam::decoder::cuda {

template void first_look_of<bfloat16>(const FirstLook&, void*);
template void pass_of<bfloat16>(const Pass&, int64_t, void*);
template void upscale_of<bfloat16>(const Upscaling&, void*);

}  // namespace fastsam::decoder::cuda
