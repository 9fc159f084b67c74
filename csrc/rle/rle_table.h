// What one instruction set offers to RLE. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

struct RleKernels {
  // Writes every i in [0, n) where (a[i] != 0) differs from (b[i] != 0) to `out`, ascending; returns how many.
  // `out` has room for n values, and n is below 2^32.
  size_t (*find_changes)(const uint8_t* a, const uint8_t* b, size_t n, uint32_t* out);

  // row[i] ^= above[i].
  void (*xor_rows)(const uint8_t* above, uint8_t* row, size_t n);

  // The sum of the lengths of [top_a, bottom_a) and [top_b, bottom_b) in common; it fits 31 bits.
  int32_t (*overlap)(const int32_t* top_a, const int32_t* bottom_a, const int32_t* top_b, const int32_t* bottom_b,
                     size_t n);
};

}  // namespace fastsam
