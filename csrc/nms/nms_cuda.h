// Greedy non-maximum suppression on the GPU. Pointers are device pointers; calls return before the work is done.
#pragma once

#include <cstdint>

namespace fastsam::nms {

// Bits of the second value of `status`.
enum Fault : int64_t { kBoxNotFinite = 1, kScoreNaN = 2 };

// Memory that nms_cuda works in, for n boxes of T: some 40 bytes per box, and 2 MiB.
template <typename T>
int64_t scratch_bytes(int64_t n);

// boxes (n, 4) x1 y1 x2 y2, at a multiple of 16 bytes. order (n): box numbers, best first, and where there are classes,
// class by class; classes (n): that of each box in this order, ascending, or null where all boxes are of one. best: the
// first of all scores, descending, where a NaN comes before all others; a double if `wide`, else a float.
//
// Gives the places in `order` of the boxes that are kept, ascending, in `kept` (n), of which the first status[0] count.
// status[1] holds the faults that were found, with which the rest means nothing; both values are 0 before.
template <typename T>
void nms_cuda(const T* boxes, const int64_t* order, const int64_t* classes, int64_t n, const void* best, bool wide,
              double threshold, void* scratch, int64_t* kept, int64_t* status, void* stream);

}  // namespace fastsam::nms
