// Instantiates the kernels for one element type. Each type has a file of its own because they are slow to compile.
#include "decoder/decoder_cuda_launch.cuh"

namespace fastsam::decoder::cuda {

template void first_look_of<half>(const FirstLook&, void*);
template void pass_of<half>(const Pass&, int64_t, void*);
template void upscale_of<half>(const Upscaling&, void*);

}  // namespace fastsam::decoder::cuda
