// Masks as words of bits, the first pixel in the lowest bit: what the CPU and the GPU share of finding their runs.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace fastsam::rle {

// Where a pixel differs from the one before it; `before` (0 or 1) is the one before the word.
FASTSAM_HD inline uint64_t changes_in(uint64_t word, uint64_t before) { return word ^ (word << 1 | before); }

}  // namespace fastsam::rle
