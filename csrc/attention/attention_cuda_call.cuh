// Between attention_cuda.cu, which knows the element type at run time, and the files that hold one type's kernels.
#pragma once

#include "attention/attention_cuda.h"

namespace fastsam::attention {

// What a call brings. The tables are null where there is a bias, and the other way round.
template <typename T>
struct Tensors {
  const T *qkv, *padding, *rows_table, *columns_table, *bias;
  T* out;
};

// For half, bfloat16 and float. `shared` is a multiprocessor's shared memory, in bytes.
template <typename T>
void with_relative_positions_of(const Grid& grid, const Tensors<T>& tensors, int64_t shared, void* stream);
template <typename T>
void with_bias_of(const Grid& grid, const Tensors<T>& tensors, void* stream);

}  // namespace fastsam::attention
