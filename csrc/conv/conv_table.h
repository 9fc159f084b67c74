// What one instruction set offers to conv. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

struct ConvKernels {};

}  // namespace fastsam
