// The non-maximum suppression kernels of one instruction set. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

// Boxes as separate arrays, so that one box is compared with a whole register of others.
template <typename T>
struct BoxColumns {
  const T* x1;
  const T* y1;
  const T* x2;
  const T* y2;
  const T* area;
};

// `overlaps_any` compares boxes in blocks of this many. Columns must be readable for a block past their last box.
constexpr size_t kNmsBlock = 16;

template <typename T>
struct NmsKernelsOf {
  // Sets suppressed[j] = 1 for each box j in [begin, end) whose IoU with box i is above `threshold`; leaves the others
  // as they are.
  void (*suppress)(const BoxColumns<T>& boxes, size_t i, size_t begin, size_t end, T threshold, uint8_t* suppressed);
  // Whether the IoU of `box` (x1, y1, x2, y2) with one of the kept boxes [begin, end) is above `threshold`. Up to
  // kNmsBlock - 1 boxes past `end` may be included.
  bool (*overlaps_any)(const BoxColumns<T>& kept, size_t begin, size_t end, const T* box, T threshold);
};

struct NmsKernels : NmsKernelsOf<float>, NmsKernelsOf<double> {};

}  // namespace fastsam
