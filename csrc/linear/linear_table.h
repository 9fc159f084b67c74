// What one instruction set offers to linear. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

struct LinearKernels {};

}  // namespace fastsam
