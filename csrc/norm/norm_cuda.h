// A residual sum and the LayerNorm that follows it, on the GPU. Pointers are device pointers, calls return before the
// work is done.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace fastsam::norm {

// Rows have a multiple of kStep channels, kMost at most; short ones, of kMostInPart at most, a multiple of kPart.
constexpr int kStep = 256, kMost = 2048, kPart = 8, kMostInPart = 512;

inline bool has_kernel(int64_t columns) {
  return columns > 0 && (columns <= kMostInPart ? columns % kPart == 0 : columns <= kMost && columns % kStep == 0);
}

// x (rows, columns) becomes x + delta, rounded to its type, and delta the LayerNorm of that. weight (columns), bias
// (columns); all of one type, and each at a multiple of 16 bytes.
void add_norm_cuda(DType dtype, void* x, void* delta, const void* weight, const void* bias, int64_t rows,
                   int64_t columns, float eps, void* stream);

}  // namespace fastsam::norm
