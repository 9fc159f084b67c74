// Masks as words of bits, the first pixel in the lowest bit. Shared by the CPU and the GPU to find runs.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace fastsam::rle {

// The bits whose pixel differs from the one before it. before: the pixel before the word, 0 or 1.
FASTSAM_HD inline uint64_t changes_in(uint64_t word, uint64_t before) { return word ^ (word << 1 | before); }

}  // namespace fastsam::rle
