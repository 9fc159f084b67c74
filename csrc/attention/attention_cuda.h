// Multi-head attention over a token grid on the GPU: the same operations as in attention.h, on device pointers, started
// on a stream. Calls return before the work is done.
//
// Tensor cores multiply in half precision and add in float32; float32 tensors are multiplied as pairs of TF32 numbers.
// The bias never leaves registers and a few kilobytes of shared memory. It wants compute capability 8.0.
#pragma once

#include <cstdint>

#include "attention/attention.h"
#include "common/dtype.h"

namespace fastsam::attention {

// Channels per head for which there are kernels.
constexpr bool has_positions_kernel(int64_t dim) { return dim == 64 || dim == 80; }
constexpr bool has_bias_kernel(int64_t dim) { return dim == 32; }

// All tensors are of one dtype and begin at multiples of 16 bytes. shared_memory: bytes that each multiprocessor of the
// device has, by which the kernel is chosen. std::invalid_argument for a size without a kernel,
// std::runtime_error where a kernel can't be started.
void with_relative_positions_cuda(const Grid& grid, DType dtype, const void* qkv, const void* padding,
                                  const void* rows_table, const void* columns_table, void* out, int64_t shared_memory,
                                  void* stream);
void with_bias_cuda(const Grid& grid, DType dtype, const void* qkv, const void* padding, const void* bias, void* out,
                    void* stream);

// Relative positions by Hopper's own matrix products: global attention in half precision over grids of 33 to 64
// columns, as many rows as shared memory has room for (at least 64). For code compiled for sm_90a, on such a GPU.
bool has_wgmma_kernel(const Grid& grid, DType dtype);
// std::invalid_argument where has_wgmma_kernel says no.
void with_relative_positions_wgmma(const Grid& grid, DType dtype, const void* qkv, const void* rows_table,
                                   const void* columns_table, void* out, void* stream);

}  // namespace fastsam::attention
