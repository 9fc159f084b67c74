// Run lengths on the GPU. Pointers are device pointers, lists as in rle.h; calls return before the work is done.
#pragma once

#include <cstdint>

namespace fastsam::rle {

// What is wrong with runs, in the order in which it is looked for; kFine where nothing is.
enum RunsError : int32_t { kBadOffsets = 0, kBadLength = 1, kBadSum = 2, kFine = 0x7f7f7f7f };

// Foreground pixels of n masks, areas (n). *error becomes the first RunsError that holds for one of them; then areas
// mean nothing.
void area_cuda(const int64_t* counts, int64_t size, const int64_t* offsets, int64_t n, int64_t* areas, int32_t* error,
               void* stream);

}  // namespace fastsam::rle
