// Greedy non-maximum suppression of boxes on the CPU.
#pragma once

#include <cstdint>
#include <vector>

namespace fastsam::nms {

// Returns the indices of the kept boxes, by descending score and for equal scores by index. A box is dropped if its IoU
// with a kept box of its class is above `threshold`. boxes (n, 4) are x1, y1, x2, y2; scores (n); classes (n), or null
// if all boxes are of one class. Throws std::invalid_argument for boxes that aren't finite and scores that are NaN.
template <typename T>
std::vector<int64_t> nms(const T* boxes, const double* scores, const int64_t* classes, int64_t n, double threshold,
                         int64_t threads);

}  // namespace fastsam::nms
