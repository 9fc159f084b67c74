// Greedy non-maximum suppression on the GPU. All pointers are device pointers. Calls queue the work on the stream and
// return before it is done.
#pragma once

#include <cstdint>

namespace fastsam::nms {

// Bits of status[1], which tell what is wrong with the input.
enum Fault : int64_t { kBoxNotFinite = 1, kScoreNaN = 2 };

// Bytes of scratch memory that nms_cuda needs for n boxes of T: 4 * sizeof(T) and a bit per box, and up to 2 MiB.
template <typename T>
int64_t scratch_bytes(int64_t n);

// boxes (n, 4): x1, y1, x2, y2, starting at a multiple of 16 bytes. order (n): box indices, best first; with classes,
// class by class, and best first within each. classes (n): the class of each box in this order, ascending, or null if
// all boxes are of one class. max_score: the highest score, or NaN if any score is NaN; a double if `score_is_double`,
// else a float. threshold: from 0 to 1. scratch: scratch_bytes(n) bytes, starting at a multiple of 16 bytes.
//
// Writes to kept (n) the positions in `order` of the kept boxes, ascending, and their number to status[0]. status[1]
// receives bits of Fault; if it isn't 0, the other results are meaningless. The caller sets both values of `status` to
// 0 beforehand.
template <typename T>
void nms_cuda(const T* boxes, const int64_t* order, const int64_t* classes, int64_t n, const void* max_score,
              bool score_is_double, double threshold, void* scratch, int64_t* kept, int64_t* status, void* stream);

}  // namespace fastsam::nms
