// A residual sum and the LayerNorm that follows it, on the GPU. Pointers are device pointers to contiguous arrays.
// Calls queue the work on the stream and return before it is done.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace fastsam::norm {

// Rows that have a kernel: up to kMostInPart columns, a multiple of kPart; above that up to kMost columns, a multiple
// of kStep.
constexpr int kStep = 256, kMost = 2048, kPart = 8, kMostInPart = 512;

inline bool has_kernel(int64_t columns) {
  return columns > 0 && (columns <= kMostInPart ? columns % kPart == 0 : columns <= kMost && columns % kStep == 0);
}

// Replaces x (rows, columns) by x + delta, rounded to `dtype`, and delta (rows, columns) by the LayerNorm of that sum,
// with weight (columns) and bias (columns). All four have type `dtype` and start at a multiple of 16 bytes. Throws
// std::invalid_argument if rows of this length have no kernel.
void add_norm_cuda(DType dtype, void* x, void* delta, const void* weight, const void* bias, int64_t rows,
                   int64_t columns, float eps, void* stream);

}  // namespace fastsam::norm
