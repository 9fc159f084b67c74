// Greedy non-maximum suppression.
#pragma once

#include <cstdint>
#include <vector>

namespace fastsam::nms {

// boxes (n, 4) x1 y1 x2 y2; scores (n); classes (n), or null where all boxes are of one class. Gives the indices of the
// kept boxes by score descending, equal scores by index. A box is dropped where its IoU with a kept one of its class is
// above the threshold. Throws std::invalid_argument for boxes that aren't finite and scores that are NaN.
template <typename T>
std::vector<int64_t> nms(const T* boxes, const double* scores, const int64_t* classes, int64_t n, double threshold,
                         int64_t threads);

}  // namespace fastsam::nms
