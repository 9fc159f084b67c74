// The run-length kernels of one instruction set. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

struct RleKernels {
  // Writes every i in [0, n) for which (a[i] != 0) differs from (b[i] != 0) to `out`, ascending. Returns their number.
  // `out` must have room for n values; n must be below 2^32.
  size_t (*find_changes)(const uint8_t* a, const uint8_t* b, size_t n, uint32_t* out);

  // row[i] ^= above[i].
  void (*xor_rows)(const uint8_t* above, uint8_t* row, size_t n);

  // The total length of the intersections of [top_a[i], bottom_a[i]) and [top_b[i], bottom_b[i]). It must be below
  // 2^31.
  int32_t (*overlap)(const int32_t* top_a, const int32_t* bottom_a, const int32_t* top_b, const int32_t* bottom_b,
                     size_t n);
};

}  // namespace fastsam
