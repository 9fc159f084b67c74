// A residual sum and the LayerNorm that follows it, on the GPU. Pointers are device pointers to contiguous arrays.
// Calls queue the work on the stream and return before it is done.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace fastsam::norm {

// Rows that have a kernel: up to kMaxPartialColumns columns, a multiple of kPartialStep; above that up to kMaxColumns
// columns, a multiple of kColumnStep.
constexpr int kColumnStep = 256, kMaxColumns = 2048, kPartialStep = 8, kMaxPartialColumns = 512;

inline bool has_kernel(int64_t columns) {
  return columns > 0 && (columns <= kMaxPartialColumns ? columns % kPartialStep == 0
                                                       : columns <= kMaxColumns && columns % kColumnStep == 0);
}

// Replaces x (rows, columns) by x + delta, rounded to `dtype`, and delta (rows, columns) by the LayerNorm of that sum,
// with weight (columns) and bias (columns). All four have type `dtype` and start at a multiple of 16 bytes. Throws
// std::invalid_argument if rows of this length have no kernel.
void add_norm_cuda(DType dtype, void* x, void* delta, const void* weight, const void* bias, int64_t rows,
                   int64_t columns, float eps, void* stream);

}  // namespace fastsam::norm
