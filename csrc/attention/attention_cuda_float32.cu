// Instantiates the kernels for one element type. Each type has a file of its own because they are slow to compile.
#include "attention/attention_cuda_launch.cuh"

namespace fastsam::attention {

template void launch_with_relative_positions<float>(const Grid&, const Tensors<float>&, int64_t, void*);
template void launch_with_bias<float>(const Grid&, const Tensors<float>&, void*);

}  // namespace fastsam::attention
