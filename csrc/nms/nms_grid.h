// Non-maximum suppression of many boxes: each is only compared with kept boxes that are near it and of about its size.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam::nms {

// Sets keep[i] = 1 for the boxes that survive among boxes order[0], ..., order[n - 1], which are visited in that order
// and are all of one class. Boxes must be finite. Returns false and sets nothing if n is 2^30 - 1 or more, or if boxes
// are so small or large that the grid's bounds don't hold in T.
template <typename T>
bool suppress_on_grid(const T* boxes, const int64_t* order, size_t n, T threshold, uint8_t* keep);

}  // namespace fastsam::nms
