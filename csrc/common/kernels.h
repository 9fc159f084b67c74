// What one instruction set offers. Plain data only: this header is compiled under every set's flags, and an inline
// function in it could reach machines that lack that set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

// Boxes as separate arrays, so that one box meets a whole register of others.
template <typename T>
struct BoxColumns {
  const T* x1;
  const T* y1;
  const T* x2;
  const T* y2;
  const T* area;
};

struct Kernels {
  const char* name;

  // Writes every i in [0, n) where (a[i] != 0) differs from (b[i] != 0) to `out`, ascending; returns how many.
  // `out` has room for n values, and n is below 2^32.
  size_t (*find_changes)(const uint8_t* a, const uint8_t* b, size_t n, uint32_t* out);

  // row[i] ^= above[i].
  void (*xor_rows)(const uint8_t* above, uint8_t* row, size_t n);

  // Sets dead[j] = 1 for each box j in [begin, end) whose IoU with box i is above `threshold`; leaves the others.
  void (*suppress_f32)(const BoxColumns<float>& boxes, size_t i, size_t begin, size_t end, float threshold,
                       uint8_t* dead);
  void (*suppress_f64)(const BoxColumns<double>& boxes, size_t i, size_t begin, size_t end, double threshold,
                       uint8_t* dead);
};

}  // namespace fastsam
