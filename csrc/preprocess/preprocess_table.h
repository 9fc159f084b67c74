// What one instruction set offers to preprocess. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

struct PreprocessKernels {};

}  // namespace fastsam
