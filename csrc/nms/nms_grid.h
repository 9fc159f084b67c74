// Non-maximum suppression of many boxes: each meets only those kept boxes that are near it and of about its size.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam::nms {

// Sets keep[i] for the boxes that survive among boxes order[0], order[1], ..., which are visited in that order. All
// are of one class. False, and nothing is set, where boxes are so small or large that the bounds behind the grid do
// not hold in T.
template <typename T>
bool settle_on_grid(const T* boxes, const int64_t* order, size_t n, T threshold, uint8_t* keep);

}  // namespace fastsam::nms
