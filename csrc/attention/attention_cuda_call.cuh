// The interface between attention_cuda.cu, which dispatches on the element type at run time, and the files that
// instantiate the kernels for one type.
#pragma once

#include "attention/attention_cuda.h"

namespace fastsam::attention {

// The tensors of a call, laid out as in attention.h. Either both tables or `bias` are null.
template <typename T>
struct Tensors {
  const T *qkv, *padding, *rel_pos_h, *rel_pos_w, *bias;
  T* out;
};

// Instantiated for half, bfloat16 and float. `shared_memory` is the shared memory per multiprocessor in bytes.
template <typename T>
void launch_with_relative_positions(const Grid& grid, const Tensors<T>& tensors, int64_t shared_memory, void* stream);
template <typename T>
void launch_with_bias(const Grid& grid, const Tensors<T>& tensors, void* stream);

}  // namespace fastsam::attention
