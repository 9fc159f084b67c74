// Instantiates the kernels for one element type. Each type has a file of its own because they are slow to compile.
#include "attention/attention_cuda_launch.cuh"

namespace fastsam::attention {

template void launch_with_relative_positions<bfloat16>(const Grid&, const Tensors<bfloat16>&, int64_t, void*);
template void launch_with_bias<bfloat16>(const Grid&, const Tensors<bfloat16>&, void*);

}  // namespace fastsam::attention
