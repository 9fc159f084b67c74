// Instantiates the kernels for one element type. Each type has a file of its own because they are slow to compile.
#include "attention/attention_cuda_launch.cuh"

namespace fastsam::attention {

template void with_relative_positions_of<half>(const Grid&, const Tensors<half>&, int64_t, void*);
template void with_bias_of<half>(const Grid&, const Tensors<half>&, void*);

}  // namespace fastsam::attention
