// Multi-head attention over a token grid on the GPU: the operations of attention.h on device pointers, launched
// asynchronously on a stream.
//
// Tensor cores multiply half or bfloat16 and accumulate in float32; each float32 number is multiplied as a pair of TF32
// numbers. Position biases are computed on the fly in registers and a few kilobytes of shared memory. The kernels need
// compute capability 8.0; the caller checks it.
#pragma once

#include <cstdint>

#include "attention/attention.h"
#include "common/dtype.h"

namespace fastsam::attention {

// Whether there is a kernel for this number of channels per head.
constexpr bool has_positions_kernel(int64_t dim) { return dim == 64 || dim == 80; }
constexpr bool has_bias_kernel(int64_t dim) { return dim == 32; }

// All tensors have the same dtype and are aligned to 16 bytes. `padding` may be null if no window extends beyond the
// grid. `shared_memory` is the device's shared memory per multiprocessor in bytes, which decides between kernels.
// Throws std::invalid_argument for a size without a kernel, std::runtime_error if a launch fails.
void with_relative_positions_cuda(const Grid& grid, DType dtype, const void* qkv, const void* padding,
                                  const void* rel_pos_h, const void* rel_pos_w, void* out, int64_t shared_memory,
                                  void* stream);
void with_bias_cuda(const Grid& grid, DType dtype, const void* qkv, const void* padding, const void* bias, void* out,
                    void* stream);

// Relative positions with Hopper's wgmma instructions. Return whether that kernel covers the call: global attention in
// float16 or bfloat16, over grids of 33 to 64 columns and as many rows as fit shared memory (at least 64). The caller
// must also make sure that the module was compiled for sm_90a and that the GPU is one.
bool has_wgmma_kernel(const Grid& grid, DType dtype);
// Throws std::invalid_argument if has_wgmma_kernel returns false.
void with_relative_positions_wgmma(const Grid& grid, DType dtype, const void* qkv, const void* rel_pos_h,
                                   const void* rel_pos_w, void* out, void* stream);

}  // namespace fastsam::attention
